"""Settings that lead to faults, noticed where they take effect: the rule ``config``.

Nothing is asked of a database. Whether SQLite enforces foreign keys is a flag of the driver's connection: it is
looked at once an engine, without a statement where Python has a function for it (3.12), by a pragma that
reads no page and takes no lock where it has not, and not at all where the connection lives in another thread.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session

from ..border import settle
from ..frames import callsite
from ..frames.chain import called
from ..record.events import Misconfigured
from ..record.key import KEY
from .reading import entries, read
from .writes import net_change

if TYPE_CHECKING:
    from ..model import Mark
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
Kind = Literal["expire", "foreign-keys", "static", "autoflush"]


class Makers:
    """What is known of engines and sessionmakers, by weak references: where they were made, what was told of them."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.made: WeakKeyDictionary[Any, Mark] = WeakKeyDictionary()  # by dialect, session class or async maker
        self.of: WeakKeyDictionary[Session, Any] = WeakKeyDictionary()  # of asyncio sessions
        self.quiet: WeakKeyDictionary[Session, int] = WeakKeyDictionary()  # inside of no_autoflush
        self.busy: WeakKeyDictionary[Any, tuple[int, Mark]] = WeakKeyDictionary()  # by dialect: who runs a statement
        self._told: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
        self._wrapped: list[tuple[Any, str, Any]] = []

    def first(self, owner: Any, kind: Kind) -> bool:
        """Whether nothing was said yet of this setting of ``owner``."""
        if self.knows(owner, kind):
            return False
        self._told.setdefault(owner, set()).add(kind)
        return True

    def knows(self, owner: Any, kind: Kind) -> bool:
        """Whether something was said of this setting of ``owner``."""
        return kind in self._told.get(owner, ())

    def tell(self, kind: Kind, owner: Any, used: Mark | None, subject: str = "", other: Mark | None = None) -> Any:
        """Report a setting once; returns what is to be raised at a safe point."""
        if not self.first(owner, kind):
            return None
        return self.tracker.emit(Misconfigured(kind, subject, self.made.get(owner), used, other))

    def wrap(self, dialect: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace a method of one dialect, until `close`."""
        if name not in vars(dialect):
            replacement = make(getattr(dialect, name))
            setattr(dialect, name, replacement)
            self._wrapped.append((weakref.ref(dialect), name, replacement))

    def close(self) -> None:
        for reference, name, replacement in self._wrapped:
            dialect = reference()
            if dialect is not None and vars(dialect).get(name) is replacement:
                delattr(dialect, name)
        self._wrapped.clear()


# -- where things are made ----------------------------------------------------------------------------------


def patch_made(makers: Makers, key: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``__init__`` of sessionmakers: remember the line, under what ``key`` makes of the object."""

    def make(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            try:
                original(self, *args, **kwargs)
                try:
                    makers.made[key(self)] = called(callsite.mark(sys._getframe(1)))
                except Exception:
                    makers.tracker.failed("makers.made")
            except BaseException as crossed:
                late = settle(crossed, original, makers.tracker, "makers.made")
                if late is None:
                    raise
                late(self, *args, **kwargs)

        return __init__

    return make


def remembered(makers: Makers) -> Callable[[Any, FrameType], None]:
    """The line of a ``create_engine``."""

    def remember(engine: Any, frame: FrameType) -> None:
        makers.made[engine.dialect] = called(callsite.mark(frame))

    return remember


def patch_engine_created(tracker: Tracker, made: tuple[Callable[[Any, FrameType], None], ...]) -> Callable[[Any], Any]:
    """``Dialect.engine_created``, which ``create_engine`` calls. ``made`` hears of the engine.

    Not ``Engine.__init__``, whose signature ``create_engine`` looks at to find out which arguments it takes.
    """

    def make(original: Any) -> Any:
        def engine_created(cls: Any, engine: Any) -> None:
            try:
                original.__func__(cls, engine)
                for listener in made:
                    try:
                        listener(engine, sys._getframe(1))
                    except Exception:
                        tracker.failed("Dialect.engine_created")
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Dialect.engine_created")
                if late is None:
                    raise
                late(cls, engine)

        return classmethod(engine_created)

    return make


def patch_async_call(makers: Makers) -> Callable[[Any], Any]:
    """``async_sessionmaker.__call__``: which maker an asyncio session is from."""

    def make(original: Any) -> Any:
        def __call__(self: Any, **kwargs: Any) -> Any:  # noqa: N807
            try:
                session = original(self, **kwargs)
                try:
                    makers.of[session.sync_session] = self
                except Exception:
                    makers.tracker.failed("async_sessionmaker.__call__")
                return session
            except BaseException as crossed:
                late = settle(crossed, original, makers.tracker, "async_sessionmaker.__call__")
                if late is None:
                    raise
                return late(self, **kwargs)

        return __call__

    return make


# -- expire_on_commit ---------------------------------------------------------------------------------------


def after_commit(makers: Makers) -> Callable[[Any], None]:
    """An asyncio session that empties what it holds by its commit."""

    def committed(session: Any) -> None:
        maker = makers.of.get(session)
        if maker is None or not session.expire_on_commit or not len(session.identity_map):
            return
        try:
            if not session.in_nested_transaction():
                makers.tell("expire", maker, callsite.mark(sys._getframe(1)), "async_sessionmaker")
        except Exception:
            makers.tracker.failed("makers.after_commit")

    return committed


# -- foreign keys of SQLite ---------------------------------------------------------------------------------


def after_flush(makers: Makers) -> Callable[[Any, Any], None]:
    """The first flush on a SQLite engine of tables that declare foreign keys."""

    def flushed(session: Any, context: Any) -> None:
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


def _connections(session: Any) -> set[Any]:
    return {entry[0] for entry in entries(session)}


def _declares_foreign_keys(context: Any) -> bool:
    known = {state.manager.mapper.local_table.metadata for state in context.states}
    return any(table.foreign_keys for metadata in known for table in list(metadata.tables.values()))


def enforced(connection: Any) -> bool | None:
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


def _connect_listeners(engine: Any) -> Iterator[Any]:
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


# -- one static connection ----------------------------------------------------------------------------------


def patch_static(makers: Makers) -> Callable[[Any], Any]:
    """``StaticPool._do_get``: from now on, who runs statements on this engine's one connection."""

    def make(original: Any) -> Any:
        def _do_get(self: Any) -> Any:
            try:
                try:
                    dialect = read.dialect(self)
                    if hasattr(dialect, "do_execute"):  # a pool without an engine has a stand-in
                        makers.wrap(dialect, "do_execute", _watched(makers, weakref.ref(dialect)))
                except Exception:
                    makers.tracker.failed("StaticPool._do_get")
                return original(self)
            except BaseException as crossed:
                late = settle(crossed, original, makers.tracker, "StaticPool._do_get")
                if late is None:
                    raise
                return late(self)

        return _do_get

    return make


def _watched(makers: Makers, reference: Any) -> Callable[[Any], Any]:
    def make(bound: Any) -> Any:
        original = bound.__func__

        def do_execute(*args: Any, **kwargs: Any) -> Any:
            dialect = reference()
            try:
                entered = _enter(makers, dialect, sys._getframe(1))
                try:
                    return original(dialect, *args, **kwargs)
                finally:
                    if entered:
                        makers.busy.pop(dialect, None)
            except BaseException as crossed:
                late = settle(crossed, original, makers.tracker, "Dialect.do_execute")
                if late is None:
                    raise
                return late(dialect, *args, **kwargs)

        return do_execute

    return make


def _enter(makers: Makers, dialect: Any, frame: FrameType) -> bool:
    """Whether the thread is the only one; two at a time are reported, and nothing is raised in here."""
    if not makers.tracker.active:
        return False
    with makers.tracker.guarded("StaticPool"):
        before = makers.busy.get(dialect)
        if before is None:
            makers.busy[dialect] = threading.get_ident(), callsite.mark(frame)
            return True
        if before[0] != threading.get_ident():
            makers.tell("static", dialect, callsite.mark(frame), "StaticPool", before[1])
    return False


# -- autoflush ----------------------------------------------------------------------------------------------


def patch_no_autoflush(makers: Makers) -> Callable[[Any], Any]:
    """``Session.no_autoflush``: here the program says that it means it."""

    def make(original: Any) -> Any:
        @contextmanager
        def no_autoflush(session: Any) -> Iterator[Any]:
            _count(session, 1)
            try:
                with original.fget(session) as entered:
                    yield entered
            finally:
                _count(session, -1)

        return property(no_autoflush, doc=original.__doc__)

    def _count(session: Any, number: int) -> None:
        with makers.tracker.guarded("Session.no_autoflush"):
            makers.quiet[session] = makers.quiet.get(session, 0) + number

    return make


def patch_autoflush(makers: Makers) -> Callable[[Any], Any]:
    """``Session._autoflush``: an ORM query begins. Only sessions whose autoflush is off are looked at."""

    def make(original: Any) -> Any:
        def _autoflush(self: Any) -> None:
            try:
                if not getattr(self, "autoflush", True) and any(read.unflushed(self)):
                    error = None
                    try:
                        error = _queried(makers, self, sys._getframe(1))
                    except Exception:
                        makers.tracker.failed("Session._autoflush")
                    if error is not None:
                        raise error
                original(self)
            except BaseException as crossed:
                late = settle(crossed, original, makers.tracker, "Session._autoflush")
                if late is None:
                    raise
                late(self)

        return _autoflush

    return make


def _queried(makers: Makers, session: Any, frame: FrameType) -> Exception | None:
    owner = makers.of.get(session) or type(session)
    owner = owner if owner in makers.made else session
    if makers.knows(owner, "autoflush") or makers.quiet.get(session, 0) or read.flushing(session):
        return None
    if read.refreshed(frame.f_locals.get("load_options")) is not None:
        return None  # columns of one instance: what is pending of others does not matter
    statement = frame.f_locals.get("statement")
    asked = {item.get("entity") for item in getattr(statement, "column_descriptions", ())}
    name = next((name for kind, name in _pending(session) if any(_related(kind, one) for one in asked)), None)
    if name is None:
        return None
    record = session.__dict__.get(KEY)
    made = makers.made.get(owner) or (record.opened if record is not None else None)
    if not makers.first(owner, "autoflush"):
        return None
    added = record.added if record is not None else None
    event = Misconfigured("autoflush", name, made, callsite.mark(frame), added)
    return makers.tracker.emit(event, record.allowances if record is not None else ())


def _pending(session: Any) -> Iterator[tuple[type, str]]:
    new, deleted, modified = read.unflushed(session)
    for states in (new, deleted, modified):
        for state in list(states):
            if state in new or state in deleted or net_change(state):
                yield state.class_, state.class_.__name__


def _related(kind: type, entity: Any) -> bool:
    return isinstance(entity, type) and (issubclass(kind, entity) or issubclass(entity, kind))
