"""The databases that the workloads run on, one `Database` a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.util import greenlet_spawn

from . import models

T = TypeVar("T")

SQLITE = "sqlite://"
DRIVERS = {"sqlite": "", "psycopg": "postgresql+psycopg", "asyncpg": "postgresql+asyncpg"}
_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"
_POOL: dict[str, Any] = {"pool_size": 5, "max_overflow": 15}  # ten modes share a server of a hundred connections


def _enforce_foreign_keys(connection: Any, record: object) -> None:
    """As the other databases do by themselves."""
    connection.execute("PRAGMA foreign_keys=ON")


class UnavailableError(Exception):
    """Something that was asked for can't run here; the text says why."""


class Database:
    """An engine, and a way to call sync code on it: under an asyncio driver, sync code runs in a greenlet."""

    def __init__(self, url: str = SQLITE) -> None:
        self.url = make_url(url)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._async_engine: Any = None
        self.is_async = self.url.get_dialect().is_async and self.url.drivername != "postgresql+psycopg"
        if self.is_async:
            self.engine: Engine = self.async_engine.sync_engine
        else:
            self.engine = create_engine(self.url, **({} if self.is_sqlite else _POOL))
        if self.is_sqlite and not self.is_async:
            event.listen(self.engine, "connect", _enforce_foreign_keys)
        if self.is_sqlite:
            with self.engine.begin() as connection:
                models.seed(connection)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop

    @property
    def async_engine(self) -> Any:
        """An AsyncEngine; on SQLite a database of its own, with the same rows."""
        if self._async_engine is None:
            try:
                from sqlalchemy.ext.asyncio import create_async_engine

                url = self.url.set(drivername="sqlite+aiosqlite") if self.is_sqlite else self.url
                self._async_engine = create_async_engine(url, **({} if self.is_sqlite else _POOL))
                if self.is_sqlite:
                    event.listen(self._async_engine.sync_engine, "connect", _enforce_foreign_keys)
            except ImportError as error:
                raise UnavailableError(str(error)) from error
            if self.is_sqlite:
                self.loop.run_until_complete(_seed(self._async_engine))
        return self._async_engine

    def call(self, function: Callable[[], T]) -> T:
        """The result of ``function()``, run so that it may use the engine."""
        if not self.is_async:
            return function()
        result: T = self.loop.run_until_complete(greenlet_spawn(function))
        return result

    def close(self) -> None:
        if self._async_engine is not None:
            self.loop.run_until_complete(self._async_engine.dispose())
        if not self.is_async:
            self.engine.dispose()
        if self._loop is not None:
            self._loop.close()


async def _seed(engine: Any) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(models.seed, 100)


@contextlib.contextmanager
def url_of(kind: str) -> Iterator[str]:
    """The URL of a database of one of `DRIVERS`, filled and, if it is on a server, dropped afterwards.

    Raises `UnavailableError` where the server or the driver is not there.
    """
    if kind == "sqlite":
        yield SQLITE
        return
    server = make_url(os.environ.get("SESSIONWATCH_TEST_POSTGRES_URL", _POSTGRES)).set(drivername="postgresql+psycopg")
    name = f"sessionwatch_bench_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    try:
        if kind == "asyncpg":
            import asyncpg  # type: ignore[import-untyped]  # noqa: F401
        administrator = create_engine(server, isolation_level="AUTOCOMMIT")
        with administrator.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    except Exception as error:
        raise UnavailableError(f"{kind}: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    try:
        filling = create_engine(server.set(database=name))
        with filling.begin() as connection:
            models.seed(connection)
        filling.dispose()
        yield server.set(database=name, drivername=DRIVERS[kind]).render_as_string(hide_password=False)
    finally:
        with administrator.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        administrator.dispose()
