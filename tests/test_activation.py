"""Which call of a function asked for a session: tokens on frames, and loops in bytecode."""

from __future__ import annotations

import dis
import gc
import sys
import weakref
from types import CodeType, FrameType
from typing import Any

import pytest

from sessionwatch.frames.activation import Token, _in_a_loop, callers

STRAIGHT = """
def f(e):
    with here(e) as s:
        s.add(1)
        s.commit()
    with here(e) as s, s.begin():
        s.commit()
    try:
        here(e)
    except ValueError as error:
        log(error)
    finally:
        here(e)
    here([q for q in w])
"""
AWAITED = """
async def f(e):
    await here(e)
    async with here(e) as s:
        await s.commit()
    try:
        async with here(e) as s, s.begin():
            await s.commit()
    except ValueError:
        await here(e)
"""
LOOPS = """
def f(e):
    for x in e:
        with here(e) as s:
            s.commit()
    while True:
        try:
            here(e)
            break
        except ValueError:
            continue
"""
ASYNC_LOOPS = """
async def f(e):
    async for x in e:
        await here(e)
    while await q():
        async with here(e) as s, t.begin():
            pass
"""


def places(source: str) -> tuple[CodeType, list[int]]:
    """A function's code, and the offsets of its calls of ``here``."""
    names: dict[str, Any] = {}
    exec(source, names)
    code = names["f"].__code__
    lines = [number for number, text in enumerate(source.splitlines(), 1) if "here(" in text]
    calls = [step for step in dis.get_instructions(code) if step.opname in ("CALL", "CALL_KW")]
    return code, [step.offset for step in calls if step.positions is not None and step.positions.lineno in lines]


@pytest.mark.parametrize(("source", "loops"), [(STRAIGHT, False), (AWAITED, False), (LOOPS, True), (ASYNC_LOOPS, True)])
def test_loops(source: str, loops: bool) -> None:
    """A place is in a loop if the code may come back to it; handlers that were moved to the end are no loop."""
    code, offsets = places(source)
    assert len(offsets) >= 2
    assert {_in_a_loop(code, offset) for offset in offsets} == {loops}


def test_a_token_lives_as_long_as_its_call() -> None:
    """It is gone when the function has returned, and another call has another one."""

    class Seen(Token):
        __slots__ = ("__weakref__",)

    def called() -> weakref.ref[Any]:
        sys._getframe().f_trace = token = Seen()  # type: ignore[assignment]
        return weakref.ref(token)

    gone = called()
    assert gone() is None


def test_callers_keep_nothing_alive() -> None:
    """What is kept of a call is neither its frame nor its variables."""

    class Thing:
        pass

    def called() -> tuple[Any, weakref.ref[Thing]]:
        thing = Thing()
        return callers(sys._getframe()), weakref.ref(thing)

    gc.disable()
    try:
        kept, thing = called()
        assert kept
        assert thing() is None
        assert not any(isinstance(item, FrameType) for item in gc.get_referents(*kept))
    finally:
        gc.enable()


def test_a_tracers_frames_are_left_alone() -> None:
    """A trace function that is on a frame already stays there, and the call is not told apart."""

    def called() -> object:
        frame = sys._getframe()
        frame.f_trace = tracer
        return callers(frame), frame.f_trace

    def tracer(*_: object) -> None:
        return None

    assert called() == ((), tracer)


def test_a_tracer_that_begins_later_meets_a_token_that_does_nothing() -> None:
    """A debugger may start in a function that carries a token."""
    callers(sys._getframe())
    events: list[str] = []

    def tracer(frame: FrameType, event: str, _: object) -> Any:
        events.append(event)
        return tracer

    def traced() -> int:
        return 1

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        assert traced() == 1
    finally:
        sys.settrace(before)
    assert events[:2] == ["call", "line"]
    assert isinstance(sys._getframe().f_trace, Token)
