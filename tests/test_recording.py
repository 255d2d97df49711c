"""The recording: what sessions did and when, bounded, and only where it is asked for."""

# ruff: noqa: F811

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.frames import callsite
from sessionwatch.record import recording as module
from sessionwatch.record.events import Misconfigured
from sessionwatch.record.recording import Recording
from sessionwatch.units.scope import unit_of_work
from sessionwatch.watch import installation
from tests.programs.shop import (  # noqa: F401 (fixtures)
    Order,
    _our_errors_raise,
    async_file_engine,
    change,
    detached,
    lose,
    reuse,
    shop,
    touch,
)

Line = dict[str, Any]


class Recorded:
    """An installation with a recording, and what it has written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rules = {"detached-touch": "log"}
        self.watch = installation.install(mode="log", log=False, rules=rules, recording=str(path))

    def lines(self, kind: str) -> list[Line]:
        if not self.path.exists():
            return []
        lines = map(json.loads, self.path.read_text().splitlines())
        return [line for line in lines if line["kind"] == kind]

    @property
    def sessions(self) -> dict[str, Line]:
        """By label; of a session that was written twice, the last line."""
        return {line["id"]: line for line in self.lines("session")}

    @property
    def only(self) -> Line:
        (line,) = self.sessions.values()
        return line


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    """A recording that is under way."""
    made = Recorded(tmp_path / "recording.jsonl")
    yield made
    made.watch.uninstall()


def kinds(line: Line) -> list[str]:
    return [mark[0] for mark in line["marks"]]


def listeners() -> dict[str, int]:
    """How many listeners each of a session's events has."""
    names = ("after_begin", "after_transaction_end", "after_flush", "after_commit", "after_rollback", "do_orm_execute")
    dispatch = Session().dispatch
    return {name: len(list(getattr(dispatch, name))) for name in names}


# -- what is written ------------------------------------------------------------------------------------


def test_marks_of_a_session(recorded: Recorded, shop: Engine) -> None:
    """Loads, flushes, commits and rollbacks are marks, in order, each with its line."""
    with Session(shop) as session:
        session.get(Order, 1)
        session.add(Order())
        session.commit()
        session.execute(text("UPDATE orders SET status = 'sent'"))
        session.rollback()
    assert kinds(recorded.only) == ["load", "flush", "commit", "write", "rollback"]
    assert {mark[4] for mark in recorded.only["marks"]} == {__file__.removeprefix(os.getcwd() + os.sep)}
    assert recorded.only["end"] == "committed"


def test_times(recorded: Recorded, shop: Engine) -> None:
    """A session's opening, transactions, connections, marks and close stand in the order of time, in one clock."""
    with Session(shop) as session:
        session.get(Order, 1)
        session.commit()
        session.get(Order, 1)
    line = recorded.only
    (first, second), (held, _) = line["tx"], line["connection"]
    marks = [moment for mark in line["marks"] for moment in mark[1:3]]
    assert line["open"] <= first[0] <= held[0] <= held[1] == first[1] <= second[0] <= second[1] <= line["close"]
    assert marks == sorted(marks)
    assert abs(line["open"] - os.stat(recorded.path).st_mtime) < 60


def test_one_line_again_and_again_is_one_mark(recorded: Recorded, shop: Engine) -> None:
    """A loop of loads makes one mark with its first and last moment and a count."""
    with Session(shop) as session:
        for _ in range(50):
            session.scalars(select(Order)).all()
    assert [(mark[0], mark[3]) for mark in recorded.only["marks"]] == [("load", 50)]


def test_savepoints_are_no_marks(recorded: Recorded, shop: Engine) -> None:
    """What a savepoint does is not the transaction's commit or rollback."""
    with Session(shop) as session:
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            session.add(Order())
            session.flush()
            1 / 0  # noqa: B018
        with session.begin_nested():
            session.add(Order())
        session.rollback()
    assert set(kinds(recorded.only)) == {"flush", "rollback"}


