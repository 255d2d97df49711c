"""The border between a host's call and ours: what it called runs, and our errors stay on our side.

A replaced function is one ``try`` whose handler is here. Python enters a ``try`` for nothing, so a call without an
error pays nothing. With an error, its traceback tells whose it is:

- the host's, if it went through the original function: it goes on, without our frames in its traceback;
- a finding that is to be raised: it goes on;
- nobody's of ours, if it is no `Exception`, or ends in a frame that none of our code called (a signal handler's), or
  arrived between two instructions (an asynchronous exception): it goes on, once the original has run;
- ours: it is counted, the original runs if it has not, and its result is returned.
"""

from __future__ import annotations

import dis
import itertools
import os
import sys
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple, Protocol

from .model import FindingError

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_DEMO = os.path.join(_HERE, "demo") + os.sep
_BETWEEN = frozenset({"RESUME", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "SEND"})  # where interruptions arrive


class Reports(Protocol):
    """Whom an error of ours is told."""

    def failed(self, hook: str) -> None: ...


class _Call(NamedTuple):
    """What a replacement does with the original: the last line of its last call of it, and the result's name."""

    line: int
    result: str | None
    offsets: frozenset[int]  # of every call


class Late:
    """What is left to do after an error: call it with the original's arguments, and return what it returns."""

    __slots__ = ("_called", "_error", "_original", "_raises", "_result")

    def __init__(self, original: Any, error: BaseException, raises: bool, called: bool, result: Any) -> None:
        self._original, self._error, self._raises = original, error, raises
        self._called, self._result = called, result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._called:
            return self._result
        try:
            result = self._original(*args, **kwargs)
        except BaseException as failure:
            if failure.__context__ is self._error:  # the host's error has nothing to do with ours
                failure.__context__ = self._error.__context__
            if not self._raises:
                raise
            raise self._error from None
        if self._raises:
            raise self._error
        return result

    async def awaited(self, *args: Any, **kwargs: Any) -> Any:
        """The same for a coroutine function."""
        if self._called:
            return self._result
        try:
            result = await self._original(*args, **kwargs)
        finally:
            if self._raises:
                raise self._error
        return result


def settle(
    error: BaseException,
    original: Any,
    reports: Reports,
    hook: str,
    called: bool | None = None,
    result: object = None,
) -> Late | None:
    """What to do with what arrived in the handler of the replacement that calls this; None: ``raise`` it.

    ``called``: whether the original was called, and ``result`` what it returned, where the replacement's own code does
    not tell by its lines, as around a ``with``.
    """
    frame = sys._getframe(1)
    host = _through(error, original) or _at_call(error, frame.f_code)
    if host is not None and host is error:
        return None
    foreign = is_foreign(error)
    if isinstance(error, FindingError) and _is_ours_to_raise(error):
        return None
    if not foreign:
        _report(reports, hook)
    if host is not None:  # the original has failed, and we over it
        return Late(_raising(host), error, foreign, False, None)
    if called is None:
        line = error.__traceback__.tb_lineno if error.__traceback__ is not None else 0
        call = _call_of(frame.f_code)
        called = line > call.line
        result = frame.f_locals.get(call.result) if called and call.result is not None else None
    if called and foreign:
        return None
    return Late(original, error, foreign, called, result)


