"""Which call of which function asked for a session: the unit of work where nothing declares one.

A call is told from later ones of the same function by a token on its frame, which is gone when the call is
over; a frame's address would be used again, and a frame itself would keep the function's variables alive.
"""

from __future__ import annotations

import dis
import sys
from types import CodeType, FrameType
from typing import Any, NamedTuple

from ..model import by_instruction, line_of
from . import callsite
from .callsite import _new

_DEEPEST = 6  # functions of the user's that are looked at, outwards
_GENERATOR = 0x20 | 0x200  # CO_GENERATOR, CO_ASYNC_GENERATOR: they hand a session out
_RESUMED = _GENERATOR | 0x80 | 0x100  # and coroutines: who called them may change
_LEAVING = ("RETURN", "RAISE", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_ABSOLUTE")  # nothing follows below
_TESTS = ("test", "setup", "setUp", "asyncSetUp")


class Token:
    """Lies on a frame in the place of a trace function. ``commits``: what sessions that it asked for have committed.

    Python calls it only if a tracer begins meanwhile; it then stays where it is and does nothing.
    """

    __slots__ = ("commits", "outer", "told")

    def __init__(self) -> None:
        self.commits: list[tuple[Any, int, int, Any]] = []  # database, offset of the call, distance, what
        self.told = False
        self.outer: tuple[tuple[Token, int], ...] | None = None  # the calls around a plain function's, for its length

    def __call__(self, *_: object) -> Token:
        return self


class Asking(NamedTuple):
    """A call that asked for a session: the frame's token, its code, and the instruction that it was at."""

    token: Token
    code: CodeType
    lasti: int
    outermost: bool


def callers(frame: FrameType | None) -> tuple[tuple[Token, int], ...]:
    """The calls of the user's functions at and outside ``frame``, innermost first.

    Empty under a debugger or a tracer: their trace functions are not to be replaced.
    """
    if sys.gettrace() is not None:
        return ()
    inner = frame
    if frame is None or frame.f_code.co_filename not in callsite._users:  # else it is the usual case
        inner = next(iter(callsite.user_frames(frame, 1)), None)
    token = inner.f_trace if inner is not None else None
    if type(token) is Token and token.outer is not None:  # no look at the rest for a call that opens many sessions
        return ((token, inner.f_lasti), *token.outer)  # type: ignore[union-attr]
    found = []
    frames = callsite.user_frames(frame, _DEEPEST)
    for outer in frames:
        token = outer.f_trace
        if token is None:
            token = outer.f_trace = Token()
        elif type(token) is not Token:
            return ()
        found.append((token, outer.f_lasti))
    if found and not frames[0].f_code.co_flags & _RESUMED:
        found[0][0].outer = tuple(found[1:])
    return tuple(found)


def asking(frame: FrameType | None, opened: tuple[tuple[Token, int], ...]) -> list[Asking]:
    """The innermost two of the calls that are still running, without generators, which only hand the session out."""
    found: list[Asking] = []
    if not opened:
        return found
    places = dict(opened)
    running = callsite.user_frames(frame, _DEEPEST)
    for number, outer in enumerate(running, 1):  # none are running where a task closes it
        token = outer.f_trace
        if type(token) is Token and token in places and not (code := outer.f_code).co_flags & _GENERATOR:
            outermost = number == len(running) or (code.co_name == "main" and _is_test(running[number]))
            found.append(_new(Asking, (token, code, places[token], outermost)))
            if len(found) == 2:
                break
    return found


def _is_test(frame: FrameType) -> bool:
    """A test that calls `main()` stands for the module that does: a program begins with this call."""
    return frame.f_code.co_name.startswith(_TESTS)


def together(asking: list[Asking], database: Any, session: int, what: Any) -> tuple[Asking, Any] | None:
    """Note a commit; the call that asked for this session and, from another line, for an earlier one, if any.

    That is the function that asked itself or through a provider, or the one that called two such functions.
    """
    found = None
    for distance, call in enumerate(asking):
        commits, lasti = call.token.commits, call.lasti
        if len(commits) == 1 and commits[0][:2] == (database, lasti) and commits[0][3].session == session:
            commits.clear()  # its own, again
        if commits:
            earlier, others = [], []
            for kept in commits:
                same = kept[0] == database
                if same and kept[3].session != session:
                    earlier.append(kept)
                if not same or kept[1] != lasti:
                    others.append(kept)
            if earlier and found is None:
                found = (call, earlier[-1]) if _is_one_unit(call, distance, earlier) else (call, None)
            commits[:] = others
        commits.append((database, lasti, distance, what))
    if found is None or found[1] is None:
        return None
    found[0].token.told = True
    return found[0], found[1][3]


def earlier(asking: list[Asking], database: Any, session: int) -> tuple[Asking | None, Any]:
    """The call that asked for this session and, from another line, for one that has committed, and what that was."""
    for distance, call in enumerate(asking):
        commits = [kept for kept in call.token.commits if kept[0] == database and kept[3].session != session]
        if commits:
            return (call, commits[-1][3]) if _is_one_unit(call, distance, commits) else (None, None)
    return None, None


def _is_one_unit(call: Asking, distance: int, earlier: list[Any]) -> bool:
    if call.token.told:
        return False
    _, lasti, before, _ = earlier[-1]
    itself = distance == before == 0
    if call.outermost and (not itself or call.code.co_name.startswith(_TESTS)):
        return False  # a program's main() is a sequence of units, and a test plays several parts
    line = line_of(call.code, call.lasti)
    for _, place, _, _ in earlier:
        if place == call.lasti or line_of(call.code, place) == line:
            return False
    return not (_in_a_loop(call.code, lasti) or _in_a_loop(call.code, call.lasti))


@by_instruction
def _in_a_loop(code: CodeType, place: int) -> bool:
    """Whether an instruction is within a loop: each of its rounds may be a unit."""
    following = _following(code)
    start = max(offset for offset in following if offset <= max(place, 0))  # a call's offset may be its cache's
    seen: set[int] = set()
    ahead = [*following[start]]
    while ahead:
        offset = ahead.pop()
        if offset not in seen:
            seen.add(offset)
            ahead += following.get(offset, ())
    return start in seen


def _following(code: CodeType) -> dict[int, list[int]]:
    """Where the code may go on after each of its instructions. An await, which jumps back too, is no loop."""
    bytecode = dis.Bytecode(code)
    steps = list(bytecode)
    following: dict[int, list[int]] = {}
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        jumps = step.opcode in dis.hasjrel or step.opcode in dis.hasjabs
        goes = [step.argval] if jumps and "NO_INTERRUPT" not in step.opname else []
        if after is not None and not step.opname.startswith(_LEAVING):
            goes.append(after.offset)
        following[step.offset] = goes
    for entry in getattr(bytecode, "exception_entries", ()):  # undocumented: without it, fewer loops are known
        for offset in following:
            if entry.start <= offset < entry.end:
                following[offset].append(entry.target)
    return following
