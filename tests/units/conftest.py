"""An installation, databases that threads can share, and what a handler finds out about its unit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessionwatch import uninstall, watching
from sessionwatch.watch.watch import Watch
from tests.rules import models
from tests.rules.conftest import strict  # noqa: F401 (a fixture)

DATABASES = [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.postgresql)]

SYNC_WORK = {"blocking-io": "off", "config": "off"}  # handlers work synchronously here, on plain SQLite


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Installed in mode ``log``, for the length of the test; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, rules=SYNC_WORK) as installed:
        yield installed


def _url(kind: str, request: pytest.FixtureRequest) -> URL:
    if kind == "sqlite":
        folder: Path = request.getfixturevalue("tmp_path")
        return URL.create("sqlite", database=str(folder / "shop.db"))
    url: URL = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=DATABASES)
def shop(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A sync engine on a database that `models.seed` filled."""
    engine = create_engine(_url(request.param, request))
    models.seed(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=DATABASES)
async def async_shop(request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    """An asyncio engine on a database that `models.seed_async` filled."""
    url = _url(request.param, request)
    engine = create_async_engine(url.set(drivername="sqlite+aiosqlite") if request.param == "sqlite" else url)
    await models.seed_async(engine)
    yield engine
    await engine.dispose()
