"""Idioms of real programs around sessions, right as they stand: none yields anything, in log mode or in strict."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sessionwatch import uninstall, watching
from sessionwatch.model import Mode
from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, Tag


@pytest.fixture(params=["log", "strict"])
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Installed for the length of the test, which must end without a finding."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    mode: Mode = request.param
    with watching(mode, log=False, rules={"config": "off"}) as installed:
        yield installed
    assert [(finding.rule, finding.message) for finding in installed.findings] == []


class UnitOfWork:
    """A session behind a class; what was not committed is rolled back at the end."""

    def __init__(self, factory: Callable[[], Session]) -> None:
        self.factory = factory

    def __enter__(self) -> Self:
        self.session = self.factory()
        return self

    def __exit__(self, *_: object) -> None:
        self.session.rollback()
        self.session.close()

    def add(self, name: str) -> None:
        self.session.add(Tag(name=name))
        self.session.flush()


class AsyncUnitOfWork:
    """The same for asyncio; it commits where no exception leaves the block."""

    def __init__(self, factory: Callable[[], AsyncSession]) -> None:
        self.factory = factory

    async def __aenter__(self) -> AsyncSession:
        self.session = self.factory()
        return self.session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            await (self.session.commit() if kind is None else self.session.rollback())
        finally:
            await self.session.close()


def test_ignores_a_unit_of_work_class(shop: Engine, watched: Watch) -> None:
    """Committed, not committed on purpose, and left by an error."""
    for commit in (True, False):
        with UnitOfWork(sessionmaker(shop)) as unit:
            unit.add("x")
            if commit:
                unit.session.commit()
    with contextlib.suppress(ZeroDivisionError), UnitOfWork(sessionmaker(shop)) as unit:
        unit.add("y")
        raise ZeroDivisionError
    assert watched.findings == []


async def test_ignores_an_async_unit_of_work_class(async_shop: AsyncEngine, watched: Watch) -> None:
    """Its commit may fail, and its block may be left by an error."""
    make = async_sessionmaker(async_shop)
    async with AsyncUnitOfWork(make) as session:
        session.add(Tag(name="x"))
    with contextlib.suppress(IntegrityError):
        async with AsyncUnitOfWork(make) as session:
            session.add(Order(id=1))
    with contextlib.suppress(ZeroDivisionError):
        async with AsyncUnitOfWork(make) as session:
            session.add(Tag(name="y"))
            await session.flush()
            raise ZeroDivisionError
    assert watched.findings == []


def test_ignores_a_transactional_decorator(shop: Engine, watched: Watch) -> None:
    """The outermost call owns the session, the inner ones join."""
    make, local = sessionmaker(shop), threading.local()

    def transactional(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            if getattr(local, "session", None) is not None:
                return function(local.session, *args)
            with make() as local.session:
                try:
                    result = function(local.session, *args)
                    local.session.commit()
                except BaseException:
                    local.session.rollback()
                    raise
                finally:
                    session, local.session = local.session, None
                session.close()
            return result

        return call

    @transactional
    def add(session: Session, key: int) -> None:
        session.add(Order(id=key))

    @transactional
    def add_two(session: Session, key: int) -> None:
        add(key)
        add(key + 1)
        session.flush()

    add_two(10)
    with contextlib.suppress(IntegrityError):
        add_two(9)
    assert watched.findings == []


def test_ignores_a_session_in_a_context_variable(shop: Engine, watched: Watch) -> None:
    """A middleware sets it, code far below uses it."""
    current: contextvars.ContextVar[Session] = contextvars.ContextVar("current")

    @contextlib.contextmanager
    def scope() -> Iterator[None]:
        with Session(shop) as session, session.begin():
            token = current.set(session)
            try:
                yield
            finally:
                current.reset(token)

    def work(name: str) -> None:
        current.get().add(Tag(name=name))

    for name in ("x", "y"):
        with scope():
            work(name)
    with contextlib.suppress(ZeroDivisionError), scope():
        work("z")
        raise ZeroDivisionError
    assert watched.findings == []


async def test_ignores_a_registry_by_a_context_variable(async_shop: AsyncEngine, watched: Watch) -> None:
    """An async registry whose scope is a token, removed by a context manager."""
    scope: contextvars.ContextVar[object] = contextvars.ContextVar("scope")
    registry = async_scoped_session(async_sessionmaker(async_shop), scopefunc=scope.get)

    @contextlib.asynccontextmanager
    async def lend() -> AsyncIterator[Any]:
        token = scope.set(object())
        try:
            yield registry
            await registry.commit()
        finally:
            await registry.remove()
            scope.reset(token)

    async def work(name: str) -> None:
        async with lend() as session:
            session.add(Tag(name=name))

    await work("x")
    await asyncio.gather(asyncio.create_task(work("y")))
    assert watched.findings == []


def test_ignores_a_registry_in_a_pool_of_threads(shop: Engine, watched: Watch) -> None:
    """Each thread's session is closed by its block, and lent again for the next job."""
    registry = scoped_session(sessionmaker(shop))

    def job(number: int) -> int:
        with registry() as session:
            session.add(Tag(name=str(number)))
            session.commit()
        with registry() as session:
            return session.scalar(select(func.count(Tag.id))) or 0

    with ThreadPoolExecutor(1) as pool:
        assert len(list(pool.map(job, range(4)))) == 4
        pool.submit(registry.remove).result()


def test_ignores_a_savepoint_for_each_row(shop: Engine, watched: Watch) -> None:
    """Rows that exist are skipped."""
    with Session(shop) as session:
        for key in (1, 20, 1, 21):
            try:
                with session.begin_nested():
                    session.add(Order(id=key))
            except IntegrityError:
                continue
        session.commit()
    assert watched.findings == []


def test_ignores_a_retry_in_one_session(shop: Engine, watched: Watch) -> None:
    """It rolls back, and does all of it again."""
    with Session(shop) as session:
        for key in (1, 30):
            session.add(Tag(name="x"))
            session.add(Order(id=key))
            try:
                session.commit()
            except IntegrityError:
                session.rollback()
    assert watched.findings == []
