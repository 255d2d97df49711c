"""What a session wrote: statements at the cursor, and objects that were never flushed."""

from __future__ import annotations

from collections.abc import Container, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table
from sqlalchemy.engine import Connection, NestedTransaction
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.base import PassiveFlag
from sqlalchemy.orm.interfaces import ONETOMANY

from ..frames import callsite, chain
from ..record.parts import Write
from ..record.sql import (
    DEFINED,
    commits_implicitly,
    definition,
    ends_transaction,
    named_table,
    only_reads,
    temporary_table,
)
from .reading import entries, mappers, read
from .rows import count_of, driver_is_idle, has_result, targets

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState, Session

    from ..model import RawSite
    from ..record.life import Entry, SessionRecord

SEVERAL = -1  # among the id() of the connections that have uncommitted writes: others, too
_UNDOES_DDL = ("postgresql", "cockroachdb", "mssql")  # databases whose rollback undoes CREATE, ALTER and DROP
_IMPLICIT = ("mysql", "mariadb", "oracle")  # databases that commit around CREATE, ALTER, DROP and TRUNCATE


# -- statements ---------------------------------------------------------------------------------------


def note(
    connection: Any, record: SessionRecord, context: Any, result: Any, where: RawSite | None, frame: FrameType
) -> None:
    """Note what a statement wrote, if its commit is the session's; ``where`` it was run, or a frame to look from."""
    if id(connection) not in record.owned or read.autocommits(connection):
        if context.is_crud:
            _, verb = next(iter(targets(context)))
            record.count_rows(verb, count_of(context, result) or 0)
        return
    if not context.is_crud and _not_a_write(connection, record, context, where, frame):
        return
    found = list(targets(context))
    if not found and context.is_text and (count_of(context, result) or 0) > 0 and not has_result(context):
        found = [] if only_reads(context.statement) else [(named_table(context.statement), "written")]
    for table, verb in found:
        count = count_of(context, result)
        if count != 0:
            _wrote(connection, record, (table, verb), count, where, frame)


def _wrote(
    connection: Connection,
    record: SessionRecord,
    what: tuple[Any, str],
    count: int | None,
    where: RawSite | None,
    frame: FrameType,
) -> None:
    number, root = id(connection), connection.get_transaction()
    before = record.within.get(number)
    if before is not root:
        if before is not None:  # somebody ended it on the connection, and what was written in it
            _forget(record, number)
        record.within = {**record.within, number: root} if record.within else {number: root}
    session = read.sessions.get(record.session_id)
    flushed = session is not None and read.flushing(session)
    mark = callsite.marked(where or callsite.site(frame))
    entry = record.wrote(*what, number, flushed, count, mark)
    if entry.mark is mark and chain.keeps:  # the first time
        entry.mark = chain.called(mark, frame)
    if connection.dialect.name in _IMPLICIT and not driver_is_idle(connection):
        record.told_of_transaction = True


def _forget(record: SessionRecord, connection: int) -> None:
    record.levels = tuple(
        {key: entry for key, entry in level.items() if entry.connection != connection} for level in record.levels
    )


def _not_a_write(
    connection: Connection, record: SessionRecord, context: Any, where: RawSite | None, frame: FrameType
) -> bool:
    """What a statement that is no INSERT, UPDATE or DELETE does to a transaction; whether that is all of it."""
    statement, dialect = context.statement, context.dialect.name
    name = temporary_table(statement)
    if name is not None:
        record.temporary |= {name}
        return True
    if ends_transaction(statement) or (dialect in _IMPLICIT and commits_implicitly(statement)):
        record.end_writes()
        return True
    defined = definition(statement)
    if defined is None:
        return bool(context.isddl)
    undone = dialect in _UNDOES_DDL or (dialect == "sqlite" and not driver_is_idle(connection))
    if undone and not is_temporary(defined[0], record.temporary):
        name, verb, kind = defined
        what = f"{kind} {name}"
        if verb == "dropped" and _takes_back(record, what, id(connection)):
            return True
        _wrote(connection, record, (what, verb), None, where, frame)
    return True


