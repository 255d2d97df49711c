"""Database errors inside of a session, and what the session does next.

An error is noted where it arises, by a weak reference. Whether it is swallowed is asked when the session
goes on: it is not while the exception that is being handled, or one that it led to, is that error.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import PendingRollbackError, SQLAlchemyError

from ..border import settle
from ..frames import callsite
from ..frames.catching import Catch, caught
from ..frames.chain import called
from ..frames.tasks import Way, left, left_since
from ..model import FindingError, Mark
from ..record.events import ErrorSwallowed
from ..record.key import KEY
from ..record.life import Entry
from ..record.sql import summary, text_write
from .private import COMMITS
from .reading import entries, read
from .rows import targets

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from ..record.life import SessionRecord
    from ..record.parts import Write
    from ..record.tracker import Tracker

_OUTWARDS = 40  # places of the user's code that an error may leave
_REFUSES = "no further SQL can be emitted within this transaction"

# What a coroutine is handling while its AsyncSession works in a greenlet, which has exceptions of its own.
_handled: ContextVar[tuple[weakref.ref[BaseException], ...]] = ContextVar("sessionwatch_handled", default=())
__tracebackhide__ = True  # pytest: the story is in the message


class Failure:
    """A database error that its session has not been rolled back for."""

    __slots__ = (
        "attempt", "changes", "classes", "error", "final", "kind", "mark", "pending", "savepoint", "statement",
        "subject", "told", "way",
    )  # fmt: skip

    def __init__(
        self,
        error: BaseException,
        statement: str,
        mark: Mark,
        way: Way,
        *,
        changes: bool,
        final: bool,
        savepoint: Any = None,
    ) -> None:
        self.error = weakref.ref(error)
        self.kind = type(error).__name__
        self.statement = statement
        self.mark = mark
        self.classes = tuple(one.__name__ for one in type(error).__mro__)
        self.way = way
        self.changes = changes  # the statement would have changed something
        self.final = final  # a flush or a commit: SQLAlchemy has ended the transaction, but not the session's part
        self.savepoint = weakref.ref(savepoint) if savepoint is not None else None  # the session's, of a flush
        self.told = False
        self.pending: tuple[Write, ...] = ()  # what was added and not flushed when it failed, see hooks.discards
        self.subject: str | None = None  # the class of the row whose flush failed
        self.attempt: Entry | None = None  # what the statement would have written

    @property
    def over(self) -> bool:
        """Whether it failed a flush in a savepoint whose block has ended: SQLAlchemy went back to it by itself."""
        savepoint = self.savepoint() if self.savepoint is not None else None
        return self.savepoint is not None and (savepoint is None or read.is_over(savepoint))

    @property
    def wrote(self) -> bool:
        """Whether a change is missing without a rollback."""
        return self.changes and not self.over

    @property
    def catch(self) -> Catch:
        """What became of the error, as the source of what it left says: asked only for a finding."""
        catch = caught((*left_since(self.error()), *self.way.places), self.classes)
        return Catch("handled") if self.way.kept and catch.kind == "left" else catch


def failed(
    connection: Connection,
    record: SessionRecord,
    driver_error: Any,
    context: Any,
    error: BaseException,
    frame: FrameType,
) -> None:
    """Note a driver's error; the first one in a transaction is the story, what follows comes of it."""
    if record.failure is not None or record.began is None or read.autocommits(connection):
        return
    commits = frame.f_code.co_name in [name.name for name in COMMITS]
    if not isinstance(driver_error, connection.dialect.loaded_dbapi.Error) or (context is None and not commits):
        return
    if context is not None and context.execution_options.get("skip_user_error_events"):
        return  # SQLAlchemy's own question, as whether there is a table: it expects the error
    session = read.sessions.get(record.session_id)
    flushing = session is not None and read.flushing(session)
    statement = "COMMIT" if context is None else summary(context.statement) or "a statement"
    mark = called(callsite.mark(frame))
    record.failure = Failure(
        error,
        statement,
        mark,
        left(frame, _OUTWARDS),
        changes=_writes(context) or flushing,
        final=flushing or commits,
        savepoint=session.get_nested_transaction() if session is not None and flushing else None,
    )
    for table, verb in targets(context) if context is not None else ():
        record.failure.attempt = Entry(table, verb, id(connection), flushing, mark)
        break


def _writes(context: Any) -> bool:
    if context is None or context.is_crud or context.isddl:
        return True
    return bool(context.is_text and text_write(context.statement))


def before_statement(tracker: Tracker, record: SessionRecord, context: Any, frame: FrameType) -> Exception | None:
    """A statement is about to be run after an error; what comes back is to be raised."""
    compiled = getattr(context.compiled, "statement", None)
    text = context.statement if context.is_text or compiled is None else ""
    if getattr(compiled, "__visit_name__", "") == "rollback_to_savepoint" or text.lstrip()[:8].upper() == "ROLLBACK":
        if not _is_of_a_flush(record):
            rolled_back(record, whole=False)
        return None
    return went_on(tracker, record, f"ran {summary(context.statement) or 'a statement'}", frame)


def went_on(tracker: Tracker, record: SessionRecord, did: str, frame: FrameType) -> Exception | None:
    """The session runs a statement or commits after an error; what comes back is to be raised."""
    failure = record.failure
    if failure is None or failure.told or not tracker.active or is_handled(failure):
        return None
    if failure.over or (not failure.final and _ended_elsewhere(record)):
        record.failure = None
        return None
    if failure.catch.kind == "expected":
        return None
    return tell(tracker, record, failure, did, callsite.mark(frame))


