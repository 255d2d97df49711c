"""On and off while the program works: `install`, `uninstall`, `pause`, `resume`, mode ``off``."""

# ruff: noqa: F811

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.model import MODES, Mode
from sessionwatch.watch import installation
from tests.programs.shop import Base, Order, _our_errors_raise, lose, shop  # noqa: F401 (fixtures)

ROUNDS = 25


@contextmanager
def eight_at_work(path: Path) -> Iterator[Counter[str]]:
    """Eight threads use sessions while the block runs: the errors that they met, and how many sessions they ended."""
    engine = create_engine(f"sqlite:///{path / 'work.db'}", connect_args={"timeout": 30})
    Base.metadata.create_all(engine)
    met: Counter[str] = Counter()
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                with Session(engine) as session:
                    session.execute(text("select 1"))
                    session.scalars(select(Order)).all()
                with Session(engine) as session, session.begin_nested():
                    session.add(Order())
                    session.rollback()
                met["sessions"] += 1
            except Exception as error:
                met[repr(error)] += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        yield met
    finally:
        over.set()
        for thread in threads:
            thread.join()
        engine.dispose()


@pytest.mark.parametrize("listening", [False, True], ids=["", "with a listener of the program's"])
@pytest.mark.parametrize("mode", MODES)
def test_install_and_uninstall_under_load(mode: Mode, listening: bool, tmp_path: Path) -> None:
    """Eight threads at work meet no error while a ninth installs and uninstalls, and their listener is never missed."""
    heard = []
    if listening:
        event.listen(Session, "after_begin", listener := lambda *_: heard.append(1))
    try:
        with eight_at_work(tmp_path) as met:
            for _ in range(ROUNDS):
                watch = sessionwatch.install(mode=mode, log=False, rules={"split-unit-of-work": "off"})
                watch.uninstall()
                assert watch.status()["internal_errors"] == {}
    finally:
        if listening:
            event.remove(Session, "after_begin", listener)
    sessions = met.pop("sessions")
    assert not met
    assert sessions
    assert len(heard) >= sessions * listening


@pytest.mark.parametrize("mode", MODES)
def test_pause_and_resume_under_load(mode: Mode, tmp_path: Path) -> None:
    """The same for pausing and resuming."""
    with sessionwatch.watching(mode, log=False) as watch, eight_at_work(tmp_path) as met:
        for _ in range(ROUNDS):
            watch.pause()
            watch.resume()
    assert met.pop("sessions")
    assert not met
    assert watch.status()["internal_errors"] == {}


def test_pause_hears_nothing_and_resume_hears_again(shop: Any) -> None:
    """What is lost while it is paused is not reported; findings of before stay; both may be called twice."""
    with sessionwatch.watching(log=False) as watch:
        bare = vars(Session)["__init__"].__wrapped__
        lose(shop)
        watch.pause()
        watch.pause()
        assert vars(Session)["__init__"] is bare
        assert watch.status()["paused"]
        lose(shop)
        assert len(watch.findings) == 1
        assert watch.findings[0].count == 1
        watch.resume()
        watch.resume()
        lose(shop)
        assert watch.findings[0].count == 2


def test_uninstall_of_a_paused_watch(shop: Any) -> None:
    """It ends as every installation does, and resuming it does nothing then."""
    watch = sessionwatch.install(log=False)
    bare = vars(Session)["__init__"].__wrapped__
    watch.pause()
    watch.uninstall()
    watch.resume()
    assert vars(Session)["__init__"] is bare
    assert installation.current() is None


def test_a_session_that_was_open_while_it_was_paused(shop: Any) -> None:
    """It is as one that was opened before the installation."""
    with sessionwatch.watching("strict", log=False) as watch, Session(shop) as session:
        session.scalars(select(Order)).all()
        watch.pause()
        session.add(Order())
        session.flush()
        watch.resume()
        session.commit()
    assert watch.findings == []


def test_mode_off(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is hooked; from the environment it wins over what the program's code says."""
    monkeypatch.setenv("SESSIONWATCH_MODE", "off")
    before = dict(vars(Session))
    with sessionwatch.watching("telemetry") as watch:
        assert dict(vars(Session)) == before
        lose(shop)
        assert watch.findings == []
        assert watch.status()["mode"] == {"value": "off", "from": "environment"}


def test_all_rules_off_but_one(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``all`` comes first, wherever it stands."""
    monkeypatch.setenv("SESSIONWATCH_RULES", "lost-writes=log,all=off")
    with sessionwatch.watching(log=False) as watch:
        on = [slug for slug, rule in watch.status()["rules"].items() if rule["value"] != "off"]
    assert on == ["lost-writes"]


def test_nothing_is_logged_while_the_installation_is_locked(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that waits for another thread's `install` is not waited for: it is said afterwards."""
    free: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            def asks() -> None:
                free.append(installation._lock.acquire(timeout=5))
                installation._lock.release()

            thread = threading.Thread(target=asks)
            thread.start()
            thread.join()

    logger, handler = logging.getLogger("sessionwatch"), Handler()
    logger.addHandler(handler)
    watch = sessionwatch.install(log=False)
    ours = Session.add
    Session.add = lambda self, *args, **kwargs: ours(self, *args, **kwargs)  # type: ignore[method-assign]
    try:
        watch.uninstall()
    finally:
        Session.add = ours.__wrapped__  # type: ignore[attr-defined,method-assign]
        logger.removeHandler(handler)
    assert free == [True]
