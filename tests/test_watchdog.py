"""The watchdog's thread: when it exists, that it sees by itself, and that it leaves nothing behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import Finding
from sessionwatch.model import Level
from tests.programs.shop import Order, _our_errors_raise, shop  # noqa: F401 (fixtures)

# ruff: noqa: F811

OFF: dict[str, Level] = {"long-session": "off", "session-leak": "off"}
QUICK = {"long-session.idle": 0.05}
PATIENCE = 180.0


def ours() -> list[threading.Thread]:
    """The threads that are sessionwatch's."""
    return [thread for thread in threading.enumerate() if thread.name == "sessionwatch"]


def work(engine: Engine) -> None:
    with Session(engine) as session:
        session.scalars(select(Order)).all()


@pytest.fixture
def seen() -> Iterator[threading.Event]:
    """Set when the first finding arrives, for `install(on_finding=...)`."""
    return threading.Event()


def test_there_is_no_thread_before_the_first_transaction(shop: Engine) -> None:
    """Installing starts nothing, opening a session starts nothing; the first transaction does, one thread for all."""
    with sessionwatch.watching(log=False):
        assert ours() == []
        Session(shop).close()
        assert ours() == []
        work(shop)
        assert len(ours()) == 1
        work(shop)
        assert len(ours()) == 1
        assert ours()[0].daemon
    assert ours() == []


def test_there_is_no_thread_where_its_rules_are_off(shop: Engine) -> None:
    """Neither of the two rules is on: no thread, whatever is done."""
    with sessionwatch.watching(log=False, rules=OFF):
        work(shop)
        assert ours() == []


def test_switching_the_rules_off_ends_the_thread(shop: Engine) -> None:
    """A mode in which its rules are off ends it, and the mode after that begins anew."""
    with sessionwatch.watching(log=False) as watch:
        work(shop)
        watch.config.levels |= OFF
        watch.rehook()
        assert ours() == []
        work(shop)
        assert ours() == []
        watch.config.levels |= dict.fromkeys(OFF, "log")
        watch.rehook()
        work(shop)
        assert len(ours()) == 1


def test_it_sees_by_itself(shop: Engine, seen: threading.Event) -> None:
    """Nobody calls: the thread reports an idle transaction while it is open."""

    def found(finding: Finding) -> None:
        told.append((finding.rule, threading.current_thread().name))
        seen.set()

    told: list[tuple[str, str]] = []
    with sessionwatch.watching(log=False, settings=QUICK, on_finding=found), Session(shop) as session:
        session.scalars(select(Order)).all()
        assert seen.wait(PATIENCE)
    assert told == [("long-session", "sessionwatch")]


def test_it_wakes_up_again(shop: Engine, seen: threading.Event) -> None:
    """After a time in which nothing was open it waits without a time-out, and the next transaction wakes it."""
    with sessionwatch.watching(log=False, settings=QUICK, on_finding=lambda _: seen.set()) as watch:
        work(shop)
        until = time.monotonic() + PATIENCE
        while not watch.watchdog.parked and time.monotonic() < until:
            ours()[0].join(0.01)
        assert watch.watchdog.parked
        thread = ours()[0]
        with Session(shop) as session:
            session.scalars(select(Order)).all()
            assert seen.wait(PATIENCE)
        assert ours() == [thread]


def test_nothing_open_is_nothing_due(shop: Engine) -> None:
    """A look at nothing asks for no other look; one at an open transaction does, within half of the limit."""
    with sessionwatch.watching(log=False) as watch:
        work(shop)
        assert watch.watchdog.tick() is None
        with Session(shop) as session:
            session.scalars(select(Order)).all()
            wait = watch.watchdog.tick()
            assert wait is not None
            assert 0 < wait <= 2.5
        assert watch.watchdog.tick() is None


def test_it_keeps_no_session(shop: Engine) -> None:
    """A session that is dropped is collected as ever, and its transaction is watched no longer."""
    with sessionwatch.watching(log=False, rules={"session-leak": "off"}) as watch:
        session = Session(shop)
        session.connection()
        assert len(watch.watchdog.holders()) == 1
        watch.watchdog.tick()
        reference = weakref.ref(session)
        del session
        gc.collect()
        assert reference() is None
        assert watch.watchdog.tick() is None
        assert watch.watchdog.holders() == []


