"""Broken hosts and broken sinks: the program goes on as without us, and findings are kept as far as possible."""

# ruff: noqa: F811, PT012

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.orm.exc import DetachedInstanceError

import sessionwatch
from sessionwatch import Finding, rules
from sessionwatch.model import Rule
from tests.programs.shop import (  # noqa: F401 (fixtures)
    Base,
    Order,
    change,
    detached,
    leak,
    lose,
    memory_engine,
    read,
    reuse,
    shop,
    touch,
)
from tests.rules.clock import Clock

ROOT = Path(__file__).resolve().parents[1]
HOSTS = ROOT / "tests" / "programs"
MISTAKES = (lose, leak, read, change, reuse)


# -- instances ----------------------------------------------------------------------------------------


class Hostile(Base):
    """Nothing about it may be asked: every special method that a tool might call raises."""

    __tablename__ = "hostile"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="x")

    def _refuse(self, *args: object) -> Any:
        raise RuntimeError("nobody may ask")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __format__ = _refuse


class Slotted(Base):
    """Slots beside the instance's dictionary, and an attribute look-up that answers everything."""

    __tablename__ = "slotted"
    __slots__ = ("extra",)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="x")

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return f"made up {name}"

    def __setattr__(self, name: str, value: object) -> None:
        if name == "forbidden":
            raise TypeError("no")
        super().__setattr__(name, value)


def never_flushed(engine: Engine, model: Any) -> None:
    session = Session(engine)
    session.add(model())
    session.close()


