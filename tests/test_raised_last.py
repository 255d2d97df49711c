"""Strict mode: a function of SQLAlchemy's that a finding is raised from has finished its own work by then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext import asyncio as aio
from sqlalchemy.orm import (
    Session,
    close_all_sessions,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import StaticPool

import sessionwatch
from sessionwatch import FindingError
from tests.models import Row, create


@pytest.fixture(autouse=True)
def strict() -> Iterator[sessionwatch.Watch]:
    with sessionwatch.watching(mode="strict", log=False) as watch:
        yield watch


@pytest.fixture
def engine() -> Iterator[Any]:
    made = create_engine("sqlite://", poolclass=StaticPool)
    create(made, Row)
    yield made
    made.dispose()


@pytest.fixture
async def async_engine() -> Any:
    made = aio.create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with made.begin() as connection:
        await connection.run_sync(create, Row)
    yield made
    await made.dispose()


def lose(session: Any) -> None:
    session.add(Row())
    session.flush()


class OwnClose(Session):
    """A session whose class has a ``close()`` of its own."""

    def close(self) -> None:
        super().close()


@pytest.mark.parametrize("class_", [Session, OwnClose])
def test_remove_empties_the_registry(engine: Any, class_: type[Session], strict: sessionwatch.Watch) -> None:
    """``scoped_session.remove()`` raises, and the next unit gets a new session all the same."""
    registry = scoped_session(sessionmaker(engine, class_=class_))
    lose(registry)
    before = registry()
    with pytest.raises(FindingError, match="lost-writes"):
        registry.remove()
    assert not registry.registry.has()
    assert registry() is not before
    assert registry.get(Row, 1) is None
    registry.remove()
    assert [finding.rule for finding in strict.findings] == ["lost-writes"]


async def test_async_remove_empties_the_registry(async_engine: Any) -> None:
    """So does that of ``async_scoped_session``."""
    registry = aio.async_scoped_session(aio.async_sessionmaker(async_engine), scopefunc=lambda: 1)
    registry.add(Row())
    await registry.flush()
    with pytest.raises(FindingError, match="lost-writes"):
        await registry.remove()
    assert not registry.registry.has()


def test_all_sessions_are_closed(engine: Any, strict: sessionwatch.Watch) -> None:
    """``close_all_sessions()`` closes the others, too, and each of them has its own finding."""
    sessions = [Session(create_engine("sqlite://")) for _ in range(4)]
    for session in sessions:
        create(session.connection(), Row)
        session.commit()
    lose(sessions[1])
    lose(sessions[2])
    sessions[3].connection()
    with pytest.raises(FindingError):
        close_all_sessions()
    assert not any(session.in_transaction() for session in sessions)
    assert sum(finding.count for finding in strict.findings) == 2


async def test_all_async_sessions_are_closed(async_engine: Any) -> None:
    """So does that of asyncio."""
    first, second = aio.AsyncSession(async_engine), aio.AsyncSession(async_engine)
    first.add(Row())
    await first.flush()
    await second.connection()
    with pytest.raises(FindingError, match="lost-writes"):
        await aio.close_all_sessions()
    assert not first.in_transaction()
    assert not second.in_transaction()


def swallow_an_error(session: Any) -> None:
    session.execute(insert(Row).values(id=1))
    with contextlib.suppress(IntegrityError):
        session.execute(insert(Row).values(id=1))


def test_a_begin_block_ends(engine: Any) -> None:
    """A ``begin()`` block whose commit is refused is rolled back and left, and the session can be used again."""
    session = Session(engine)
    with pytest.raises(FindingError, match="swallowed-error"), session.begin():
        swallow_an_error(session)
    assert not session.in_transaction()
    with session.begin():
        session.add(Row(id=7))
    assert session.get(Row, 7) is not None
    session.close()


def test_a_makers_begin_block_ends(engine: Any) -> None:
    """``with sessionmaker.begin()`` closes its session, too."""
    with pytest.raises(FindingError, match="swallowed-error"), sessionmaker(engine).begin() as session:
        swallow_an_error(session)
    assert not session.in_transaction()
    assert engine.pool.checkedin() if hasattr(engine.pool, "checkedin") else True


async def test_an_async_makers_begin_block_ends(async_engine: Any) -> None:
    """``async with async_sessionmaker.begin()`` closes its session, too."""
    closed = []

    class Watched(aio.AsyncSession):
        async def close(self) -> None:
            closed.append(self)
            await super().close()

    maker = aio.async_sessionmaker(async_engine, class_=Watched)
    with pytest.raises(FindingError, match="swallowed-error"):
        async with maker.begin() as session:
            await session.run_sync(swallow_an_error)
    assert closed == [session]
    assert not session.in_transaction()


def test_a_closing_block_returns_the_connection(engine: Any) -> None:
    """``with Session()`` has given its connection back when the finding is raised."""
    with pytest.raises(FindingError, match="lost-writes"), Session(engine) as session:
        lose(session)
    assert not session.in_transaction()
    assert session.identity_map.values() == []
