"""``split-unit-of-work``: which sessions of a unit are parts of it, and a unit of which half is stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from sessionwatch import unit_of_work
from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, Tag
from tests.rules.places import evidence_line, labels, line, only

HALF = "half of import is stored: one session committed, and another one's writes were rolled back"


def save(engine: Engine, *objects: Any) -> None:
    with Session(engine) as session, session.begin():
        session.add_all(objects)


async def save_async(engine: AsyncEngine, *objects: Any) -> None:
    async with AsyncSession(engine) as session:
        session.add_all(objects)
        await session.commit()


# -- silent -------------------------------------------------------------------------------------------


async def test_ignores_a_task_that_was_begun_after_the_commit(async_shop: AsyncEngine, watch: Watch) -> None:
    """What is published afterwards, with a session of its own, is a unit of its own."""
    with unit_of_work("import"):
        await save_async(async_shop, Order())
        await asyncio.create_task(save_async(async_shop, Tag(name="late")))
    assert watch.findings == []


async def test_ignores_a_task_that_was_begun_in_the_commits_hook(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same in ``after_commit``."""
    tasks = []
    with unit_of_work("import"):
        async with AsyncSession(async_shop) as session:

            @event.listens_for(session.sync_session, "after_commit", once=True)
            def publish(_: object) -> None:
                tasks.append(asyncio.get_running_loop().create_task(save_async(async_shop, Tag(name="late"))))

            session.add(Order())
            await session.commit()
        await asyncio.gather(*tasks)
    assert watch.findings == []


def test_ignores_an_error_record(shop: Engine, watch: Watch) -> None:
    """A session that is opened only after the other one had failed keeps a record of that."""
    with unit_of_work("import"):
        with Session(shop) as session:
            session.add(Order())
            session.commit()
            session.add(Order(id=1))
            with contextlib.suppress(Exception):
                session.flush()
            session.rollback()
        save(shop, Tag(name="failed"))
    assert [finding.message for finding in watch.findings if finding.rule == "split-unit-of-work"] == []


def test_ignores_an_error_record_in_the_handler(shop: Engine, watch: Watch) -> None:
    """The same where the failure is being handled."""
    with unit_of_work("import"):
        try:
            with Session(shop) as session:
                session.add(Order())
                session.commit()
                raise ValueError
        except ValueError:
            save(shop, Tag(name="failed"))
    assert watch.findings == []


def test_ignores_a_batch_for_each_session(shop: Engine, watch: Watch) -> None:
    """One line opens them again and again."""
    with unit_of_work("import"):
        for _ in range(3):
            save(shop, Order())
    assert watch.findings == []