def _takes_back(record: SessionRecord, what: str, connection: int) -> bool:
    """Whether what is dropped was created in the same transaction: then nothing is left to lose."""
    created = {key for level in record.levels for key in level if key[:3] == (what, "created", connection)}
    for level in record.levels:
        for key in created & set(level):
            del level[key]
    return bool(created)


# -- whose commit is it -------------------------------------------------------------------------------


def owns(session: Session, entry: Any) -> bool:
    """Whether closing the session discards what was written on a connection of its transaction.

    ``entry`` is SQLAlchemy's (connection, transaction, should_commit, autoclose). A session that joined
    somebody else's transaction owns nothing, whatever its join_transaction_mode.
    """
    _, transaction, should_commit, autoclose = entry
    if not should_commit or isinstance(transaction, NestedTransaction):
        return False
    return bool(autoclose) or getattr(session, "join_transaction_mode", "") != "control_fully"


def uncommitted(session: Session, record: SessionRecord) -> tuple[Write, ...]:
    """What is lost if the session ends now."""
    writes: list[Write] = []
    if any(record.levels):
        live = _live_connections(session, record)
        entries = (entry for level in record.levels for entry in level.values() if entry.connection in live)
        writes += summarised(entries, record.temporary)
    unflushed = read.unflushed(session)
    if any(unflushed) and not _joined(session, record):
        new, deleted, modified = unflushed
        writes += pending(new, deleted, modified, record)
    return tuple(writes)


def written(record: SessionRecord) -> list[Write]:
    """What was sent to the database in the transaction so far, whether or not that has just been committed."""
    return summarised((entry for level in record.levels for entry in level.values()), record.temporary)


def left_behind(record: SessionRecord) -> tuple[Write, ...]:
    """The same for a session that was collected; its own collections are still there."""
    for connection, root in record.within.items():
        if root is not None and not root.is_active:
            _forget(record, connection)
    writes = written(record)
    if record.pending and not record.external:
        new, deleted, modified = record.pending
        writes += pending(new, deleted, modified, record)
    return tuple(writes)


def _live_connections(session: Session, record: SessionRecord) -> set[int]:
    """Connections whose transaction nobody has committed or rolled back behind the session's back.

    Some drivers tell late that they are in a transaction: only one that has told so can tell that it is over.
    """
    return {
        id(entry[0])
        for entry in entries(session)
        if (record.within.get(id(entry[0])) or entry[1]).is_active
        and not driver_commits(entry[0])
        and not is_over(entry[0], record.told_of_transaction)
    }


def is_over(connection: Connection, told: bool) -> bool:
    """Whether the driver has committed or rolled back behind SQLAlchemy's back, as its connection tells."""
    if connection.dialect.name in _IMPLICIT and not told:
        return False
    return driver_is_idle(connection)


def driver_commits(connection: Connection) -> bool:
    """Whether the driver's own connection was made with autocommit, which SQLAlchemy does not know of."""
    fairy = read.lent(connection)
    return fairy is not None and getattr(fairy.dbapi_connection, "autocommit", False) is True


def _joined(session: Session, record: SessionRecord) -> bool:
    bind = session.__dict__.get("bind")
    return record.external or (isinstance(bind, Connection) and not record.owned and bind.in_transaction())


# -- what it is called --------------------------------------------------------------------------------