async def test_async_sessions(recorded: Recorded, tmp_path: Path) -> None:
    """A session of asyncio has its task."""
    from sqlalchemy.ext.asyncio import AsyncSession

    engine = await async_file_engine(tmp_path)

    async def read() -> None:
        async with AsyncSession(engine) as session:
            await session.get(Order, 1)

    await asyncio.create_task(read(), name="reader")
    await engine.dispose()
    assert (recorded.only["task"], kinds(recorded.only)) == ("reader", ["load"])


def test_findings_name_their_session(recorded: Recorded, shop: Engine) -> None:
    """Each occurrence of a finding is a line with its session, time and whether it came after the session's end."""
    lose(shop)
    lose(shop)
    touch(shop)
    lost, again, late = recorded.lines("finding")
    assert lost["fingerprint"] == again["fingerprint"] != late["fingerprint"]
    assert [line["late"] for line in (lost, again, late)] == [False, False, True]
    sessions = recorded.sessions
    assert [sessions[line["session"]]["end"] for line in (lost, again, late)] == ["lost", "lost", "read_only"]
    assert late["t"] >= sessions[late["session"]]["close"]


def test_change_that_is_told_later(recorded: Recorded, shop: Engine) -> None:
    """A detached instance's change has the time at which it was made, and its unit, not those of the report."""
    with unit_of_work("nightly"):
        order = detached(shop)
        order.status = "shipped"
        before = recorded.watch.audience.recording.clock() if recorded.watch.audience.recording else 0.0
    (line,) = recorded.lines("finding")
    recording = recorded.watch.audience.recording
    assert recording is not None
    assert line["t"] <= recording._epoch + before
    assert line["unit_name"] == "nightly"


def test_every_rule_can_be_recorded(recorded: Recorded, shop: Engine) -> None:
    """A finding about a setting, which has no session, is a line too."""
    here = callsite.mark(sys._getframe())
    recorded.watch.tracker.emit(Misconfigured("static", "engine", here, here, here))
    (line,) = recorded.lines("finding")
    assert (line["session"], line["late"]) == (None, False)


def test_units(recorded: Recorded, shop: Engine) -> None:
    """A unit's end is a line, with the name that it has by then."""
    with unit_of_work("import") as unit:
        with Session(shop) as session:
            session.get(Order, 1)
        unit.name = "nightly-import"
    (line,) = recorded.lines("unit")
    assert (line["name"], line["unit"]) == ("nightly-import", recorded.only["unit"])


def test_open_session_with_a_finding(recorded: Recorded, shop: Engine) -> None:
    """A session that is still open is written when it gets a finding, and again when it has ended."""
    reuse(shop)
    first, again = recorded.lines("session")
    assert (first["end"], again["end"]) == ("read_only", "read_only")
    assert first["id"] != again["id"]


# -- bounds ---------------------------------------------------------------------------------------------


def test_sample_is_bounded(monkeypatch: pytest.MonkeyPatch, recorded: Recorded, shop: Engine) -> None:
    """Of very many sessions the first are kept, then fewer and fewer."""
    monkeypatch.setattr(module, "FIRST", 10)
    for _ in range(1_000):
        Session(shop).close()
    assert 10 < len(recorded.sessions) < 100


def test_every_session_with_a_finding_is_kept(
    monkeypatch: pytest.MonkeyPatch, recorded: Recorded, shop: Engine
) -> None:
    """However many sessions came before and in between, one that gets a finding is there, also after its end."""
    monkeypatch.setattr(module, "FIRST", 1)
    for _ in range(300):
        Session(shop).close()
    order = detached(shop)
    for _ in range(300):
        Session(shop).close()
    assert order.status == "new"
    lose(shop)
    named = {line["session"] for line in recorded.lines("finding")}
    assert len(named) == 2
    assert named <= set(recorded.sessions)


