"""Errors of ours stay with us: fault injection, the border by itself, and exceptions that are none of ours."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import border
from sessionwatch.model import MODES, Mode
from tests.host import faults
from tests.programs.shop import Base, Order

HERE = os.path.dirname(os.path.abspath(sessionwatch.__file__))


class LimitError(Exception):
    """As Celery's soft time limit: raised by the handler of a signal."""


fired: list[int] = []


def handler(number: int, frame: FrameType | None) -> None:
    fired.append(number)
    raise LimitError


@pytest.mark.slow
def test_each_function_of_ours_may_fail() -> None:
    """The host's outcome is as bare, whichever function of ours raises, and the error is counted."""
    assert faults.check("log", RuntimeError) == []


def test_a_rule_that_is_silent_afterwards_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were a rule that fails dropped without a word, the injection would say so."""
    monkeypatch.setattr(faults, "dropped", lambda watch: set())
    wrong = faults.check("log", RuntimeError, ("rules.lost_writes.check",))
    assert [line.partition(": ")[2] for line in wrong] == ["afterwards silent: lost-writes"]


class Told:
    """Whom the border reports to."""

    def __init__(self) -> None:
        self.hooks: list[str] = []

    def failed(self, hook: str) -> None:
        self.hooks.append(hook)


def replaced(original: Any, told: Told, before: Any = None, after: Any = None) -> Any:
    def replacement(*args: Any) -> Any:
        try:
            if before is not None:
                before()
            result = original(*args)
            if after is not None:
                after()
            return result
        except BaseException as crossed:
            late = border.settle(crossed, original, told, "a hook")
            if late is None:
                raise
            return late(*args)

    return replacement


def raises(error: BaseException) -> Any:
    def fails(*_: Any) -> Any:
        raise error

    return fails


@pytest.mark.parametrize("error", [RuntimeError(), RecursionError(), MemoryError()])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_error_of_ours_is_counted_and_the_original_runs_once(when: str, error: Exception) -> None:
    """Whether it arises before the original or after it, the caller gets what the original returns."""
    ran, told = [], Told()

    def original(value: int) -> int:
        ran.append(value)
        return value + 1

    assert replaced(original, told, **{when: raises(error)})(1) == 2
    assert (ran, told.hooks) == ([1], ["a hook"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_is_no_exception_goes_on_after_the_original(error: BaseException) -> None:
    """KeyboardInterrupt in our part does not skip the original."""
    ran, told = [], Told()

    def original(value: int) -> None:
        ran.append(value)

    with pytest.raises(type(error)):
        replaced(original, told, before=raises(error))(1)
    assert (ran, told.hooks) == ([1], [])


def test_the_hosts_error_is_the_hosts() -> None:
    """It passes, without our frame in its traceback and without a context of ours."""

    def original() -> None:
        raise ValueError("of the host")

    told = Told()
    with pytest.raises(ValueError, match="of the host") as caught:
        replaced(original, told)()
    assert [entry.name for entry in caught.traceback][1:] == ["original"]
    with pytest.raises(ValueError, match="of the host") as caught:
        replaced(original, told, before=raises(RuntimeError()))()
    assert caught.value.__context__ is None
    with pytest.raises(TypeError):
        replaced(original, told)("an argument that it does not take")
    assert told.hooks == ["a hook"]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


MODULES = tuple(os.path.join(HERE, folder) for folder in ("hooks", "record"))


SWALLOWING = ("_finalize_fairy", "__del__")  # a pool logs what is raised while it resets a connection, as bare


def is_swallowed(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in SWALLOWING:
            return True
        frame = frame.f_back
    return False


def lines_of(work: Any) -> int:
    """How many lines of our hooks a piece of work runs through."""
    return run_until(work, -1)


def run_until(work: Any, wanted: int) -> int:
    """Run it, with a real signal at the line of our hooks with that number; how many lines there were until then."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(MODULES):
            return trace if frame.f_code.co_name not in SWALLOWING else None
        if event == "line" and not is_swallowed(frame):
            count += 1
            if count == wanted:
                sys.settrace(None)
                signal.raise_signal(signal.SIGALRM)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "strict"])
def test_an_exception_of_a_signal_handler_arrives(mode: Mode, tmp_path: Path) -> None:
    """At each line of our hooks in turn a signal arrives whose handler raises: it always reaches the program."""
    engine = create_engine(f"sqlite:///{tmp_path / 'here.db'}")
    Base.metadata.create_all(engine)

    def work() -> None:
        with Session(engine) as session:
            session.execute(text("select 1"))
            session.add(Order(status="a"))
            session.flush()
            session.rollback()

    before = signal.signal(signal.SIGALRM, handler)
    swallowed = []
    try:
        with sessionwatch.watching(mode, log=False, rules={"long-session": "off", "session-leak": "off"}) as watch:
            work()
            lines = lines_of(work)
            for number in range(1, lines + 1):
                fired.clear()
                try:
                    run_until(work, number)
                except Exception as error:  # SQLAlchemy may raise another one over it, as it does bare
                    if any(isinstance(one, LimitError) for one in chain(error)):
                        continue
                if fired:  # else this round had fewer lines: what is remembered is not asked again
                    swallowed.append(number)
            assert engine.pool.status()
            internal = watch.status()["internal_errors"]
    finally:
        signal.signal(signal.SIGALRM, before)
        engine.dispose()
    assert lines > 50
    assert swallowed == []
    assert internal == {}
