"""Foreign keys that tables declare and SQLite does not enforce, noticed at the first flush.

Nothing is asked of a database. Whether SQLite enforces foreign keys is a flag of the driver's connection: it is
looked at once per engine, without a statement where Python has a function for it (3.12), by a pragma that
reads no page and takes no lock where it has not, and not at all where the connection lives in another thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..frames import callsite
from ..record.events import Misconfigured
from .reading import entries

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session

    from .makers import Makers


def after_flush(makers: Makers) -> Callable[[Any, Any], None]:
    """The first flush on a SQLite engine of tables that declare foreign keys."""

    def flushed(session: Session, context: Any) -> None:
        try:
            for connection in _connections(session):
                dialect = connection.dialect
                if dialect.name != "sqlite" or makers.knows(dialect, "foreign-keys"):
                    continue
                if not _declares_foreign_keys(context) or not makers.first(dialect, "foreign-keys"):
                    continue
                if enforced(connection) is False:
                    event = Misconfigured(
                        "foreign-keys",
                        dialect.driver,
                        makers.made.get(dialect),
                        callsite.mark(sys._getframe(1)),
                        None,
                    )
                    makers.tracker.emit(event)
        except Exception:
            makers.tracker.failed("makers.after_flush")

    return flushed


def _connections(session: Session) -> set[Any]:
    return {entry[0] for entry in entries(session)}


def _declares_foreign_keys(context: Any) -> bool:
    known = {state.manager.mapper.local_table.metadata for state in context.states}
    return any(table.foreign_keys for metadata in known for table in list(metadata.tables.values()))


def enforced(connection: Connection) -> bool | None:
    """Whether SQLite enforces foreign keys on a connection; None where that can't be known."""
    raw = connection.connection.dbapi_connection
    sqlite3 = sys.modules.get("sqlite3")  # many programs use another database, and nothing is imported at the exit
    if sqlite3 is not None and isinstance(raw, sqlite3.Connection):
        if hasattr(raw, "getconfig"):  # since Python 3.12
            return bool(raw.getconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_FKEY))
        cursor = sqlite3.Cursor(raw)
        cursor.row_factory = None
        return bool(cursor.execute("PRAGMA foreign_keys").fetchone()[0])
    if type(raw).__name__ == "AsyncAdapt_aiosqlite_connection" and not list(_connect_listeners(connection.engine)):
        return _default_enforced()
    return None


def _connect_listeners(engine: Engine) -> Iterator[Any]:
    """Functions of the program's that see each new connection, and may set its flags."""
    for dispatch in (engine.pool.dispatch, engine.dialect.dispatch, engine.dispatch):
        for name in ("connect", "first_connect", "do_connect", "checkout", "engine_connect", "begin"):
            for listener in getattr(dispatch, name, ()):
                if not str(getattr(listener, "__module__", "")).startswith(("sqlalchemy.", "sessionwatch.")):
                    yield listener


def _default_enforced() -> bool:
    """What SQLite was compiled to do, asked of a database of our own."""
    connection: Any = sys.modules["sqlite3"].connect(":memory:")  # aiosqlite has imported it
    try:
        return bool(connection.execute("PRAGMA foreign_keys").fetchone()[0])
    finally:
        connection.close()
