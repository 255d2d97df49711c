"""What the programs of all scenarios share: drivers, foreign keys on SQLite, and what a user sees of a failure."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from sqlalchemy import Engine, MetaData, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

ASYNCIO_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def asyncio_url(url: str) -> str:
    """The same database by its asyncio driver."""
    parsed = make_url(url)
    return parsed.set(drivername=ASYNCIO_DRIVERS[parsed.get_backend_name()]).render_as_string(hide_password=False)


def connect(url: str) -> Engine:
    """A sync engine, with foreign keys enforced on SQLite too."""
    engine = create_engine(url)
    enforce_foreign_keys(engine)
    return engine


def connect_asyncio(url: str) -> AsyncEngine:
    """An asyncio engine on the same database, with foreign keys enforced on SQLite too."""
    engine = create_async_engine(asyncio_url(url))
    enforce_foreign_keys(engine.sync_engine)
    return engine


def enforce_foreign_keys(engine: Engine) -> None:
    """SQLite checks foreign keys only where each connection asks for it."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def ask(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()


async def create_tables(engine: AsyncEngine, metadata: MetaData) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)


async def symptom(work: Awaitable[object]) -> object:
    """What a user sees of it: the result, or the name of the exception."""
    try:
        return await work
    except Exception as error:
        inner = getattr(error, "orig", None)  # SQLAlchemy 2.1 wraps MissingGreenlet into a StatementError
        return type(inner if isinstance(inner, SQLAlchemyError) else error).__name__
