"""``target=``: only the sessions of one sessionmaker, Session class or engine are watched."""

# ruff: noqa: F811

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import sessionwatch
from sessionwatch import ConfigError, Finding
from tests.programs.shop import (  # noqa: F401 (fixtures)
    Base,
    Item,
    Order,
    _our_errors_raise,
    async_file_engine,
    file_engine,
    lose,
    shop,
)


class Mine(Session):
    """The class that is watched."""


class Further(Mine):
    """A subclass of it."""


class MineAsync(AsyncSession):
    """The asyncio class that is watched."""


def sessions_of(findings: list[Finding]) -> int:
    """How many sessions lost writes."""
    assert {finding.rule for finding in findings} <= {"lost-writes"}
    return sum(finding.count for finding in findings)


def test_sessionmaker(shop: Engine) -> None:
    """A sessionmaker's own sessions are watched; another maker's and bare ones are not."""
    mine, other = sessionmaker(shop), sessionmaker(shop)
    with sessionwatch.watching(target=mine, log=False) as watch:
        lose(shop, other())
        lose(shop, Session(shop))
        assert watch.findings == []
        lose(shop, mine())
        with mine() as session:
            session.add(Order())
            session.flush()
    assert sessions_of(watch.findings) == 2


def test_sessionmaker_made_later(shop: Engine) -> None:
    """A maker that is made after the installation is not the target's."""
    mine = sessionmaker(shop)
    with sessionwatch.watching(target=mine, log=False) as watch:
        lose(shop, sessionmaker(shop)())
        lose(shop, sessionmaker(class_=mine.class_)(bind=shop))
        assert sessions_of(watch.findings) == 1, "the second maker makes sessions of the first one's class"


def test_sessionmaker_begin(shop: Engine) -> None:
    """Sessions that the maker's begin() opens are its own too."""
    mine = sessionmaker(shop)
    with sessionwatch.watching(target=mine, log=False) as watch:
        with mine.begin() as session:
            session.add(Order())
        assert watch.status()["sessions"]["opened"] == {"sync": 1}


def test_session_class(shop: Engine) -> None:
    """A class and its subclasses are watched; its base is not."""
    with sessionwatch.watching(target=Mine, log=False) as watch:
        lose(shop, Session(shop))
        assert watch.findings == []
        lose(shop, Mine(shop))
        lose(shop, Further(shop))
        lose(shop, sessionmaker(shop, class_=Mine)())
    assert sessions_of(watch.findings) == 3


def test_engine(shop: Engine, tmp_path: Path) -> None:
    """Sessions on the engine, on a connection of it, and with it among several binds are watched."""
    other = file_engine(tmp_path, "other.db")
    with sessionwatch.watching(target=shop, log=False) as watch:
        lose(other)
        lose(other, Session(binds={Order: other}))
        assert watch.findings == []
        lose(shop)
        with shop.connect() as connection:
            lose(shop, Session(connection))
            connection.rollback()
        lose(shop, Session(binds={Order: shop, Item: other}))
    other.dispose()
    assert watch.status()["sessions"]["opened"] == {"sync": 3}
    assert sessions_of(watch.findings) >= 2


def test_engine_with_other_options(shop: Engine) -> None:
    """An engine with other execution options shares the pool, and is the same target."""
    with sessionwatch.watching(target=shop, log=False) as watch:
        lose(shop, Session(shop.execution_options(compiled_cache=None)))
    assert sessions_of(watch.findings) == 1


def test_session_that_chooses_its_engine(shop: Engine) -> None:
    """A session with its own get_bind() may use the engine, so it is watched."""

    class Routed(Session):
        def get_bind(self, *args: Any, **kwargs: Any) -> Engine:
            return shop

    with sessionwatch.watching(target=shop, log=False) as watch:
        lose(shop, Routed())
        Session().close()
        assert watch.status()["sessions"]["opened"] == {"sync": 1}
    assert sessions_of(watch.findings) == 1


def test_scoped_session(shop: Engine) -> None:
    """A registry's sessions are those of its factory."""
    registry = scoped_session(sessionmaker(shop))
    with sessionwatch.watching(target=registry, log=False) as watch:
        lose(shop)
        assert watch.findings == []
        registry.add(Order())
        registry.flush()
        registry.remove()
    assert sessions_of(watch.findings) == 1


@pytest.fixture
async def aengine(tmp_path: Path) -> Any:
    engine = await async_file_engine(tmp_path)
    yield engine
    await engine.dispose()


async def alose(session: AsyncSession) -> None:
    async with session:
        session.add(Order())
        await session.flush()


async def test_async_sessionmaker(aengine: AsyncEngine) -> None:
    """An async_sessionmaker's own sessions are watched, another's are not."""
    mine, other = async_sessionmaker(aengine), async_sessionmaker(aengine)
    with sessionwatch.watching(target=mine, log=False) as watch:
        await alose(other())
        await alose(AsyncSession(aengine))
        assert watch.findings == []
        await alose(mine())
        assert watch.status()["sessions"]["opened"]["async"] == 1
    assert sessions_of(watch.findings) == 1


async def test_async_scoped_session(aengine: AsyncEngine) -> None:
    """The same for an async registry."""
    registry = async_scoped_session(async_sessionmaker(aengine), scopefunc=lambda: 1)
    with sessionwatch.watching(target=registry, log=False) as watch:
        await alose(AsyncSession(aengine))
        assert watch.findings == []
        registry.add(Order())
        await registry.flush()
        await registry.remove()
    assert sessions_of(watch.findings) == 1


async def test_async_session_class(aengine: AsyncEngine) -> None:
    """A subclass of AsyncSession is watched, AsyncSession itself is not."""
    with sessionwatch.watching(target=MineAsync, log=False) as watch:
        await alose(AsyncSession(aengine))
        assert watch.findings == []
        await alose(MineAsync(aengine))
        await alose(async_sessionmaker(aengine, class_=MineAsync)())
    assert sessions_of(watch.findings) == 2


async def test_async_engine(aengine: AsyncEngine, tmp_path: Path) -> None:
    """An AsyncEngine's sessions are watched, another engine's are not; sync ones on its sync engine are."""
    other = await async_file_engine(tmp_path, "other.db")
    with sessionwatch.watching(target=aengine, log=False) as watch:
        await alose(AsyncSession(other))
        assert watch.findings == []
        await alose(AsyncSession(aengine))
    await other.dispose()
    assert sessions_of(watch.findings) == 1


def test_instances_of_others_are_not_reported(shop: Engine) -> None:
    """An instance that an unwatched session loaded may be read and changed."""
    with sessionwatch.watching("strict", target=Mine, log=False) as watch:
        with Session(shop) as session:
            order = session.scalars(select(Order)).one()
        assert order.status == "new"
        order.status = "changed"
    assert watch.findings == []


@pytest.mark.parametrize("target", ["shop", 3, object(), Base, MetaData()], ids=lambda value: type(value).__name__)
def test_bad_target(target: object) -> None:
    """Anything else is a ConfigError that says what a target is, and nothing stays installed."""
    with pytest.raises(ConfigError, match=r"target must be a sessionmaker, a Session class or an engine, not \w+"):
        sessionwatch.install(target=target)
    with sessionwatch.watching(log=False) as watch:
        assert watch.config.target is None
