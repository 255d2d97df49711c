"""Installations for the rules' tests, and databases with rows in them."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from sessionwatch import uninstall, watching
from sessionwatch.watch.watch import Watch
from tests.rules import models
from tests.rules.shops import async_shop, shop  # noqa: F401 (fixtures)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Installed in mode ``log``, for the length of the test; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, rules={"config": "off"}) as installed:  # SQLite engines made in tests are plain
        yield installed


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Installed in mode ``strict``, for the length of the test; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("strict", log=False, rules={"config": "off"}) as installed:
        yield installed
        gc.collect()


@pytest.fixture
def mariadb_shop(mariadb_engine: Engine) -> Engine:
    """A MariaDB engine on a database that `models.seed` filled."""
    models.seed(mariadb_engine)
    return mariadb_engine
