"""``unit_of_work()``: what is reported at its end, and after it."""

# ruff: noqa: F811, PT012

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import FindingError, unit_of_work
from sessionwatch.output.messages import render
from sessionwatch.units.scope import current_unit
from sessionwatch.watch.watch import Watch
from tests.programs.shop import (  # noqa: F401 (fixtures)
    Order,
    _our_errors_raise,
    async_file_engine,
    detached,
    lose,
    shop,
)


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Everything is only noted; the async tests make their tables by a sync engine."""
    with sessionwatch.watching(log=False, rules={"blocking-io": "off"}) as watch:
        yield watch


@pytest.fixture
def strict() -> Iterator[Watch]:
    """Everything raises but reads of loaded values."""
    with sessionwatch.watching(mode="strict", rules={"detached-touch": "off"}, log=False) as watch:
        yield watch


def rules(watch: Watch) -> list[str]:
    return [finding.rule for finding in watch.findings]


# -- forms --------------------------------------------------------------------------------------------


def test_nested_units() -> None:
    """The innermost unit is the current one, and the outer one comes back."""
    assert current_unit() is None
    with unit_of_work("outer") as outer:
        with unit_of_work("inner") as inner:
            assert current_unit() is inner
        assert current_unit() is outer
        assert (inner.ended, outer.ended) == (True, False)
    assert current_unit() is None


async def test_async_with() -> None:
    """``async with`` is the same, and tasks have units of their own."""

    async def job(name: str) -> str:
        async with unit_of_work(name) as unit:
            await asyncio.sleep(0)
            assert current_unit() is unit
            return unit.name

    assert await asyncio.gather(job("a"), job("b")) == ["a", "b"]
    assert current_unit() is None


def test_decorator() -> None:
    """Each call of a decorated function is a unit of its own."""

    @unit_of_work("import")
    def job() -> Any:
        return current_unit()

    first, second = job(), job()
    assert (first.name, second.name) == ("import", "import")
    assert first is not second
    assert job.__name__ == "job"


async def test_decorator_on_a_coroutine() -> None:
    """The same for a coroutine function, also at the same time."""

    @unit_of_work("import")
    async def job() -> Any:
        before = current_unit()
        await asyncio.sleep(0)
        assert current_unit() is before
        return before

    first, second = await asyncio.gather(job(), job())
    assert first is not second
    assert asyncio.iscoroutinefunction(job)


def test_recursion() -> None:
    """A decorated function may call itself."""

    @unit_of_work("tree")
    def walk(depth: int) -> list[Any]:
        return [current_unit(), *(walk(depth - 1) if depth else [])]

    units = walk(3)
    assert len({id(unit) for unit in units}) == 4
    assert all(unit.ended for unit in units)


def test_threads_have_their_own() -> None:
    """A thread that is started in a unit is in none."""
    seen: list[object] = ["nothing"]
    with unit_of_work("outer"):
        thread = threading.Thread(target=lambda: seen.append(current_unit()))
        thread.start()
        thread.join()
    assert seen == ["nothing", None]


def test_a_unit_that_has_ended_is_not_current() -> None:
    """What outlives its unit is in the unit around it, if that goes on."""
    with unit_of_work("outer") as outer:
        with unit_of_work("inner"):
            context = contextvars.copy_context()
        assert context.run(current_unit) is outer
    assert context.run(current_unit) is None


def test_a_name_that_is_found_late() -> None:
    """The newest one asked that knows a name tells it, as long as the unit lasts; then it stays."""
    known: list[str | None] = [None]
    with unit_of_work("first") as unit:
        unit.ask(lambda: known[0])
        assert unit.name == "first"
        known[0] = "route"
        unit.ask(lambda: None)
        assert unit.name == "route"
    known[0] = "other"
    assert unit.name == "route"
    unit.name = "set"
    assert unit.name == "set"


def test_a_session_made_before_the_installation_is_no_units(shop: Engine) -> None:
    """A session that is older than the installation may be older than the unit: nothing is said at its end."""
    with Session(shop) as session, sessionwatch.watching(log=False) as watch:
        with unit_of_work("request"):
            session.scalars(select(Order)).all()
        session.commit()
        session.scalars(select(Order)).all()
        assert watch.findings == []


def test_wrong_argument() -> None:
    """``sessions`` is one or many."""
    with pytest.raises(ValueError, match="'one' or 'many', not 'two'"):
        unit_of_work("x", sessions="two")  # type: ignore[arg-type]
    with unit_of_work("x", sessions="many") as unit:
        assert unit.sessions == "many"


def test_without_installation() -> None:
    """A unit costs and does nothing where nothing is installed."""
    with unit_of_work("quiet") as unit:
        assert current_unit() is unit
    assert (current_unit(), unit.ended, unit.records()) == (None, True, [])


# -- at its end ---------------------------------------------------------------------------------------


def test_open_session_with_a_connection_is_a_leak(shop: Engine, watch: Watch) -> None:
    """A session that still holds its connection at the end of its unit is a session-leak, once."""
    with unit_of_work("nightly"):
        session = Session(shop)
        session.scalars(select(Order)).all()
    (finding,) = watch.findings
    assert (finding.rule, finding.unit) == ("session-leak", "nightly")
    assert finding.message == "a session was open at the end of its unit with its connection checked out"
    session.close()
    del session
    gc.collect()
    assert len(watch.findings) == 1


def test_leak_that_is_collected_is_told_once(shop: Engine, watch: Watch) -> None:
    """A leak that the collector finds after the unit has told of it is not told again."""
    with unit_of_work("nightly"):
        session = Session(shop)
        session.scalars(select(Order)).all()
    del session
    gc.collect()
    assert [finding.count for finding in watch.findings] == [1]


@pytest.mark.parametrize("end", ["close", "commit", "rollback"])
def test_session_without_a_connection_is_none(end: str, shop: Engine, watch: Watch) -> None:
    """A session that has given its connection back may live on."""
    with unit_of_work("nightly"):
        session = Session(shop)
        session.scalars(select(Order)).all()
        getattr(session, end)()
    assert watch.findings == []
    session.close()


def test_session_of_an_outer_unit_is_not_the_inner_ones(shop: Engine, watch: Watch) -> None:
    """A session belongs to the unit that it was opened in."""
    with unit_of_work("outer"):
        session = Session(shop)
        session.scalars(select(Order)).all()
        with unit_of_work("inner"):
            session.scalars(select(Order)).all()
        assert watch.findings == []
        session.close()
    assert watch.findings == []


async def test_async_leak(tmp_path: Path, watch: Watch) -> None:
    """The same for an async session."""
    engine = await async_file_engine(tmp_path)
    async with unit_of_work("GET /orders"):
        session = AsyncSession(engine)
        await session.scalars(select(Order))
    assert rules(watch) == ["session-leak"]
    assert watch.findings[0].message.startswith("an async session was open at the end of its unit")
    await session.close()
    await engine.dispose()


def test_change_to_a_detached_instance_waits_for_the_end(shop: Engine, watch: Watch) -> None:
    """A change is reported at the end of the unit in which it was made, not before."""
    with unit_of_work("outer"):
        order = detached(shop)
        with unit_of_work("inner"):
            order.status = "shipped"
            assert watch.findings == []
        assert rules(watch) == ["detached-write"]


def test_change_that_a_session_takes_in_the_unit(shop: Engine, watch: Watch) -> None:
    """A change that is merged before the unit ends is not reported; one that is merged later is."""
    with unit_of_work("one"):
        order = detached(shop)
        order.status = "shipped"
        with Session(shop) as session, session.begin():
            session.merge(order)
    assert watch.findings == []
    with unit_of_work("two"):
        order.status = "returned"
    assert rules(watch) == ["detached-write"]


# -- after it -----------------------------------------------------------------------------------------


def test_use_after_its_unit(shop: Engine, watch: Watch) -> None:
    """A session that begins to work again after its unit is a use-after-close, once."""
    with unit_of_work("nightly"):
        session = Session(shop)
        session.scalars(select(Order)).all()
        session.commit()
    session.scalars(select(Order)).all()
    session.commit()
    session.scalars(select(Order)).all()
    session.close()
    (finding,) = watch.findings
    assert (finding.rule, finding.count) == ("use-after-close", 1)
    assert finding.message == "the session was used after its unit of work had ended"


def test_closed_by_hand_and_used_after_its_unit(shop: Engine, watch: Watch) -> None:
    """A close by hand within the unit does not hide the use after it."""
    with unit_of_work("nightly"):
        session = Session(shop)
        session.scalars(select(Order)).all()
        session.close()
    session.scalars(select(Order)).all()
    session.close()
    assert rules(watch) == ["use-after-close"]


def test_session_made_before_the_unit_may_go_on(shop: Engine, watch: Watch) -> None:
    """A session that was opened outside of the unit may be used after it."""
    session = Session(shop)
    with unit_of_work("nightly"):
        session.scalars(select(Order)).all()
        session.commit()
    session.scalars(select(Order)).all()
    session.close()
    assert watch.findings == []


# -- strict -------------------------------------------------------------------------------------------


def test_strict_raises_at_the_end(shop: Engine, strict: Watch) -> None:
    """The end of the unit is a safe point: a finding that waited raises there."""
    with pytest.raises(FindingError) as caught, unit_of_work("nightly"):
        session = Session(shop)
        session.scalars(select(Order)).all()
    assert caught.value.finding.rule == "session-leak"
    assert "open at the end of its unit" in str(caught.value)
    session.close()
    assert shop.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_strict_raises_for_changes_too(shop: Engine, strict: Watch) -> None:
    """The same for a change that nobody took."""
    order = detached(shop)
    with pytest.raises(FindingError, match=r"detached-write: Order\.status was changed"), unit_of_work("nightly"):
        order.status = "shipped"


def test_strict_never_replaces_an_exception(shop: Engine, strict: Watch) -> None:
    """An exception that leaves the unit stays itself; the finding is kept."""
    with pytest.raises(ZeroDivisionError), unit_of_work("nightly"):
        session = Session(shop)
        session.scalars(select(Order)).all()
        raise ZeroDivisionError
    assert rules(strict) == ["session-leak"]
    session.close()


def test_strict_finding_passes_outer_units(shop: Engine, strict: Watch) -> None:
    """A finding that was raised inside leaves outer units as it is."""
    with pytest.raises(FindingError, match="lost-writes"), unit_of_work("outer"), unit_of_work("inner"):
        lose(shop)
    assert rules(strict) == ["lost-writes"]


def test_unit_is_left_though_it_raises(shop: Engine, strict: Watch) -> None:
    """After a unit that raised, there is no current unit."""
    session = Session(shop)
    with pytest.raises(FindingError), unit_of_work("nightly"):
        held = Session(shop)
        held.scalars(select(Order)).all()
    assert current_unit() is None
    held.close()
    session.close()


def test_finding_names_its_unit(shop: Engine, watch: Watch) -> None:
    """A finding of a session carries the name of the session's unit."""
    with unit_of_work("GET /orders/{id}"):
        lose(shop)
    assert watch.findings[0].unit == "GET /orders/{id}"
    assert watch.findings[0].as_json()["unit"] == "GET /orders/{id}"
    assert "\n  during       GET /orders/{id}\n" in render(watch.findings[0])
