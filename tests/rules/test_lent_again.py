"""``use-after-close``, ``session-leak``: sessions that a registry or a provider lends again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import greenlet
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Flask, g
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from sessionwatch import FindingError, unit_of_work
from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, seed
from tests.rules.places import evidence_line, is_idle, labels, line, only

Registry = scoped_session[Session]


@pytest.fixture
def registry(shop: Engine) -> Iterator[Registry]:
    """The registry of a program, with one session for each thread."""
    made = scoped_session(sessionmaker(shop))
    yield made
    made.remove()


def read(session: Any) -> int:
    return len(session.scalars(select(Order)).all())


@contextlib.contextmanager
def lend(registry: Registry) -> Iterator[Session]:
    session = registry()
    try:
        yield session
        session.commit()
    finally:
        session.close()


class Lending:
    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def __enter__(self) -> Session:
        self.session = self.registry()
        return self.session

    def __exit__(self, *_: object) -> None:
        self.session.close()


class Cached:
    """A provider that makes its session at the first loan, and keeps it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.session: Session | None = None

    @contextlib.contextmanager
    def lend(self) -> Iterator[Session]:
        if self.session is None:
            self.session = Session(self.engine)
        try:
            yield self.session
        finally:
            self.session.close()


# -- silent -------------------------------------------------------------------------------------------


WAYS: dict[str, Callable[[Registry], contextlib.AbstractContextManager[Session]]] = {
    "context manager": lend,
    "class": Lending,
    "the session's own block": lambda registry: registry(),
    "closing": lambda registry: contextlib.closing(registry()),
}


@pytest.mark.parametrize("way", WAYS)
def test_ignores_a_session_that_its_registry_lends_again(registry: Registry, watch: Watch, way: str) -> None:
    """Who asks the registry anew begins a new scope, whatever ended before."""
    for _ in range(3):
        with WAYS[way](registry) as session:
            read(session)
    assert watch.findings == []


@pytest.mark.parametrize("way", WAYS)
def test_ignores_the_registrys_own_methods_after_a_loan(registry: Registry, watch: Watch, way: str) -> None:
    """Each method that a registry hands on asks it anew."""
    with WAYS[way](registry) as session:
        read(session)
    assert read(registry) == 1
    assert watch.findings == []
    registry.remove()


def test_ignores_loans_in_a_pool_of_threads(registry: Registry, watch: Watch) -> None:
    """The threads of a pool live on, and with them their sessions."""

    def work(_: int) -> int:
        with lend(registry) as session:
            return read(session)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(8))) == [1] * 8
        assert watch.findings == []


def test_ignores_a_registry_with_a_scope_for_each_greenlet(shop: Engine, watch: Watch) -> None:
    """The registry's scope function is the program's."""
    registry = scoped_session(sessionmaker(shop), scopefunc=greenlet.getcurrent)

    def work() -> None:
        for _ in range(2):
            with lend(registry) as session:
                read(session)
        registry.remove()

    greenlet.greenlet(work).switch()
    assert watch.findings == []


@pytest.mark.parametrize("scope", [asyncio.current_task, lambda: "the application"])
async def test_ignores_an_async_registry(async_shop: AsyncEngine, watch: Watch, scope: Callable[[], Any]) -> None:
    """The same under asyncio, for each spelling of a loan."""
    registry = async_scoped_session(async_sessionmaker(async_shop), scopefunc=scope)

    @contextlib.asynccontextmanager
    async def lend() -> AsyncIterator[AsyncSession]:
        session = registry()
        try:
            yield session
        finally:
            await session.close()

    for _ in range(2):
        async with lend() as session:
            assert len((await session.scalars(select(Order))).all()) == 1
        async with registry() as session:
            assert len((await session.scalars(select(Order))).all()) == 1
        async with contextlib.aclosing(registry()) as session:
            assert len((await session.scalars(select(Order))).all()) == 1
    assert len((await registry.scalars(select(Order))).all()) == 1
    assert watch.findings == []
    await registry.remove()


def test_ignores_a_provider_that_keeps_its_session(shop: Engine, watch: Watch) -> None:
    """The same context manager is entered again: its session is lent anew."""
    provider = Cached(shop)
    for _ in range(3):
        with provider.lend() as session:
            read(session)
    assert watch.findings == []


def test_ignores_closing_of_one_session_again(shop: Engine, watch: Watch) -> None:
    """A second ``with closing(session)`` is a second scope."""
    session = Session(shop)
    for _ in range(3):
        with contextlib.closing(session):
            read(session)
    assert watch.findings == []


