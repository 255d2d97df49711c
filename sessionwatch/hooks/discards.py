"""Rollbacks in the handler of an error that take the caller's work along.

Where a transaction's first write came from is noted once per transaction, as the codes of the user's functions on
the stack. Everything else is asked where an error is being handled, and at the commit after it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from ..frames import callsite, source
from ..model import Mark, function_of
from ..record.events import DiscardedWrites
from ..record.key import KEY
from .database_errors import Failure, is_handled
from .reading import read, session_of
from .writes import _mapper_of, pending, summarised, written

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

    from ..record.life import SessionRecord
    from ..record.parts import Write
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
_GENERATOR = 0x20 | 0x200  # CO_GENERATOR, CO_ASYNC_GENERATOR


@dataclass(slots=True, eq=False, repr=False)
class Discard:
    """What a rollback took along that was not its function's own."""

    function: str
    statement: str
    rolled_back: Mark
    failed: Mark
    first: Mark
    writes: tuple[Write, ...]


def codes_of(first: Mark) -> tuple[CodeType, ...]:
    """The functions that a first write came through, innermost first, as far as they were kept."""
    place = first.site
    return () if place is None else (place.code, *(caller.code for caller in getattr(place, "callers", ())))


def unflushed(record: SessionRecord, failure: Failure, context: Any) -> None:
    """Note what was added and not yet flushed when a statement failed: the rollback forgets it."""
    session = session_of(record)
    if session is None or failure.pending:
        return
    new, deleted, modified = read.unflushed(session)
    failure.pending = tuple(pending(new, deleted, modified, record))
    if read.flushing(session) and context is not None and context.is_crud:
        mapper = _mapper_of(getattr(context.compiled.statement, "table", None))
        failure.subject = mapper.class_.__name__ if mapper is not None else None


def keep(record: SessionRecord) -> None:
    """Keep what was written until it is known whose it was. A failed flush has rolled back before the program does."""
    record.dropped = [entry for level in record.levels for entry in level.values()]


def after_soft_rollback(tracker: Tracker) -> Callable[[Any, Any], None]:
    """The program rolls back the whole transaction: in the handler of an error, below somebody who wrote before?"""

    def listener(session: Session, transaction: SessionTransaction) -> None:
        record = session.__dict__.get(KEY)
        if record is None or record.origin is None or transaction.parent is not None or read.flushing(session):
            return
        with tracker.guarded("after_soft_rollback"):
            if record.failure is not None and tracker.active:
                record.discarded = discard(record, record.failure, sys._getframe(1)) or record.discarded
        record.origin = None
        if record.dropped:
            vars(record).pop("dropped")

    return listener


def discard(record: SessionRecord, failure: Failure, frame: FrameType) -> Discard | None:
    """What the rollback takes along of the callers of the function that handles the error; None if nothing."""
    error = failure.error()
    first = record.origin
    codes = codes_of(first)
    if error is None or not is_handled(failure):
        return None
    passed = set(_frames(error))
    stack = list(callsite.stack(frame))
    handlers = [outer for outer in stack if outer in passed and callsite.kind_of(outer) == callsite.USER]
    if not handlers or handlers[0].f_code in codes or handlers[0].f_code.co_flags & _GENERATOR:
        return None
    handler = handlers[0]
    callers = {outer.f_code for outer in stack[stack.index(handler) + 1 :]}
    if not callers.intersection(codes) or not returns_after(handler.f_code, handler.f_lineno):
        return None
    writes = _others(record, failure)
    if not writes:
        return None
    mark = callsite.mark(frame)
    return Discard(function_of(handler.f_code), failure.statement, mark, failure.mark, first, writes)


def _frames(error: BaseException) -> Iterator[FrameType]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _others(record: SessionRecord, failure: Failure) -> tuple[Write, ...]:
    """What was written or added before, without the one object whose flush failed."""
    waiting = {write.subject: write for write in failure.pending}
    own = waiting.get(failure.subject or "")
    if own is not None and own.count is not None:
        waiting[own.subject] = replace(own, count=own.count - 1)
    found = [write for write in summarised(record.dropped, record.temporary) if not write.temporary]
    for write in found:
        unsaved = waiting.get(write.subject)  # the same objects, where the flush that failed had begun with them
        if unsaved is not None and unsaved.count is not None and (write.count or 0) >= unsaved.count:
            del waiting[write.subject]
    return tuple(write for write in (*found, *waiting.values()) if write.count != 0)


def committed(tracker: Tracker, record: SessionRecord, found: Discard, frame: FrameType) -> None:
    """The session commits after such a rollback: the caller's part is missing, unless it was written again."""
    record.discarded = None
    again = {write.subject: write.count for write in written(record)}
    lost = tuple(write for write in found.writes if not _written_again(write, again))
    if lost:
        event = DiscardedWrites(
            record,
            found.function,
            found.statement,
            found.rolled_back,
            found.failed,
            found.first,
            callsite.mark(frame),
            lost,
        )
        record.waiting = tracker.emit(event, record.allowances) or record.waiting


def _written_again(write: Write, again: dict[str, int | None]) -> bool:
    if write.subject not in again:
        return False
    count = again[write.subject]
    return count is None or write.count is None or count >= write.count


def returns_after(code: CodeType, line: int) -> bool:
    """Whether the handler of the exception at a line of a function has no ``raise``; False without its source."""
    tree = source.tree(code.co_filename)
    if tree is None:
        return False
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    if not around:
        return False
    innermost = max(around, key=lambda node: node.lineno)
    return not any(isinstance(node, ast.Raise) for node in ast.walk(innermost))