def tell(
    tracker: Tracker,
    record: SessionRecord,
    failure: Failure,
    did: str,
    later: Mark | None,
    error: BaseException | None = None,
) -> Exception | None:
    """Report a swallowed error, once; what comes back is to be raised."""
    if failure.told:
        return None
    failure.told = True
    if record.unit is not None:
        record.unit.late.pop(record.number, None)  # one fault, one finding: see hooks.answers
    event = ErrorSwallowed(record, failure.statement, failure.kind, failure.mark, did, later, error)
    return tracker.emit(event, record.allowances)


def refused(tracker: Tracker, record: SessionRecord, error: BaseException, frame: FrameType, did: str = "") -> None:
    """SQLAlchemy asks for the rollback itself: its error gets the story. A commit of writes that it refuses failed."""
    if record.failure is None and did == "commit" and isinstance(error, PendingRollbackError) and any(record.levels):
        way = left(frame, _OUTWARDS)
        record.failure = Failure(error, "COMMIT", callsite.mark(frame), way, changes=True, final=True)
        return
    if record.failure is not None and (isinstance(error, PendingRollbackError) or _REFUSES in str(error)):
        tell(tracker, record, record.failure, "was used again", callsite.mark(frame), error)


def answered(failure: Failure) -> bool:
    """Whether the error was no secret where its session is only closed next.

    It left the program's code, and a framework or a test answered it; a test expected it; its handler made another
    exception of it, or names the very error that may come.
    """
    catch = failure.catch
    return catch.kind in ("left", "expected", "turned") or (catch.kind == "handled" and catch.narrow)


def rolled_back(record: SessionRecord, whole: bool) -> None:
    """The transaction, or the savepoint around the error, was rolled back."""
    if record.failure is not None and (whole or not record.failure.told):
        record.failure = None


def after_soft_rollback(tracker: Tracker) -> Callable[[Any, Any], None]:
    """A rollback of the program's own; the flush's is an inner one that is no savepoint."""

    def listener(session: Session, transaction: SessionTransaction) -> None:
        record = session.__dict__.get(KEY)
        if record is None:
            return
        whole = transaction.parent is None
        if whole or transaction.nested:
            rolled_back(record, whole)
        elif record.failure is None and read.flushing(session) and tracker.active:
            with tracker.guarded("after_soft_rollback"):
                flush_failed(session, record, sys.exception(), sys._getframe(1))

    return listener


def flush_failed(session: Session, record: SessionRecord, error: BaseException | None, frame: FrameType) -> None:
    """Note an error of SQLAlchemy's own that ended a flush, as of an UPDATE that matched no row.

    What a listener of the program's raised to refuse a flush is its own affair.
    """
    if isinstance(error, SQLAlchemyError) and not isinstance(error, FindingError):
        savepoint = session.get_nested_transaction()
        mark, way = called(callsite.mark(frame)), left(frame, _OUTWARDS)
        record.failure = Failure(error, "flush", mark, way, changes=True, final=True, savepoint=savepoint)


def before_commit(tracker: Tracker, record: SessionRecord, frame: FrameType) -> Exception | None:
    """A commit begins, of the transaction or of a savepoint; what comes back is to be raised."""
    if record.failure is not None:
        with tracker.guarded("before_commit"):
            return went_on(tracker, record, "was committed", frame)
    return None


def _is_of_a_flush(record: SessionRecord) -> bool:
    """Whether a savepoint is rolled back by a flush that failed in it: the program has not done that yet."""
    session = read.sessions.get(record.session_id)
    return session is not None and read.flushing(session) and record.failure.savepoint is not None


def _ended_elsewhere(record: SessionRecord) -> bool:
    """Whether the connection's transaction was ended behind the session's back."""
    session = read.sessions.get(record.session_id)
    return session is None or not any(entry[1].is_active for entry in entries(session))


# -- exceptions on their way ----------------------------------------------------------------------------


def is_handled(failure: Failure) -> bool:
    """Whether the error is being handled, or one that it led to."""
    error = failure.error()
    if error is None:
        return False
    handled = (reference() for reference in _handled.get())
    return any(error is one for one in (*chain(sys.exception()), *handled))


def handled_around() -> bool:
    """Whether a coroutine is handling an exception while its connection works in a greenlet."""
    return any(reference() is not None for reference in _handled.get())


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what it came of, and the members of groups."""
    found: dict[int, BaseException] = {}
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in found:
            found[id(one)] = one
            waiting += [one.__context__, one.__cause__]
            waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
    yield from found.values()


def patch_spawn(tracker: Tracker) -> Callable[[Any], Any]:
    """``greenlet_spawn`` as the asyncio classes call it: the coroutine's exception is not seen in the greenlet."""
    exception, handled = sys.exception, _handled.get

    def make(original: Any) -> Any:
        def greenlet_spawn(*args: Any, **kwargs: Any) -> Any:
            try:
                error = exception()
                if error is not None or handled():
                    try:
                        _handled.set(tuple(weakref.ref(one) for one in chain(error) if hasattr(one, "__weakref__")))
                    except Exception:
                        tracker.failed("greenlet_spawn")
                return original(*args, **kwargs)
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "greenlet_spawn")
                if late is None:
                    raise
                return late(*args, **kwargs)

        return greenlet_spawn

    return make