def test_an_error_of_its_own_stays_inside(
    shop: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure while looking is counted and logged once; the program goes on."""
    monkeypatch.delenv("SESSIONWATCH_TESTING", raising=False)
    with sessionwatch.watching(log=False) as watch, Session(shop) as session:
        session.scalars(select(Order)).all()
        monkeypatch.setattr(watch.watchdog, "_look", lambda *_: 1 / 0)
        watch.watchdog.tick()
        watch.watchdog.tick()
        assert watch.status()["internal_errors"] == {"watchdog": 2}
    assert [record.getMessage() for record in caplog.records] == [
        "sessionwatch failed in watchdog; the program is not affected"
    ]


def test_uninstall_from_its_own_thread(shop: Engine, seen: threading.Event) -> None:
    """A callback that uninstalls on the first finding does not wait for itself."""

    def found(finding: Finding) -> None:
        sessionwatch.uninstall()
        seen.set()

    with sessionwatch.watching(log=False, settings=QUICK, on_finding=found) as watch, Session(shop) as session:
        session.scalars(select(Order)).all()
        assert seen.wait(PATIENCE)
    assert watch.status()["installed"] is False
    for thread in ours():
        thread.join(PATIENCE)
    assert ours() == []


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals of POSIX")
def test_signals_are_not_for_it(shop: Engine) -> None:
    """A signal that the program has blocked to wait for it is not delivered to the watchdog's thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with sessionwatch.watching(log=False, settings=QUICK) as watch:
        work(shop)
        until = time.monotonic() + PATIENCE
        while not watch.watchdog.parked and time.monotonic() < until:
            ours()[0].join(0.01)
        status = Path(f"/proc/self/task/{ours()[0].native_id}/status")
        if not status.exists():
            pytest.skip("no /proc")
        blocked = next(text for text in status.read_text().splitlines() if text.startswith("SigBlk"))
        assert int(blocked.split()[1], 16) & (1 << (signal.SIGUSR1 - 1))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


# -- processes --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_has_no_thread_of_ours(shop: Engine) -> None:
    """The thread is gone when the program forks; the child's own first transaction begins another."""

    def child(pipe: multiprocessing.connection.Connection) -> None:
        before = len(ours())
        shop.dispose(close=False)
        work(shop)
        pipe.send((before, len(ours())))

    with sessionwatch.watching(log=False):
        work(shop)
        assert len(ours()) == 1
        here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
        process.start()
        assert ours() == []
        assert here.recv() == (0, 1)
        process.join(PATIENCE)
        assert process.exitcode == 0
        work(shop)
        assert len(ours()) == 1


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "raise KeyError('mine')", "os._exit(4)"])
def test_a_program_ends_as_it_would(ending: str, tmp_path: Path) -> None:
    """With a transaction open, and the thread in the middle of its wait, a program ends as it does alone."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import os, sys
        from sqlalchemy import create_engine, text
        from sqlalchemy.orm import Session
        if "watched" in sys.argv:
            import sessionwatch
            sessionwatch.install(rules={{"session-leak": "off", "long-session": "log"}})
        session = Session(create_engine("sqlite://"))
        session.execute(text("SELECT 1"))
        print("worked", flush=True)
        {ending}
        """)
    )
    root = Path(sessionwatch.__file__).parents[1]
    environ = {**os.environ, "PYTHONPATH": str(root), "SESSIONWATCH_TESTING": "1"}
    alone, watched = (
        subprocess.run(
            [sys.executable, program, *more], capture_output=True, text=True, env=environ, timeout=300, check=False
        )
        for more in ([], ["watched"])
    )
    assert (watched.returncode, watched.stdout, watched.stderr) == (alone.returncode, alone.stdout, alone.stderr)


def test_no_thread_begins_while_an_installation_is_paused() -> None:
    """A transaction that another thread begins meanwhile starts none; after resume() one is started again."""
    sessionwatch.uninstall()
    with sessionwatch.watching("log", log=False) as watch:
        watch.pause()
        watch.watchdog.wake()
        assert "sessionwatch" not in {thread.name for thread in threading.enumerate()}
        watch.resume()
        watch.watchdog.wake()
        assert "sessionwatch" in {thread.name for thread in threading.enumerate()}
    watch.watchdog.wake()
    assert "sessionwatch" not in {thread.name for thread in threading.enumerate()}