def test_marks_are_bounded(monkeypatch: pytest.MonkeyPatch, recorded: Recorded, shop: Engine) -> None:
    """A session that goes on and on has so many marks, and the number of those left out."""
    monkeypatch.setattr(module, "MOST_MARKS", 10)
    with Session(shop) as session:
        for _ in range(50):
            session.get(Order, 1, populate_existing=True)
            session.commit()
    assert (len(recorded.only["marks"]), recorded.only["left_out"]) == (10, 90)


def test_findings_are_bounded(monkeypatch: pytest.MonkeyPatch, recorded: Recorded, shop: Engine) -> None:
    """So many occurrences are written; of the rest the number."""
    monkeypatch.setattr(module, "MOST_FOUND", 3)
    for _ in range(5):
        lose(shop)
    recorded.watch.ends.at_exit()
    assert len(recorded.lines("finding")) == 3
    assert recorded.lines("totals")[0]["unnoted"] == 2


def test_holds_nothing(recorded: Recorded, shop: Engine) -> None:
    """A session and an instance are gone as soon as the program has dropped them."""
    with Session(shop) as session:
        order = session.get(Order, 1)
        gone = weakref.ref(session), weakref.ref(order)
    change(shop)
    del session, order
    gc.collect()
    assert [one() for one in gone] == [None, None]


# -- only where it is asked for -------------------------------------------------------------------------


def test_costs_nothing_when_off(shop: Engine) -> None:
    """Without a recording no listener is there for it, nothing is called for a session, and its record has no life."""
    with sessionwatch.watching(mode="log", log=False) as watch:
        off = listeners()
        assert (watch.tracker.when_opened, watch.tracker.when_ended) == (None, None)
        with Session(shop) as session:
            session.get(Order, 1)
            assert "life" not in vars(session._sessionwatch)  # type: ignore[attr-defined]
    assert off["do_orm_execute"] == 0


def test_undo_is_exact(tmp_path: Path) -> None:
    """After the end of an installation with a recording, no listener is left."""
    before = listeners()
    Recorded(tmp_path / "recording.jsonl").watch.uninstall()
    assert listeners() == before


def test_result_of_a_statement_is_the_programs(recorded: Recorded, shop: Engine) -> None:
    """The program's own listeners of statements work as before."""
    seen: list[bool] = []

    def listen(state: Any) -> None:
        seen.append(state.is_select)

    event.listen(Session, "do_orm_execute", listen)
    try:
        with Session(shop) as session:
            assert session.scalars(select(Order.status)).all() == ["new"]
    finally:
        event.remove(Session, "do_orm_execute", listen)
    assert seen == [True]


def test_own_installation_goes_on_recording(tmp_path: Path, shop: Engine) -> None:
    """A program's own installation takes over the recording of `sessionwatch run`, and hands it back."""
    path = tmp_path / "recording.jsonl"
    around = installation.install(mode="log", log=False, gives_way=True, recording=str(path))
    with sessionwatch.watching(mode="log", log=False):
        lose(shop)
    lose(shop)
    now = installation.current()
    assert now is not None
    installation.withdraw(around)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(line["kind"] == "session" for line in lines) == 2


def test_file_that_is_gone(recorded: Recorded, shop: Engine, tmp_path: Path) -> None:
    """Where nothing can be written any more, the program goes on."""
    recording = recorded.watch.audience.recording
    assert isinstance(recording, Recording)

    def write(line: bytes) -> None:
        raise OSError

    recording._write = write
    lose(shop)
    assert len(recorded.watch.findings) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_child(recorded: Recorded, shop: Engine) -> None:
    """A child records its own sessions, under its own number, and none of its parent's."""
    session = Session(shop)
    session.get(Order, 1)
    child = os.fork()
    if child == 0:
        try:
            lose(shop)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    session.close()
    by_process = {(line["pid"], line["end"]) for line in recorded.lines("session")}
    assert by_process == {(child, "lost"), (os.getpid(), "read_only")}
