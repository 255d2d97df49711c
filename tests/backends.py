"""Engines for the tests, each on an empty database of its own: SQLite, PostgreSQL and MariaDB, sync and asyncio.

``engine``          sync: sqlite, sqlite-memory, psycopg
``async_engine``    asyncio: aiosqlite, asyncpg, psycopg-async
``mariadb_engine``  sync: mariadb (pymysql); ``async_mariadb_engine``: aiomysql
``postgres_url``, ``mariadb_url``  an empty database for a program in a process of its own

A test may leave connections open: the server ends them when the database is emptied for the next test.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from tests.services import MARIADB, POSTGRESQL, libpq, mariadb_connection

SYNC = [
    pytest.param("sqlite"),
    pytest.param("sqlite-memory"),
    pytest.param("psycopg", marks=pytest.mark.postgresql),
]
ASYNC = [
    pytest.param("aiosqlite"),
    pytest.param("asyncpg", marks=pytest.mark.postgresql),
    pytest.param("psycopg-async", marks=pytest.mark.postgresql),
]


@pytest.fixture(params=SYNC)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A sync engine on an empty database; the test makes its own tables."""
    made = _sync_engine(request.param, request)
    enforce_foreign_keys(made)
    yield made
    made.dispose()


@pytest.fixture(params=ASYNC)
async def async_engine(request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    """An asyncio engine on an empty database; the test makes its own tables."""
    made = create_async_engine(_async_url(request.param, request))
    enforce_foreign_keys(made.sync_engine)
    yield made
    await made.dispose()


@pytest.fixture(params=[pytest.param("mariadb", marks=pytest.mark.mariadb)])
def mariadb_engine(request: pytest.FixtureRequest, mariadb_url: URL) -> Iterator[Engine]:
    """A sync engine on an empty MariaDB database."""
    made = create_engine(mariadb_url)
    yield made
    made.dispose()


@pytest.fixture(params=[pytest.param("aiomysql", marks=pytest.mark.mariadb)])
async def async_mariadb_engine(request: pytest.FixtureRequest, mariadb_url: URL) -> AsyncIterator[AsyncEngine]:
    """An asyncio engine on an empty MariaDB database."""
    made = create_async_engine(mariadb_url.set(drivername="mariadb+aiomysql"))
    yield made
    await made.dispose()


@pytest.fixture
def postgres_url(postgres_database: URL) -> Iterator[URL]:
    """The URL (driver psycopg) of an empty PostgreSQL database."""
    import psycopg

    yield postgres_database
    with psycopg.connect(libpq(postgres_database), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[URL]:
    """One database for this worker, emptied after each test that used it."""
    server, name = POSTGRESQL.url(), _database_name()
    import psycopg

    with psycopg.connect(libpq(server), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield server.set(drivername="postgresql+psycopg", database=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def mariadb_url() -> Iterator[URL]:
    """The URL (driver pymysql) of an empty MariaDB database."""
    server, name = MARIADB.url(), _database_name()
    import pymysql

    connection = mariadb_connection(server)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        yield server.set(drivername="mariadb+pymysql", database=name)
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (name,))
        for (identifier,) in cursor.fetchall():
            with suppress(pymysql.err.OperationalError):  # it has gone by itself
                cursor.execute(f"KILL {identifier}")
        cursor.execute(f"DROP DATABASE {name}")


def enforce_foreign_keys(engine: Engine) -> None:
    """Let SQLite enforce foreign keys, as the other databases do by themselves."""
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def pragma(connection: Any, record: object) -> None:
            connection.execute("PRAGMA foreign_keys=ON")


def _sync_engine(backend: str, request: pytest.FixtureRequest) -> Engine:
    if backend == "sqlite-memory":
        return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    if backend == "sqlite":
        return create_engine(f"sqlite:///{_sqlite_file(request)}")
    return create_engine(request.getfixturevalue("postgres_url"))


def _async_url(backend: str, request: pytest.FixtureRequest) -> URL:
    if backend == "aiosqlite":
        return make_url(f"sqlite+aiosqlite:///{_sqlite_file(request)}")
    driver = "postgresql+asyncpg" if backend == "asyncpg" else "postgresql+psycopg"
    url: URL = request.getfixturevalue("postgres_url")
    return url.set(drivername=driver)


def _sqlite_file(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue("tmp_path")
    return folder / "test.db"


def _database_name() -> str:
    return f"sessionwatch_test_{os.getpid()}_{uuid.uuid4().hex[:8]}"
