"""What a statement wrote, how many rows, and whether a driver's connection is in a transaction, as drivers tell it."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sized
from typing import Any

from ..border import is_foreign, settle
from ..record.sql import text_write
from .reading import read

_IN_TRANSACTION = 1  # a flag of MySQL's and MariaDB's protocol
_PAGE = 1000  # rows of one INSERT that SQLAlchemy makes of many; the count of a driver is of the last one


def targets(context: Any) -> Iterable[tuple[Any, str]]:
    """The tables that a statement says it writes to, and the verbs."""
    compiled = context.compiled
    if context.is_crud:
        verb = "inserted" if context.isinsert else "updated" if context.isupdate else "deleted"
        statement = compiled.statement
        yield getattr(statement, "table", None), verb
    elif context.is_text:
        found = text_write(context.statement)
        if found is not None:
            yield found
    if compiled is not None and getattr(compiled, "ctes", None):
        for cte in compiled.ctes:
            element = cte.element
            if getattr(element, "is_dml", False):
                verb = "inserted" if element.is_insert else "updated" if element.is_update else "deleted"
                yield element.table, verb


def count_of(context: Any, result: Any) -> int | None:
    """Rows or objects that a statement wrote; None where nobody says."""
    if not context.is_crud:
        return _of_text(context, result)
    sets = len(context.compiled_parameters)
    given = sets if sets > 1 else _given(context)
    returned = _returned(context)
    if returned is not None:
        return returned if returned or given is None else 0
    rows = _rowcount(context, result)
    if rows is None:
        return given
    if rows == 0 and (sets > _PAGE or _is_waiting(context)):
        return given
    return given if rows and given is not None and context.isinsert else rows  # MySQL counts a replaced row twice


def _of_text(context: Any, result: Any) -> int | None:
    rows = _rowcount(context, result)
    if rows == 0 and _is_waiting(context):
        return None
    if rows and (not context.is_text or (has_result(context) and _begins_with(context.statement))):
        return None  # the rows of the outer statement
    return rows


def _begins_with(statement: str) -> bool:
    return statement.lstrip()[:4].upper() == "WITH"


def _given(context: Any) -> int | None:
    """Rows that a single INSERT was given; None of an UPDATE, a DELETE and an INSERT from a SELECT."""
    statement = context.compiled.statement
    if not context.isinsert or getattr(statement, "select", None) is not None:
        return None
    return sum(len(values) for values in read.values(statement) or ()) or 1


def _returned(context: Any) -> int | None:
    """Rows of RETURNING that SQLAlchemy has fetched already."""
    if not context.isinsert:
        return None
    for rows in (read.inserted(context), context.returned_default_rows):
        if rows is not None:
            return len(rows)
    return None


class _Silent:
    """A count that can't be had is none: there is nobody to tell."""

    @staticmethod
    def failed(hook: str) -> None: ...


def patch_result(original: Any) -> Any:
    """``DefaultExecutionContext._setup_dml_or_text_result``: an INSERT's count, before its cursor is closed.

    Private: the public way to keep that number is an option that changes what the program sees.
    """

    def _setup_dml_or_text_result(self: Any) -> Any:
        try:
            if self.isinsert:
                try:
                    self._sessionwatch_rows = self.cursor.rowcount
                except Exception as error:
                    if is_foreign(error):
                        raise
                    self._sessionwatch_rows = None
            return original(self)
        except BaseException as crossed:
            late = settle(crossed, original, _Silent, "the count of an INSERT")
            if late is None:
                raise
            return late(self)

    return _setup_dml_or_text_result


def _rowcount(context: Any, result: Any) -> int | None:
    try:
        rows = context._sessionwatch_rows if context.isinsert else result.rowcount
    except Exception as error:  # a cursor that is closed already
        if is_foreign(error):
            raise
        return None
    return rows if isinstance(rows, int) and rows >= 0 else _held(context)


def _held(context: Any) -> int | None:
    """Rows of RETURNING that an asyncio driver's cursor holds: aiosqlite's has no other count in SQLAlchemy 2.0."""
    if not has_result(context) or read.streams(context.cursor):
        return None
    fetched = read.fetched(context.cursor)
    return len(fetched) if isinstance(fetched, Sized) else None


def has_result(context: Any) -> bool:
    """Whether a statement brings rows."""
    try:
        return context.cursor.description is not None
    except Exception as error:
        if is_foreign(error):
            raise
        return True


def _is_waiting(context: Any) -> bool:
    """Whether a count of 0 may only mean that the rows of RETURNING have not been fetched yet."""
    if not has_result(context):
        return False
    cursor = context.cursor
    fetched = read.fetched(cursor)  # SQLAlchemy's cursor over an asyncio driver's: it holds all of them
    if isinstance(fetched, Sized):
        return len(fetched) > 0
    if type(cursor).__module__ != "sqlite3":
        return False
    # SQLite's driver counts when the last row was fetched; its cursor lets go of a statement that has no row.
    return any(type(one).__name__ == "Statement" for one in gc.get_referents(cursor))


# -- the driver's own connection -------------------------------------------------------------------------


def driver_is_idle(connection: Any) -> bool:
    """Whether the driver's connection is in no transaction: somebody has ended it there. False if it does not say."""
    fairy = read.lent(connection)
    driver = getattr(fairy, "driver_connection", None)
    if driver is None:
        return False
    if not getattr(read.pooled(fairy), "in_use", True):  # its user is being collected: the pool was faster to undo
        return False
    return not in_transaction(driver)


def in_transaction(driver: Any) -> bool:
    """Also where the driver does not say: closed, or of another kind than its names say."""
    module = type(driver).__module__.partition(".")[0]
    try:
        if module in ("sqlite3", "aiosqlite"):
            return bool(driver.in_transaction)
        if module in ("psycopg", "psycopg2"):
            return int(driver.info.transaction_status) != 0
        if module == "asyncpg":
            return bool(driver.is_in_transaction())
        if module in ("pymysql", "aiomysql", "asyncmy"):
            return bool(driver.server_status & _IN_TRANSACTION)  # as of the last statement without rows
    except Exception as error:
        if is_foreign(error):
            raise
    return True