@pytest.fixture(params=[Hostile, Slotted], ids=lambda cls: cls.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _our_errors_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")


def test_strange_instances_in_every_rule(model: Any, shop: Engine) -> None:
    """Instances whose special methods raise or lie are reported like any other, by class and attribute only."""
    with sessionwatch.watching(rules={"detached-touch": "log"}, log=False) as watch:
        session = Session(shop)
        session.add_all([model(), model()])
        session.flush()
        session.close()
        with Session(shop) as session, session.begin():
            session.add(model(name="kept"))
        with Session(shop) as session:
            found = session.scalars(select(model)).one()
            session.expire(found, ["name"])
        assert found.id
        with pytest.raises(DetachedInstanceError):
            found.name  # noqa: B018
        found.name = "changed"
        never_flushed(shop, model)
        assert sessionwatch.owner_of(found) is not None
        watch.drain()
    name = model.__name__
    told = {finding.message.partition(",")[0].partition(";")[0] for finding in watch.findings}
    assert f"2 {name} objects were written" in told
    assert f"{name}.id was read after its session had ended" in told
    assert f"{name}.name was read after its session had ended" in told
    assert f"{name}.name was changed" in told
    assert f"1 {name} object was added" in told
    json.dumps([finding.as_json() for finding in watch.findings])


def test_attribute_events_that_raise(shop: Engine) -> None:
    """An attribute event of the program that raises does so as without us, and no change is noted."""

    def refuse(*args: object) -> None:
        raise ValueError("not this value")

    event.listen(Order.status, "set", refuse)
    try:
        with sessionwatch.watching(log=False) as watch:
            order = detached(shop)
            with pytest.raises(ValueError, match="not this value"):
                order.status = "shipped"
            assert order.status == "new"
            watch.drain()
            assert watch.findings == []
    finally:
        event.remove(Order.status, "set", refuse)


def test_mapper_events_that_raise(shop: Engine) -> None:
    """A flush that an event stops leaves its own exception on its way."""

    def refuse(*args: object) -> None:
        raise ValueError("not this row")

    event.listen(Order, "before_insert", refuse)
    try:
        with (
            sessionwatch.watching(mode="strict", log=False) as watch,
            pytest.raises(ValueError, match="not this row") as caught,
            Session(shop) as session,
        ):
            session.add(Order())
            session.flush()
        assert watch.findings == []
        assert not getattr(caught.value, "__notes__", [])
    finally:
        event.remove(Order, "before_insert", refuse)


# -- sessions -----------------------------------------------------------------------------------------


class WithoutSuper(Session):
    """Sets up what it needs itself, later: never calls super().__init__()."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def ready(self) -> WithoutSuper:
        super().__init__(self.engine)
        return self


class Strict(Session):
    """A subclass that does not want attributes of others."""

    def __setattr__(self, name: str, value: object) -> None:
        if "sessionwatch" in name:
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_subclass_without_super_init(shop: Engine) -> None:
    """A session that never was initialised behaves as without us: same exception, same repr, silent end."""
    without = WithoutSuper(shop)
    with pytest.raises(AttributeError) as plain:
        without.close()
    with sessionwatch.watching(mode="strict", log=False) as watch:
        session = WithoutSuper(shop)
        with pytest.raises(AttributeError) as watched:
            session.close()
        assert str(watched.value) == str(plain.value)
        with pytest.raises(AttributeError):
            session.scalars(select(Order))
        with pytest.raises(AttributeError), session:
            pass
        del session
        gc.collect()
        lose_and_keep(WithoutSuper(shop).ready())
        assert [finding.rule for finding in watch.findings] == ["lost-writes"]
        assert watch.status()["internal_errors"] == {}


def lose_and_keep(session: Session) -> None:
    session.add(Order())
    session.flush()
    with contextlib.suppress(sessionwatch.FindingError):
        session.close()


def test_subclass_that_guards_its_attributes(shop: Engine) -> None:
    """We set no attribute in the way that a class may forbid."""
    with sessionwatch.watching(log=False) as watch:
        lose(shop, Strict(shop))
    assert [finding.rule for finding in watch.findings] == ["lost-writes"]


def test_session_whose_init_raises(shop: Engine) -> None:
    """A constructor that refuses its arguments raises its own error, with no frame of ours in the traceback."""
    with sessionwatch.watching(mode="strict", log=False) as watch:
        with pytest.raises(TypeError) as caught:
            Session(shop, no_such_argument=True)  # type: ignore[call-arg]
        assert all("sessionwatch/hooks" not in str(entry.path) for entry in caught.traceback)
        gc.collect()
        assert watch.findings == []
        assert watch.status()["sessions"]["opened"] == {}


# -- whole programs -----------------------------------------------------------------------------------

FOUND = """
import sys
from tests.programs.shop import Order, lose, memory_engine
print("before")
lose(memory_engine())
print("after", flush=True)
"""
ENDS = {
    "normally": "",
    "sys.exit": "sys.exit(3)",
    "sys.exit with words": "sys.exit('words')",
    "unhandled": "def fail():\n    raise ValueError('unhandled')\nfail()",
    "os._exit": "import os\nos._exit(4)",
    "SIGTERM": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nsignal.pause()",
    "SIGKILL": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "thread": "import threading\nthreading.Thread(target=lose, args=(memory_engine(),)).start()",
    "in __del__": "class Last:\n    shop = memory_engine()\n    def __del__(self): lose(self.shop)\nlast = Last()",
    "atexit": "import atexit\natexit.register(lose, memory_engine())",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", ["run", "install"])
def test_program_ends_as_without_us(end: str, how: str, tmp_path: Path) -> None:
    """Exit status, stdout and traceback are the program's own, and the finding that was made is written."""
    program = tmp_path / "program.py"
    program.write_text(FOUND + ENDS[end] + "\n")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "SESSIONWATCH_TESTING": "1"}
    run: dict[str, Any] = {"capture_output": True, "text": True, "cwd": tmp_path, "check": False, "timeout": 120}
    plain = subprocess.run([sys.executable, program], env=environ, **run)
    output = tmp_path / "findings.jsonl"
    if how == "run":
        command = [
            sys.executable,
            "-m",
            "sessionwatch",
            "run",
            "--format",
            "json",
            "--output",
            str(output),
            str(program),
        ]
    else:
        program.write_text(
            f"import sessionwatch; sessionwatch.install(log=False, output={str(output)!r})" + program.read_text()
        )
        command = [sys.executable, str(program)]
    watched = subprocess.run(command, env=environ, **run)
    assert (watched.returncode, watched.stdout) == (plain.returncode, plain.stdout)
    assert re.sub("0x[0-9a-f]+", "0x", watched.stderr) == re.sub("0x[0-9a-f]+", "0x", plain.stderr)
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert written
    assert {item["rule"] for item in written} == {"lost-writes"}


