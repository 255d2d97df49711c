"""The demonstration's database: is the URL usable, empty tables before, the rows after, nothing left behind."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from .repaired.models import Base, Order

_SECONDS_TO_CONNECT = 5
_HAVE_CONNECT_TIMEOUT = ("psycopg", "psycopg2", "pymysql", "mysqldb")
_ASYNC_DRIVERS = {
    "sqlite": ("aiosqlite",),
    "postgresql": ("psycopg", "asyncpg"),
    "mysql": ("aiomysql", "asyncmy"),
    "mariadb": ("aiomysql", "asyncmy"),
}


class DatabaseError(Exception):
    """The database can't be used; the message is one line for the user."""


@dataclass(frozen=True)
class Database:
    """Where one half of the demonstration runs. ``async_url`` is None where no asyncio driver is installed."""

    engine: Engine
    async_url: URL | None

    @property
    def url(self) -> URL:
        return self.engine.url

    def orders(self) -> dict[str, str]:
        """The orders that are really there: number and status."""
        with _explained(), self.engine.connect() as connection:
            return {row.number: row.status for row in connection.execute(select(Order.number, Order.status))}

    def create(self) -> None:
        """Empty tables; those of an interrupted demonstration are replaced."""
        with _explained():
            Base.metadata.drop_all(self.engine)
            Base.metadata.create_all(self.engine)

    def drop(self) -> None:
        """Drop the tables."""
        with _explained():
            Base.metadata.drop_all(self.engine)


@contextmanager
def temporary_folder(keep: bool) -> Iterator[Path]:
    """A folder for SQLite files and findings, removed afterwards unless it is to be kept."""
    if keep:
        yield Path(tempfile.mkdtemp(prefix="sessionwatch-demo-"))
        return
    with tempfile.TemporaryDirectory(prefix="sessionwatch-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def prepared(text: str, keep: bool) -> Iterator[Database]:
    """The database under this URL with empty tables, which are dropped afterwards unless they are to be kept.

    Raises `DatabaseError` for a URL that can't be read, a driver that is missing, a database that
    can't be reached, and tables that may not be made.
    """
    url = _parsed(text)
    with _explained():
        database = Database(_engine(url), _async_url(url))
    database.create()
    try:
        yield database
    finally:
        if not keep:
            database.drop()


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # not shown: it may hold a password
        raise DatabaseError(
            "that is no database URL; the form is postgresql+psycopg://user:password@host/database"
        ) from None
    return _absolute(url) if url.get_backend_name() == "sqlite" else url


def _absolute(url: URL) -> URL:
    """A SQLite file's path for a program in another working directory."""
    path = url.database
    if not path or path == ":memory:":
        raise DatabaseError("a database in memory can't be shared by two programs; give a file: sqlite:///demo.db")
    return url if path.startswith("file:") else url.set(database=os.path.abspath(path))


def _engine(url: URL) -> Engine:
    if url.get_dialect().is_async:
        raise DatabaseError(f"{url.drivername} is an asyncio driver; give the URL with one that is not")
    arguments = {}
    if url.get_driver_name() in _HAVE_CONNECT_TIMEOUT and "connect_timeout" not in url.query:
        arguments["connect_timeout"] = _SECONDS_TO_CONNECT
    return create_engine(url, poolclass=NullPool, connect_args=arguments)


def _async_url(url: URL) -> URL | None:
    """The same database for the asyncio part of the program."""
    for driver in _ASYNC_DRIVERS.get(url.get_backend_name(), ()):
        if _importable("greenlet") and _importable(driver):
            return url.set(drivername=f"{url.get_backend_name()}+{driver}")
    return None


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise into one line."""
    try:
        yield
    except NoSuchModuleError as error:
        raise DatabaseError(f"SQLAlchemy does not know this kind of database: {_first_line(error)}") from error
    except ImportError as error:
        raise DatabaseError(f"the driver is not installed: {_first_line(error)}") from error
    except DBAPIError as error:
        raise DatabaseError(f"the database can't be used: {_first_line(error.orig)}") from error
    except SQLAlchemyError as error:
        raise DatabaseError(f"the database can't be used: {_first_line(error)}") from error


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
