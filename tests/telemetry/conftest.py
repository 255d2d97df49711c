"""The real SDK with a reader in memory, and installations that export to it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from sessionwatch import uninstall, watching
from sessionwatch.hooks import pools
from sessionwatch.hooks.pools import engines
from sessionwatch.telemetry.instruments import TOTALS, Totals
from sessionwatch.watch.watch import Watch
from tests.rules.shops import async_shop, shop  # noqa: F401 (fixtures)
from tests.telemetry.readings import Readings


@pytest.fixture(autouse=True)
def _our_errors_raise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our own errors raise, and the engines and what earlier tests of this process counted are not this one's."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    gc.collect()
    others = WeakSet(engines())  # of fixtures, and of tests that failed
    monkeypatch.setattr(pools, "engines", lambda: [engine for engine in engines() if engine not in others])
    vars(TOTALS).update(vars(Totals()))
    yield
    uninstall()


@pytest.fixture
def readings() -> Iterator[Readings]:
    """What a provider of its own exports."""
    yield from _provided(InMemoryMetricReader())


def _provided(reader: InMemoryMetricReader) -> Iterator[Readings]:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield Readings(reader, provider)
    provider.shutdown()


@pytest.fixture
def installed(readings: Readings) -> Iterator[Callable[..., Watch]]:
    """``installed(mode, **keywords)``: an installation for the length of the test that exports to `readings`."""
    watches: list[Any] = []

    def install(mode: str = "telemetry", **keywords: Any) -> Watch:
        watch = watching(
            mode, log=False, **{"rules": {"config": "off"}, "settings": {"breaker.share": 1.0}, **keywords}
        )  # type: ignore[arg-type]
        entered = watch.__enter__()
        entered.telemetry.use(readings.provider)
        watches.append(watch)
        return entered

    yield install
    for watch in reversed(watches):
        watch.__exit__(None, None, None)


@pytest.fixture
def watch(installed: Callable[..., Watch]) -> Watch:
    """Installed in mode ``telemetry``."""
    return installed()