# -- our own errors -----------------------------------------------------------------------------------


def broken_rule(monkeypatch: pytest.MonkeyPatch) -> Rule:
    """The rules with one that raises in its check."""
    from dataclasses import replace

    def check(event: Any, settings: Any) -> Iterator[Finding]:
        raise RuntimeError("a bug in the rule")
        yield

    broken = replace(rules.find("lost-writes"), check=check)
    monkeypatch.setattr(rules, "ALL", (broken, *(rule for rule in rules.ALL if rule.slug != broken.slug)))
    return broken


def test_rule_that_fails_is_dropped(
    shop: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A rule that raises is dropped and logged once; the program and the other rules go on."""
    monkeypatch.delenv("SESSIONWATCH_TESTING")
    broken_rule(monkeypatch)
    with sessionwatch.watching(
        mode="strict", rules={"detached-touch": "off", "session-leak": "log"}, log=False
    ) as watch:
        lose(shop)
        lose(shop)
        leak(shop)
        assert [finding.rule for finding in watch.findings] == ["session-leak"]
        assert watch.status()["internal_errors"] == {"rule lost-writes": 1}
        assert watch.status()["rules"]["lost-writes"]["from"] == "dropped after an internal error"
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        "sessionwatch failed in rule lost-writes; the program is not affected",
    )
    assert record.exc_info is not None


def test_rule_that_fails_raises_under_our_tests(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SESSIONWATCH_TESTING the same error comes out."""
    broken_rule(monkeypatch)
    with sessionwatch.watching(log=False), pytest.raises(RuntimeError, match="a bug in the rule"):
        lose(shop)


DETACHED = ("access", "touch", "write")
SESSIONS = {"lost-writes", "session-leak", "use-after-close", "long-session"}


def test_callback_that_raises(
    shop: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An ``on_finding`` that raises is logged once, and the other outputs get their findings."""
    monkeypatch.delenv("SESSIONWATCH_TESTING")
    caplog.set_level(logging.WARNING, "sessionwatch")  # not what is told for information, whatever others have set

    def fail(finding: Finding) -> None:
        raise RuntimeError("a bug in the callback")

    with sessionwatch.watching(on_finding=fail, rules={"detached-touch": "log"}) as watch:
        for mistake in (*MISTAKES, touch):
            mistake(shop)
        with Session(shop) as session:
            session.connection()
            Clock(watch).sleep(60)
    assert {finding.rule for finding in watch.findings} == {f"detached-{kind}" for kind in DETACHED} | SESSIONS
    said = [record.getMessage() for record in caplog.records if record.name == "sessionwatch"]
    assert sum(text.startswith("sessionwatch failed in") for text in said) == 1
    assert len(said) == 1 + len(watch.findings)


class Raising(logging.Handler):
    """A handler with a bug that does not care for logging.raiseExceptions."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("a bug in the handler")

    handle = emit  # type: ignore[assignment]


def test_logging_handler_that_raises(
    shop: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A logging handler that raises, on findings and on our own error report, does not reach the program."""
    monkeypatch.delenv("SESSIONWATCH_TESTING")
    logger = logging.getLogger("sessionwatch")
    handler = Raising()
    logger.addHandler(handler)
    try:
        with sessionwatch.watching() as watch:
            for mistake in MISTAKES:
                mistake(shop)
    finally:
        logger.removeHandler(handler)
    assert {"lost-writes", "session-leak", "detached-access"} <= {finding.rule for finding in watch.findings}


def test_callback_that_uses_sessions(shop: Engine) -> None:
    """A callback may use sessions and make mistakes itself: that neither recurses nor deadlocks."""
    heard: list[str] = []

    def write_down(finding: Finding) -> None:
        heard.append(finding.rule)
        lose(shop)
        with Session(shop) as session, session.begin():
            session.add(Order())

    with sessionwatch.watching(on_finding=write_down, log=False) as watch:
        for mistake in MISTAKES:
            mistake(shop)
    assert sorted(heard) == sorted(finding.rule for finding in watch.findings)


def test_findings_inside_the_collector(shop: Engine) -> None:
    """Sessions that the collector finds while we log, or while their owner's __del__ runs, are all told."""

    class Owner:
        def __init__(self) -> None:
            self.me = self
            self.session = Session(shop)
            self.session.scalars(select(Order)).all()

        def __del__(self) -> None:
            lose(shop)

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.getMessage()
            gc.collect()

    handler = Collecting()
    logging.getLogger("sessionwatch").addHandler(handler)
    try:
        with sessionwatch.watching() as watch:
            gc.disable()  # in the midst of `lose`, whose transaction locks the file, a collection would wait for itself
            for _ in range(3):
                Owner()
            lose(shop)
            gc.collect()
    finally:
        gc.enable()
        logging.getLogger("sessionwatch").removeHandler(handler)
    counts = {finding.rule: 0 for finding in watch.findings}
    for finding in watch.findings:
        counts[finding.rule] += finding.count
    assert counts == {"lost-writes": 4, "session-leak": 3}
    assert watch.status()["internal_errors"] == {}


# -- many ---------------------------------------------------------------------------------------------


def test_threads(shop: Engine) -> None:
    """Eight threads with 200 sessions each: nothing is lost in the counting, nothing fails."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        try:
            barrier.wait()
            for number in range(200):
                session = Session(shop)
                session.scalars(select(Order)).all()
                if number % 10 == 0:
                    with sessionwatch.allow("lost-writes", reason="every tenth"):
                        session.add(Order())
                        session.close()
                else:
                    session.close()
        except BaseException as error:
            failures.append(error)

    with sessionwatch.watching(log=False) as watch:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        status = watch.status()
    assert failures == []
    assert status["sessions"]["opened"] == {"sync": 1600}
    assert sum(status["sessions"]["closed"].values()) == 1600
    assert status["sessions"]["closed"]["lost, sync"] == status["allowed"] == 160
    assert status["statements"] == 1600
    assert (status["findings"], status["internal_errors"], status["sessions"]["active"]) == ({}, {}, 0)


def test_memory_is_bounded() -> None:
    """Ten thousand sessions keep no more records than the history's size, and memory stops growing."""
    engine = memory_engine()
    with sessionwatch.watching(log=False, settings={"history.sessions": 100, "history.loads": 100}) as watch:

        def work(sessions: int) -> None:
            for _ in range(sessions):
                with Session(engine) as session:
                    session.scalars(select(Order)).all()
                    session.expunge(session.get_one(Order, 1))

        work(2000)
        gc.collect()
        before = sys.getallocatedblocks()
        work(8000)
        gc.collect()
        grown = sys.getallocatedblocks() - before
        ledger = watch.tracker.ledger
        assert len(ledger.closed) == 100
        assert len(ledger._order) <= 200
        assert len(ledger.expunged) == 0
        assert sum(watch.status()["sessions"]["closed"].values()) == 10_000
    engine.dispose()
    assert grown < 4000  # blocks of memory, for 8000 sessions


def test_findings_are_bounded(shop: Engine) -> None:
    """More different findings than are kept are only counted."""
    source = "\n".join(f"def f{n}(engine):\n    lose(engine)\n" for n in range(10))
    source = source.replace("lose(engine)", "s = Session(engine); s.add(Order()); s.close()")
    space: dict[str, Any] = {"Session": Session, "Order": Order, "__name__": "many"}
    exec(compile(source, "many.py", "exec"), space)
    with sessionwatch.watching(log=False, settings={"history.findings": 4}) as watch:
        for n in range(10):
            space[f"f{n}"](shop)
    assert len(watch.findings) == 4
    assert watch.status()["findings_not_kept"] == 6