async def test_ignores_an_async_provider_that_keeps_its_session(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""
    kept: list[AsyncSession] = []

    @contextlib.asynccontextmanager
    async def lend() -> AsyncIterator[AsyncSession]:
        if not kept:
            kept.append(AsyncSession(async_shop))
        try:
            yield kept[0]
        finally:
            await kept[0].close()

    for _ in range(3):
        async with lend() as session:
            assert len((await session.scalars(select(Order))).all()) == 1
    assert watch.findings == []


def test_ignores_a_session_that_each_unit_closes_by_hand(shop: Engine, watch: Watch) -> None:
    """An application's one session, closed at the end of each request and used in the next."""
    session = Session(shop)
    with unit_of_work("first"):
        read(session)
        session.close()
    with unit_of_work("second"):
        read(session)
        session.close()
    with unit_of_work("third"):
        read(session)
        session.close()
    assert watch.findings == []


def test_ignores_a_dependency_that_lends_a_registrys_session(watch: Watch) -> None:
    """The threads in which FastAPI runs its dependencies keep their sessions from request to request."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    seed(engine)
    registry = scoped_session(sessionmaker(engine))

    def get_session() -> Iterator[Session]:
        session = registry()
        try:
            yield session
        finally:
            session.close()

    app = FastAPI()

    @app.get("/orders")
    def orders(session: Any = Depends(get_session)) -> int:  # noqa: B008
        return read(session)

    with TestClient(app) as client:
        assert [client.get("/orders").json() for _ in range(4)] == [1] * 4
    assert watch.findings == []


# -- an application context that is wider than a request ------------------------------------------------


def application(registry: Registry) -> Flask:
    app = Flask("shop")
    app.teardown_appcontext(lambda error: registry.remove())

    @app.get("/orders")
    def orders() -> list[int]:
        return [read(registry)]

    @app.get("/kept")
    def kept() -> list[int]:
        g.session = registry.session_factory()
        return [read(g.session)]

    app.teardown_appcontext(lambda error: g.session.close() if "session" in g else None)
    return app


@pytest.mark.parametrize("path", ["/orders", "/kept"])
def test_ignores_requests_within_an_outer_context(registry: Registry, watch: Watch, path: str) -> None:
    """The request uses the application context around it, whose end is the session's."""
    app = application(registry)
    client = app.test_client()
    with app.app_context():
        for _ in range(3):
            assert client.get("/orders").json == [1]
        assert client.get(path).json == [1]
    assert watch.findings == []


def test_ignores_requests_of_a_client_that_keeps_their_context(registry: Registry, watch: Watch) -> None:
    """``with app.test_client()`` keeps the context of each request until the next one."""
    with application(registry).test_client() as client:
        for _ in range(3):
            assert client.get("/orders").json == [1]
    assert watch.findings == []


def test_reports_a_leak_within_an_outer_context(shop: Engine, watch: Watch) -> None:
    """A session that nobody keeps is lost, whoever owns the context."""
    app = Flask("shop")

    @app.get("/orders")
    def orders() -> list[int]:
        session = Session(shop)
        return [read(session)]

    with app.app_context():
        app.test_client().get("/orders")
    gc.collect()
    assert only(watch, "session-leak").function.endswith("orders")  # type: ignore[union-attr]


def test_reports_a_context_that_is_the_requests_own(shop: Engine, watch: Watch) -> None:
    """Another application's context does not make the request's end any wider."""
    kept = []
    app = Flask("shop")

    @app.get("/orders")
    def orders() -> list[int]:
        kept.append(Session(shop))
        return [read(kept[0])]

    with Flask("another").app_context():
        app.test_client().get("/orders")
    assert only(watch, "session-leak").message.startswith("a session was open at the end of its unit")
    kept[0].close()


# -- reported -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["context manager", "the session's own block", "closing"])
def test_reports_a_use_after_a_loan(registry: Registry, watch: Watch, way: str) -> None:
    """Nobody asked anew: the loan is over, also if it was not the first one."""
    for _ in range(2):
        with WAYS[way](registry) as session:
            read(session)
    read(session)
    assert only(watch, "use-after-close").function == "read"


def test_reports_a_use_after_a_kept_sessions_loan(shop: Engine, watch: Watch) -> None:
    """A provider that keeps its session lends it for the length of a block."""
    provider = Cached(shop)
    with provider.lend():
        pass
    with provider.lend() as session:
        read(session)
    read(session)
    assert only(watch, "use-after-close").message == (
        "the session was used after the generator Cached.lend() that yielded it had ended"
    )
    session.close()


def test_reports_a_use_after_a_registry_has_removed_it(registry: Registry, watch: Watch) -> None:
    """A session that was removed is not the registry's any more."""
    session = registry()
    read(session)
    registry.remove()
    read(registry)
    read(session)
    assert only(watch, "use-after-close").message == "the session was used after its registry had removed it"
    session.close()


async def test_reports_a_use_after_an_async_loan(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""
    registry = async_scoped_session(async_sessionmaker(async_shop), scopefunc=asyncio.current_task)
    for _ in range(2):
        async with registry() as session:
            await session.scalars(select(Order))
    await session.scalars(select(Order))
    only(watch, "use-after-close")
    await registry.remove()


def test_raises_before_the_late_use_in_strict_mode(registry: Registry, strict: Watch, shop: Engine) -> None:
    """The session of the registry is closed and stays so."""
    with lend(registry) as session:
        session.connection()
    with pytest.raises(FindingError):
        read(session)
    assert is_idle(shop)
    strict.clear()


# -- leaks --------------------------------------------------------------------------------------------


def test_blames_a_leak_on_who_took_the_session_last(registry: Registry, watch: Watch) -> None:
    """What was lent and closed before is not to blame."""

    def inspect() -> int:
        session = registry()  # taken-last
        return read(session)

    with unit_of_work("inspection"):
        with lend(registry) as session:
            read(session)
        inspect()
    finding = only(watch, "session-leak")
    assert finding.line == line("taken-last")
    assert labels(finding) == ["executed", "taken", "opened"]
    assert evidence_line(finding, "taken") == line("taken-last")
    assert finding.changes is not None
    assert finding.changes.line == line("taken-last")  # what has to change


def test_blames_a_leak_on_the_method_that_asked_last(registry: Registry, watch: Watch) -> None:
    """A registry's own methods take its session as well."""
    with lend(registry) as session:
        read(session)
    with unit_of_work("inspection"):
        registry.scalars(select(Order)).all()  # asked-last
    assert only(watch, "session-leak").line == line("asked-last")


async def test_blames_an_async_leak_on_who_took_it_last(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""
    registry = async_scoped_session(async_sessionmaker(async_shop), scopefunc=lambda: "one")
    async with registry() as session:
        await session.scalars(select(Order))
    async with unit_of_work("inspection"):
        taken = registry()  # async-taken
        await taken.scalars(select(Order))
    assert only(watch, "session-leak").line == line("async-taken")
    await registry.remove()