def summarised(entries: Iterable[Entry], temporary: frozenset[str] = frozenset()) -> list[Write]:
    """One `Write` a subject, newest last. ``temporary`` names temporary tables."""
    merged: dict[tuple[str, bool, str], Write] = {}
    found = list(entries)
    flushed = {entry.table for entry in found if entry.flushed}
    for entry in found:
        if entry.flushed and _is_base_of_another(entry.table, flushed):
            continue  # joined inheritance: the subclass's row stands for the object
        subject, is_object = _subject(entry)
        verb = "written" if is_object and entry.verb == "inserted" else entry.verb
        key = (subject, is_object, verb)
        before = merged.pop(key, None)
        count = entry.count
        if before is not None:
            count = None if count is None or before.count is None else count + before.count
        what: Any = "object" if is_object else "definition" if verb in DEFINED else "row"
        merged[key] = Write(subject, what, verb, count, entry.mark, is_temporary(entry.table, temporary))
    return list(merged.values())


def _subject(entry: Entry) -> tuple[str, bool]:
    if isinstance(entry.table, str):
        return entry.table, False
    mapper = _mapper_of(entry.table) if entry.flushed else None
    if mapper is not None:
        return mapper.class_.__name__, True
    return str(getattr(entry.table, "fullname", None) or getattr(entry.table, "name", None) or "a table"), False


def _mapper_of(table: Any) -> Any:
    for mapper in mappers():
        if mapper.local_table is table and (mapper.inherits is None or mapper.inherits.local_table is not table):
            return mapper
    return None


def _is_base_of_another(table: Any, tables: set[Any]) -> bool:
    for other in tables:
        mapper = _mapper_of(other) if other is not table and isinstance(other, Table) else None
        while mapper is not None and mapper.inherits is not None:
            mapper = mapper.inherits
            if mapper.local_table is table:
                return True
    return False


def is_temporary(table: Any, known: frozenset[str]) -> bool:
    """Whether a table is a temporary one; ``known``: those that were made by a statement given as text."""
    if known and str(getattr(table, "name", table)) in known:
        return True
    if isinstance(table, str):
        return table.lower().startswith(("temp.", "pg_temp"))
    prefixes = read.prefixes(table)
    if not prefixes:
        return False
    prefixes = [str(prefix).upper() for prefix in prefixes]
    return any(prefix.startswith(("TEMP", "GLOBAL TEMP", "LOCAL TEMP")) for prefix in prefixes)


def pending(new: Any, deleted: Any, modified: Any, record: SessionRecord) -> list[Write]:
    """Objects that were added, changed or deleted and never flushed. Changes without a net effect don't count."""
    counts: dict[tuple[str, str], int] = {}
    for verb, states in (("added", list(new)), ("deleted", list(deleted)), ("changed", list(modified))):
        for state in states:
            if verb == "changed" and (state in deleted or not net_change(state, new)):
                continue
            key = (state.class_.__name__, verb)
            counts[key] = counts.get(key, 0) + 1
    return [
        Write(name, "pending", verb, count, record.added if verb == "added" else None)
        for (name, verb), count in counts.items()
    ]


def net_change(state: InstanceState[Any], new: Container[Any] = ()) -> bool:
    """Whether a modified state differs from what was loaded; as Session.is_modified(), without a session.

    ``new``: states that are counted themselves; a parent that was only given such children has no row to write.
    """
    instance = state.obj() or read.kept(state)  # a session that is being collected: its weak references are gone
    if instance is None:
        return False
    for attribute in state.manager.attributes:
        impl = attribute.impl
        if not hasattr(impl, "get_history"):
            continue
        added, _, deleted = impl.get_history(state, instance.__dict__, passive=PassiveFlag.PASSIVE_NO_INITIALIZE)
        if deleted or (added and not _only_new_children(impl, added, new)):
            return True
    return False


def _only_new_children(impl: Any, added: Iterable[Any], new: Container[Any]) -> bool:
    """Whether the foreign keys of new objects are all that tells of a change to a relationship.

    A child that is not new may have no change of its own: then its parent alone tells that it was moved.
    """
    if getattr(impl.parent_token, "direction", None) is not ONETOMANY:
        return False
    return all(child is not None and instance_state(child) in new for child in added)