def patch_after(reports: Reports, name: str, note: Callable[..., None]) -> Callable[[Any], Any]:
    """A function after whose call ``note`` is given its result, the frame that called it, and its arguments.

    For rare calls: it costs one more. What is called at the root of a greenlet has no caller, and is not noted.
    """

    def make(original: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            try:
                result = original(*args, **kwargs)
                try:
                    frame = sys._getframe().f_back
                    if frame is not None:
                        note(result, frame, *args, **kwargs)
                except Exception:
                    reports.failed(name)
                return result
            except BaseException as crossed:
                late = settle(crossed, original, reports, name)
                if late is None:
                    raise
                return late(*args, **kwargs)

        return noted

    return make


def stops(error: BaseException, reports: Reports, hook: str) -> bool:
    """The same for a listener, which has no original: whether its handler is to ``raise``."""
    if isinstance(error, FindingError) or is_foreign(error):
        return True
    _report(reports, hook)
    return False


def is_foreign(error: BaseException | None) -> bool:
    """Whether none of our code is the cause of an exception that passes through it."""
    if not isinstance(error, Exception):
        return error is not None
    last: TracebackType | None = None
    step = error.__traceback__
    while step is not None:
        if not _is_ours(step.tb_frame) and _handles_a_signal(step.tb_frame):
            return True
        last, step = step, step.tb_next
    if last is None or not _is_ours(last.tb_frame):
        return False
    if last.tb_lasti >= 0 and _operation(last.tb_frame.f_code, last.tb_lasti) in _BETWEEN:
        return True
    module = type(error).__module__.partition(".")[0]  # a C function of ours raises no class of the program's
    return module not in sys.stdlib_module_names and module not in ("sqlalchemy", "sessionwatch", "wrapt", "greenlet")


def _report(reports: Reports, hook: str) -> None:
    """Under our own tests it raises; not before the original has run."""
    reports.failed(hook)


def _raising(error: BaseException) -> Callable[..., Any]:
    def again(*_: Any, **__: Any) -> Any:
        raise error

    return again


def _is_ours_to_raise(error: FindingError) -> bool:
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is None or _is_ours(step.tb_frame)


def _through(error: BaseException, original: Any) -> BaseException | None:
    """The error that came out of the original, in an exception or in what it was raised over; without our frames."""
    code = getattr(getattr(original, "__func__", getattr(original, "fget", original)), "__code__", None)
    one: BaseException | None = error
    for _ in range(5):
        step = one.__traceback__ if one is not None else None
        if one is None or step is None:
            return None
        while step is not None:
            is_it = step.tb_frame.f_code is code if code is not None else not _is_ours(step.tb_frame)
            if is_it and not _handles_a_signal(step.tb_frame):
                one.__traceback__ = step
                return one
            step = step.tb_next
        one = one.__context__
    return None


def _at_call(error: BaseException, code: CodeType) -> BaseException | None:
    """The error, if the call of the original itself has failed, as one with arguments that it does not take."""
    step = error.__traceback__
    if step is None or step.tb_next is not None or step.tb_lasti not in _call_of(code).offsets:
        return None
    error.__traceback__ = None
    return error


def _is_ours(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    return path.startswith(_HERE) and not path.startswith(_DEMO)


def _handles_a_signal(frame: FrameType) -> bool:
    """Whether a frame's arguments are a signal's number and the frame that it interrupted."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04)  # *args
    if not 0 < count <= 4:
        return False
    local = frame.f_locals
    values: list[Any] = []
    for name in code.co_varnames[:count]:
        value = local.get(name)
        values += value if isinstance(value, tuple) else (value,)
    return any(isinstance(one, int) and isinstance(two, FrameType) for one, two in itertools.pairwise(values))


def _operation(code: CodeType, lasti: int) -> str:
    return dis.opname[code.co_code[lasti]]


_calls: dict[int, tuple[CodeType, _Call]] = {}


def _call_of(code: CodeType) -> _Call:
    """Read from the replacement's own code; it is kept with it, so that its id() is not given away."""
    known = _calls.get(id(code))
    if known is None:
        known = _calls[id(code)] = code, _read(code)
    return known[1]


def _read(code: CodeType) -> _Call:
    steps = list(dis.get_instructions(code))
    begins = {
        (at.positions.lineno, at.positions.col_offset)
        for at in steps
        if at.argval == "original" and at.opname.startswith("LOAD") and at.positions is not None
    }
    line = 0
    result: str | None = None
    offsets: set[int] = set()
    for number, at in enumerate(steps):
        where = at.positions
        if where is None or not at.opname.startswith("CALL") or (where.lineno, where.col_offset) not in begins:
            continue
        offsets.add(at.offset)
        if (where.end_lineno or 0) >= line:
            line = where.end_lineno or 0
            after = steps[number + 1 : number + 12]
            stored = next((step for step in after if step.opname.startswith("STORE_FAST")), None)
            same = stored is not None and stored.positions is not None and stored.positions.lineno == where.lineno
            result = str(stored.argval) if same and stored is not None else None
    return _Call(line, result, frozenset(offsets))
