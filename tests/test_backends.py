"""The engines that the rule tests run on are real, empty and separate."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.mark.parametrize("run", [1, 2])
def test_each_test_gets_an_empty_database(engine: Engine, run: int) -> None:
    """Tables of one test are gone in the next, also where it left a transaction open."""
    assert inspect(engine).get_table_names() == []
    left_open = engine.connect()
    left_open.execute(text("CREATE TABLE thing (id INTEGER)"))
    left_open.commit()
    left_open.execute(text("INSERT INTO thing VALUES (1)"))


@pytest.mark.parametrize("run", [1, 2])
def test_mariadb_starts_empty_too(mariadb_engine: Engine, run: int) -> None:
    """A metadata lock left by one test does not hold up the next."""
    assert inspect(mariadb_engine).get_table_names() == []
    left_open = mariadb_engine.connect()
    left_open.execute(text("CREATE TABLE thing (id INTEGER)"))
    left_open.execute(text("INSERT INTO thing VALUES (1)"))


@pytest.mark.parametrize("run", [1, 2])
async def test_async_engines_start_empty_too(async_engine: AsyncEngine, run: int) -> None:
    """The asyncio drivers see a database without tables."""
    async with async_engine.begin() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == []
        await connection.execute(text("CREATE TABLE thing (id INTEGER)"))


async def test_async_mariadb_answers(async_mariadb_engine: AsyncEngine) -> None:
    """aiomysql reaches the same server."""
    async with async_mariadb_engine.connect() as connection:
        assert "MariaDB" in str(await connection.scalar(text("SELECT version()")))
