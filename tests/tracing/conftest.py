"""The real SDK with exporters that keep what they are given, and an installation that uses it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from sessionwatch import uninstall
from sessionwatch.watch import installation as one
from sessionwatch.watch.watch import Watch
from tests.rules import models
from tests.tracing.otel import Otel

Installer = Callable[..., AbstractContextManager[Watch]]


@pytest.fixture
def otel() -> Iterator[Otel]:
    """The three signals of an SDK, in memory."""
    kept = Otel()
    yield kept
    kept.shutdown()


@pytest.fixture
def installed(otel: Otel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Installed in mode ``telemetry`` with the SDK's providers; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with installation(otel.providers) as made:
        yield made


@contextlib.contextmanager
def installation(providers: dict[str, Any] | None = None, **keywords: Any) -> Iterator[Watch]:
    """Install for a block, in mode ``telemetry`` unless told otherwise."""
    uninstall()
    gc.collect()
    keywords = {"mode": "telemetry", "settings": {"breaker.share": 1.0}, **keywords}  # every story, however many
    made = one.install(**keywords, providers=providers)
    try:
        yield made
    finally:
        made.uninstall()


@pytest.fixture
def install() -> Installer:
    """`installation`, for tests that choose their own providers."""
    return installation


@pytest.fixture
def shop() -> Iterator[Engine]:
    """A database in memory with the order book in it, that threads may share."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    models.seed(engine)
    yield engine
    engine.dispose()
