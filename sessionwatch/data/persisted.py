"""Is a row really there? What the pytest fixture ``sessionwatch_persisted`` does: it asks in a new session."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import event, inspect
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Mapper, Session, object_session
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from ..frames import callsite
from ..output.messages import place

if TYPE_CHECKING:
    from sqlalchemy.orm import SessionTransaction

    from ..model import Mark

__tracebackhide__ = True  # pytest: the story is in the message


@dataclass(slots=True)
class _Writes:
    """What a session wrote since its last commit or rollback."""

    mark: Mark
    keys: set[Any] = field(default_factory=set)
    classes: set[type] = field(default_factory=set)  # written by statements: which rows is not known
    ended: str = ""  # how the session let go of them
    by: Mark | None = None

    def concerns(self, cls: type, key: Any) -> bool:
        return key in self.keys or any(issubclass(cls, one) or issubclass(one, cls) for one in self.classes)


class Persisted:
    """``persisted(instance)`` or ``persisted(Model, key)``: the row's values as a new session finds them.

    ``bind`` says where to look (an engine, a connection, a session or a sessionmaker, of asyncio as well);
    without it, where the instance's session looks, or the one place that sessions of this test have used.
    On a shared connection (``StaticPool``, or a session that joined the test's own transaction) a row that
    is not committed would be found: there the session's commit is asked for as well. With an asyncio driver
    the result is to be awaited. Raises AssertionError, with the story of who wrote and did not commit.
    """

    def __init__(self) -> None:
        self._binds: list[Any] = []
        self._open: WeakKeyDictionary[Session, _Writes] = WeakKeyDictionary()
        self._ended: list[_Writes] = []
        self._flushed: list[Any] = []  # weak references to states of the flush that is under way
        self._looking = False

    def __call__(self, what: Any, key: Any = None, *, bind: Any = None) -> Any:
        cls, identity, identity_key = _identified(what, key)
        found = self._bind(what, cls, bind)
        if not found.dialect.is_async:
            return self._look(found, cls, identity, identity_key)
        from sqlalchemy.util.concurrency import greenlet_spawn

        return greenlet_spawn(self._look, found, cls, identity, identity_key)

    def _look(self, bind: Any, cls: type, identity: Any, key: Any) -> SimpleNamespace:
        writes = self._uncommitted(cls, key)
        row = None
        if writes is None or not _is_shared(bind):
            self._looking = True
            try:
                row = _row(bind, cls, identity)
            finally:
                self._looking = False
        if row is None:
            raise AssertionError(self._story(cls, writes or self._lost(cls, key)))
        return row

    def _bind(self, what: Any, cls: type, bind: Any) -> Any:
        if bind is not None:
            return _sync(bind, cls)
        session = None if isinstance(what, type) else object_session(what)
        if session is not None:
            return session.get_bind(inspect(cls))
        if len(self._binds) != 1:
            how = f"{len(self._binds)} databases were used" if self._binds else "no session has been used"
            raise TypeError(f"{how} in this test so far: say where to look, sessionwatch_persisted(..., bind=engine)")
        return self._binds[0]

    def _uncommitted(self, cls: type, key: Any) -> _Writes | None:
        return next((writes for writes in self._open.values() if writes.concerns(cls, key)), None)

    def _lost(self, cls: type, key: Any) -> _Writes | None:
        return next((writes for writes in reversed(self._ended) if writes.concerns(cls, key)), None)

    def _story(self, cls: type, writes: _Writes | None) -> str:
        if writes is None:
            return f"the {cls.__name__} is not in the database: no session of this test wrote it"
        lines = [f"the {cls.__name__} was written, but {writes.ended or 'its session has not committed yet'}"]
        if writes.by is not None:
            lines.append(f"  ended    {place(writes.by)}")
        lines.append(f"  written  {place(writes.mark)}")
        lines.append("  fix: commit before the session ends: session.commit()")
        return "\n".join(lines)

    # -- what the sessions of the test do -----------------------------------------------------------------

    @contextmanager
    def listening(self) -> Iterator[Persisted]:
        """Watch the sessions for the length of a test."""
        with ExitStack() as stack:
            for name in (
                "after_begin",
                "after_flush",
                "after_flush_postexec",
                "do_orm_execute",
                "after_commit",
                "after_rollback",
            ):
                _listen(stack, name, getattr(self, f"_{name}"))
            _listen(stack, "after_transaction_end", self._after_transaction_end)
            yield self

    def _after_begin(self, session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        bind = session.bind if isinstance(session.bind, Connection) else connection.engine
        if not self._looking and not any(bind is known for known in self._binds):
            self._binds.append(bind)

    def _after_flush(self, session: Session, context: Any) -> None:
        self._flushed = [weakref.ref(inspect(item)) for item in (*session.new, *session.dirty)]

    def _after_flush_postexec(self, session: Session, context: Any) -> None:
        keys = {state.key for reference in self._flushed if (state := reference()) is not None}  # known only now
        self._flushed = []
        if keys:
            self._note(session).keys |= keys

    def _do_orm_execute(self, execution: Any) -> None:
        if (execution.is_insert or execution.is_update) and execution.bind_mapper is not None:
            self._note(execution.session).classes.add(execution.bind_mapper.class_)

    def _note(self, session: Session) -> _Writes:
        mark = callsite.mark(sys._getframe(2))
        writes = self._open.setdefault(session, _Writes(mark))
        writes.mark = mark
        return writes

    def _after_commit(self, session: Session) -> None:
        if not session.in_nested_transaction():
            self._open.pop(session, None)

    def _after_rollback(self, session: Session) -> None:
        if not session.in_nested_transaction():
            self._end(session, "its session rolled back")

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._end(session, "its session ended without a commit")

    def _end(self, session: Session, how: str) -> None:
        writes = self._open.pop(session, None)
        if writes is not None:
            writes.ended, writes.by = how, callsite.mark(sys._getframe(2))
            self._ended.append(writes)


def _row(bind: Any, cls: type, identity: Any) -> SimpleNamespace | None:
    """The column attributes of a row, in a session of its own; None where it is not there."""
    with Session(bind, join_transaction_mode="create_savepoint") as session:
        row: Any = session.get(cls, identity)
        if row is None:
            return None
        mapper: Any = inspect(cls)
        return SimpleNamespace(**{prop.key: getattr(row, prop.key) for prop in mapper.column_attrs})


def _listen(stack: ExitStack, name: str, listener: Any) -> None:
    event.listen(Session, name, listener)
    stack.callback(event.remove, Session, name, listener)


def _identified(what: Any, key: Any) -> tuple[type, Any, Any]:
    """The class, the primary key, and the identity key. Raises AssertionError for what was never written."""
    if isinstance(what, type):
        if key is None:
            raise TypeError(f"which one? sessionwatch_persisted({what.__name__}, key)")
        mapper: Mapper[Any] = inspect(what)
        parts = tuple(key) if isinstance(key, tuple | list) else (key,)
        return what, key, mapper.identity_key_from_primary_key(parts)
    state: Any = inspect(what, raiseerr=False)
    if state is None or not hasattr(state, "session_id"):
        hint = ": call sessionwatch_persisted(MappedClass, key) for a key" if isinstance(what, tuple) else ""
        raise TypeError(f"{type(what).__name__} is no instance of a mapped class{hint}")
    if state.key is None:
        why = "was added to a session, but never flushed" if state.pending else "was never written, or rolled back"
        raise AssertionError(f"the {type(what).__name__} is not in the database: it {why}")
    return type(what), state.key[1], state.key


def _is_shared(bind: Any) -> bool:
    """Whether a new session would see what another one has not committed."""
    return isinstance(bind, Connection) or isinstance(bind.pool, StaticPool | SingletonThreadPool)


def _sync(bind: Any, cls: type) -> Any:
    """The engine or connection of what may be given as ``bind``."""
    for name in ("sync_session", "sync_engine", "sync_connection"):
        bind = getattr(bind, name, bind)
    if isinstance(bind, Session):
        return bind.get_bind(inspect(cls))
    if isinstance(bind, Engine | Connection):
        return bind
    given = getattr(bind, "kw", {}).get("bind") or getattr(getattr(bind, "session_factory", None), "kw", {}).get("bind")
    if given is None:
        raise TypeError(f"bind takes an engine, a connection, a session or a sessionmaker, not {type(bind).__name__}")
    return _sync(given, cls)