async def test_ignores_an_async_batch_for_each_session(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""
    make = async_sessionmaker(async_shop)
    with unit_of_work("import"):
        for _ in range(3):
            async with make.begin() as session:
                session.add(Order())
    assert watch.findings == []


def test_ignores_a_unit_that_declares_it(shop: Engine, watch: Watch) -> None:
    """``sessions="many"``, whatever becomes of them."""
    with unit_of_work("import", sessions="many"):
        save(shop, Order())
        with Session(shop) as session:
            session.add(Order())
            session.flush()
            session.rollback()
        save(shop, Tag(name="late"))
    assert watch.findings == []


# -- reported -----------------------------------------------------------------------------------------


async def test_reports_a_task_that_was_begun_before(async_shop: AsyncEngine, watch: Watch) -> None:
    """A task beside the other one is a part of the unit."""
    ready = asyncio.Event()

    async def second() -> None:
        await ready.wait()
        await save_async(async_shop, Tag(name="late"))

    with unit_of_work("import"):
        task = asyncio.create_task(second())
        await asyncio.sleep(0)
        await save_async(async_shop, Order())
        ready.set()
        await task
    only(watch, "split-unit-of-work")


def test_reports_a_helper_that_is_called_from_two_lines(shop: Engine, watch: Watch) -> None:
    """The helper's line is the same, its callers' are not."""
    with unit_of_work("import"):
        save(shop, Order())
        save(shop, Tag(name="late"))
    only(watch, "split-unit-of-work")


async def test_reports_the_line_of_an_async_block(async_shop: AsyncEngine, watch: Watch) -> None:
    """``async with maker.begin()`` commits in a task of SQLAlchemy's; its line stands for the commit."""
    make = async_sessionmaker(async_shop)

    async def one() -> None:
        async with make.begin() as session:  # async-block
            session.add(Order())

    with unit_of_work("import"):
        await one()
        await one()
    finding = only(watch, "split-unit-of-work")
    assert evidence_line(finding, "committed") == line("async-block")
    assert finding.line == line("async-block")


# -- half of it ---------------------------------------------------------------------------------------


def rolls_back(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Tag(name="late"))
        session.flush()
        session.rollback()


def fails(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Tag(name="late"))
        session.flush()
        raise ValueError


@pytest.mark.parametrize("second", [rolls_back, fails])
def test_reports_half_of_a_unit(shop: Engine, watch: Watch, second: Any) -> None:
    """The headline says that one part is stored and the other is not."""
    with contextlib.suppress(ValueError), unit_of_work("import"):
        save(shop, Order())
        second(shop)
    finding = only(watch, "split-unit-of-work")
    assert finding.message == HALF
    assert labels(finding)[:2] == ["undone", "written"]


def stores(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order())
    with Session(engine) as session:
        session.add(Order(id=1))
        session.commit()  # refused


def inserts(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order())
    with Session(engine) as session, session.begin():
        session.execute(insert(Order).values(id=1, status="new"))  # refused, too


def turns(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order())
    with Session(engine) as session:
        try:
            session.add(Order(id=1))
            session.commit()  # refused, and named otherwise
        except IntegrityError as error:
            raise HTTPException(409) from error


def knows(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order())
    with Session(engine) as session:
        try:
            session.add(Order(id=1))
            session.commit()
        except IntegrityError:
            session.rollback()


def reads(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order())
    with Session(engine) as session:
        session.execute(text("SELECT * FROM nowhere"))


@pytest.mark.parametrize(
    ("work", "place"),
    [(stores, "refused"), (inserts, "refused, too"), (turns, "refused, and named otherwise"), (knows, ""), (reads, "")],
)
def test_half_of_a_request_whose_second_session_fails_at_once(
    shop: Engine, watch: Watch, work: Callable[[Engine], None], place: str
) -> None:
    """Its first write is refused, and the error leaves the request: nobody tries again."""
    app = FastAPI()

    @app.post("/orders")
    async def handler() -> None:
        work(shop)

    TestClient(app, raise_server_exceptions=False).post("/orders")
    told = [(one.message, one.line) for one in watch.findings if one.rule == "split-unit-of-work"]
    message = "half of POST /orders is stored: one session committed, and another one's writes were rolled back"
    assert told == ([(message, line(place))] if place else [])


async def test_reports_half_of_an_async_unit(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""
    with contextlib.suppress(ValueError):
        async with unit_of_work("import"):
            await save_async(async_shop, Order())
            async with AsyncSession(async_shop) as session:
                session.add(Tag(name="late"))
                await session.flush()
                raise ValueError
    assert only(watch, "split-unit-of-work").message == HALF


def test_reports_half_and_the_lost_writes(shop: Engine, watch: Watch) -> None:
    """A second session that was only closed has lost its writes as well."""
    with unit_of_work("import"):
        save(shop, Order())
        with Session(shop) as session:
            session.add(Tag(name="late"))
            session.flush()
    assert sorted(finding.rule for finding in watch.findings) == ["lost-writes", "split-unit-of-work"]


def test_tells_a_second_try_by_what_became_of_it(shop: Engine, watch: Watch) -> None:
    """The session was rolled back and committed after all: both parts are stored."""
    with unit_of_work("import"):
        save(shop, Order())
        with Session(shop) as session:
            for again in (True, False):
                session.add(Tag(name="late"))
                session.flush()
                session.rollback() if again else session.commit()
    assert only(watch, "split-unit-of-work").message.startswith("import committed its writes in two sessions")


def test_ignores_a_first_session_that_fails(shop: Engine, watch: Watch) -> None:
    """Nothing was stored when it failed."""
    with unit_of_work("import"):
        rolls_back(shop)
        save(shop, Order())
    assert watch.findings == []


# -- where nothing declares a unit ------------------------------------------------------------------------


def charge(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order())
    with Session(engine) as session, session.begin():
        session.add(Tag(name="late"))
        session.flush()  # never stored
        session.add(Order(id=1))


def in_a_program(work: Any, *args: Any) -> None:
    """A test is no unit, nor is the outermost function of a thread: call it from one."""
    work(*args)


def test_reports_half_of_a_call(shop: Engine, watch: Watch) -> None:
    """The error leaves the function that asked for both sessions."""
    with contextlib.suppress(IntegrityError):
        in_a_program(charge, shop)
    finding = only(watch, "split-unit-of-work")
    assert finding.message.startswith("half of one call of charge() is stored")
    assert finding.line == line("never stored")


async def test_reports_half_of_an_async_call(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""

    async def charge_async() -> None:
        async with AsyncSession(async_shop) as session, session.begin():
            session.add(Order())
        async with AsyncSession(async_shop) as session, session.begin():
            session.add(Tag(name="late"))
            await session.flush()
            raise ValueError

    with contextlib.suppress(ValueError):
        await charge_async()
    assert only(watch, "split-unit-of-work").message.startswith("half of one call of ")


def test_ignores_a_call_that_tries_again(shop: Engine, watch: Watch) -> None:
    """It handles the error itself: what becomes of the second part is not decided."""

    def again() -> None:
        with Session(shop) as session, session.begin():
            session.add(Order())
        try:
            with Session(shop) as session, session.begin():
                session.add(Order(id=1))
        except IntegrityError:
            return

    in_a_program(again)
    assert watch.findings == []


def test_ignores_a_call_that_only_read_before(shop: Engine, watch: Watch) -> None:
    """Nothing is stored."""

    def read_then_fail() -> None:
        with Session(shop) as session:
            session.get(Order, 1)
        with Session(shop) as session, session.begin():
            session.add(Order(id=1))

    with contextlib.suppress(IntegrityError):
        in_a_program(read_then_fail)
    assert watch.findings == []


@pytest.mark.parametrize("declared", [True, False])
def test_ignores_a_session_in_the_commits_hook(shop: Engine, watch: Watch, declared: bool) -> None:
    """What a listener to ``after_commit`` stores with a session of its own is a unit of its own."""

    def pay() -> None:
        with Session(shop) as session:
            event.listen(session, "after_commit", lambda _: save(shop, Tag(name="late")), once=True)
            session.add(Order())
            session.commit()

    with unit_of_work("import") if declared else contextlib.nullcontext():
        in_a_program(pay)
    assert watch.findings == []
