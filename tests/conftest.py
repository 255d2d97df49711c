"""Fixtures of every test, and the servers they need."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from tests import services
from tests.backends import (  # noqa: F401 (fixtures)
    async_engine,
    async_mariadb_engine,
    engine,
    mariadb_engine,
    mariadb_url,
    postgres_database,
    postgres_url,
)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers inherit what the controller found
        for service in services.ALL:
            service.provide()


def pytest_collection_finish() -> None:
    """Many tests collect garbage: what was imported until now is none, and need not be looked at each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    for service in services.ALL:
        service.stop()


@pytest.fixture(autouse=True)
def _the_place_is_left_as_it_was() -> Iterator[None]:
    """A test that changes the working directory for good changes what the next one's findings show."""
    before = os.getcwd()
    yield
    assert os.getcwd() == before
