"""What a reader's collection costs does not grow with the sessions that are open."""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from sessionwatch.watch.watch import Watch
from tests.rules.models import Customer, Order
from tests.telemetry.readings import Readings


def _calls(readings: Readings) -> int:
    """Calls of Python and C functions during one collection."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        readings.metrics()
    finally:
        sys.setprofile(None)
    return count


def test_a_collection_is_as_long_with_many_open_sessions(shop: Engine, watch: Watch, readings: Readings) -> None:
    """It does not call more functions with 500 more sessions that are open."""
    with Session(shop) as session:
        session.scalars(select(Order)).all()
        readings.metrics()
        few = _calls(readings)
        opened = [Session(shop) for _ in range(500)]
        readings.metrics()
        many = _calls(readings)
    assert many - few < 100
    for one in opened:
        one.close()


def test_what_an_open_session_did_is_counted(shop: Engine, watch: Watch, readings: Readings) -> None:
    """Before it ends, and once."""
    with Session(shop) as session:
        session.add(Customer(name="Ada"))
        session.flush()
        order = session.scalars(select(Order)).first()
        assert order is not None
        order.items  # noqa: B018
        names = ("sessionwatch.flushes", "sessionwatch.rows.written", "sessionwatch.lazy_loads")
        meanwhile = [{key: value for key, value in readings.values(name).items() if value} for name in names]
        session.rollback()
    assert meanwhile == [{(): 1}, {("INSERT",): 1}, {("relationship",): 1}]
    assert [{key: value for key, value in readings.values(name).items() if value} for name in names] == meanwhile
