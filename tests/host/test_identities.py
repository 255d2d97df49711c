"""Sessions that are open at the same time: what each one that begins or flushes costs, and threads of one unit."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.hooks import identities
from sessionwatch.hooks.reading import read
from tests.programs.shop import Order, _our_errors_raise, shop  # noqa: F401 (fixtures)

SESSIONS = 5000


class Counted:
    """The sessions by number; counts what is asked of them, and may do something at each look."""

    def __init__(self, sessions: Any, looking: Callable[[], None] = lambda: None) -> None:
        self.sessions, self.looking, self.looks = sessions, looking, 0

    def _look(self, key: int | None = None) -> Any:
        self.looks += 1
        self.looking()
        return self.sessions.get(key)

    def get(self, key: int) -> Any:
        return self._look(key)

    def __contains__(self, key: int) -> bool:
        return self._look(key) is not None

    def keys(self) -> Iterator[int]:
        for key in list(self.sessions):
            self._look()
            yield key


def test_a_session_that_begins_looks_at_a_bounded_number_of_others(
    shop: Engine,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands are open in one thread: all in all each of them is looked at some few times."""
    counted = Counted(read.sessions)
    monkeypatch.setattr(read, "sessions", counted)
    with sessionwatch.watching(log=False):
        monkeypatch.setattr(read, "sessions", counted)  # an installation reads the names anew
        sessions = [Session(shop) for _ in range(SESSIONS)]
        for session in sessions:
            session.begin()
        assert 0 < counted.looks <= 4 * SESSIONS
        for session in sessions:
            session.close()


def test_sessions_that_are_gone_are_not_kept_in_mind(shop: Engine) -> None:  # noqa: F811
    """What was dropped in a transaction leaves its number; of those there is never more than twice what is open."""
    group = identities.Working()
    one = identities.Neighbours()
    one.working[threading.get_ident(), None] = group
    session = Session(shop)
    with sessionwatch.watching(log=False):
        session.begin()
        record = session.__dict__["_sessionwatch"]
        for number in range(-SESSIONS, 0):
            record.session_id = number
            one.began(record)
            assert len(group) <= 1001
    session.close()


def in_one_unit(works: Callable[[], None]) -> None:
    """Run it in another thread of this unit."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(works,))
    thread.start()
    thread.join()


def test_a_flush_goes_on_while_another_thread_of_the_unit_begins(
    shop: Engine,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sessions of a unit that begin while one of it looks for the others: no error of ours."""
    begun: list[Session] = []

    def begins() -> None:
        begun.append(Session(shop))
        begun[-1].begin()

    with sessionwatch.watching(log=False) as watch, sessionwatch.unit_of_work("the job"):
        with Session(shop) as session, Session(shop) as other:
            session.scalars(select(Order)).one().status = "changed"
            other.begin()
            monkeypatch.setattr(read, "sessions", Counted(read.sessions, lambda: in_one_unit(begins)))
            session.flush()
            monkeypatch.undo()
            session.rollback()
        for one in begun:
            one.close()
    assert begun
    assert watch.status()["internal_errors"] == {}


def test_a_flush_goes_on_where_another_thread_of_the_unit_closes_the_other_session(
    shop: Engine,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other session that holds the row is closed while it is compared: no error of ours."""
    changed, closed = identities.changed, []

    def slowly(state: Any) -> list[str]:
        names = changed(state)
        in_one_unit(other.close)
        closed.append(state)
        return names

    with sessionwatch.watching(log=False) as watch, sessionwatch.unit_of_work("the job"):
        other = Session(shop)
        with Session(shop) as session:
            kept = other.scalars(select(Order)).one()
            session.scalars(select(Order)).one().status = "changed"
            monkeypatch.setattr(identities, "changed", slowly)
            session.flush()
            session.rollback()
        assert kept.status == "new"
    assert closed
    assert watch.status()["internal_errors"] == {}
