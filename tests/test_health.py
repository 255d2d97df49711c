"""What production is spared and told: the breaker, and ``status()`` for a health endpoint. No test looks at a clock."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.model import Finding
from sessionwatch.watch.breaker import LEFT_OUT, Breaker
from sessionwatch.watch.watch import Watch
from tests.programs.shop import Order, _our_errors_raise, file_engine  # noqa: F401 (fixture)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Engine]:
    """A database of its own."""
    engine = file_engine(tmp_path)
    yield engine
    engine.dispose()


class Clock:
    """Stands still until it is put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lose(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Order())
        session.flush()


def tell(breaker: Breaker, clock: Clock, seconds: float) -> None:
    breaker.clock = breaker.cost = clock
    began = clock.now
    clock.now += seconds
    breaker.spent(began)


# -- the breaker --------------------------------------------------------------------------------------


def test_opens_above_its_share_of_ten_seconds_and_for_a_minute() -> None:
    """A hundredth of ten seconds is a tenth of a second: at that it is closed, above it is open."""
    clock = Clock()
    breaker = Breaker(0.01, clock)
    tell(breaker, clock, 0.05)
    clock.now += 3
    tell(breaker, clock, 0.04)
    assert not breaker.is_open
    tell(breaker, clock, 0.02)
    assert breaker.is_open
    clock.now += LEFT_OUT - 0.01
    assert breaker.is_open
    clock.now += 0.02
    assert not breaker.is_open


def test_what_is_longer_ago_than_ten_seconds_is_forgotten() -> None:
    """However often: a steady cost below the share never opens it."""
    clock = Clock()
    breaker = Breaker(0.01, clock)
    for _ in range(100):
        tell(breaker, clock, 0.08)
        clock.now += 11
        assert not breaker.is_open
    for _ in range(12):
        tell(breaker, clock, 0.009)
        clock.now += 1
        assert not breaker.is_open


def test_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """One warning, with the setting's name, however often it opens."""
    clock = Clock()
    breaker = Breaker(0.01, clock)
    for _ in range(3):
        tell(breaker, clock, 1.0)
        assert breaker.is_open
        clock.now += LEFT_OUT
    (record,) = caplog.records
    assert (record.levelno, "breaker.share" in record.getMessage()) == (logging.WARNING, True)


def test_counts_go_on_without_stories(shop: Engine) -> None:
    """Nobody is told of what is found meanwhile, and it is counted, by rule and by place, and none that is allowed."""
    told: list[Finding] = []
    with sessionwatch.watching("telemetry", log=False, rules={"config": "off"}) as watch:
        clock = watch.dispatch.breaker.clock = watch.dispatch.breaker.cost = Clock()
        watch.subscribe(lambda finding, first: told.append(finding))
        lose(shop)
        assert not watch.dispatch.breaker.is_open
        tell(watch.dispatch.breaker, clock, 1.0)
        for _ in range(4):
            lose(shop)
        with sessionwatch.allow("lost-writes", reason="a dry run"):
            lose(shop)
        assert [finding.count for finding in watch.findings] == [1] == [len(told)]
        assert watch.tracker.found.by_rule == {("lost-writes", "telemetry"): 5}
        assert Counter(watch.tracker.found.by_place.values()).total() == 1
        assert watch.status()["degraded"]["stories of findings"].startswith("left out for 60 more seconds")
        clock.now += LEFT_OUT
        lose(shop)
        assert [finding.count for finding in watch.findings] == [2]
        assert "stories of findings" not in watch.status()["degraded"]


def test_sink_that_is_slow_is_what_it_measures(shop: Engine) -> None:
    """The time of everything that is told counts, a callback of the program's too."""
    with sessionwatch.watching("telemetry", log=False, rules={"config": "off"}) as watch:
        clock = watch.dispatch.breaker.clock = watch.dispatch.breaker.cost = Clock()

        def slow(finding: Finding, first: bool) -> None:
            clock.now += 2.0

        watch.subscribe(slow)
        lose(shop)
        assert watch.dispatch.breaker.is_open


@pytest.mark.parametrize("mode", ["log", "strict"])
def test_other_modes_tell_everything(mode: Any, shop: Engine) -> None:
    """In development and tests no story is left out."""
    with sessionwatch.watching(mode, log=False, rules={"lost-writes": "log", "config": "off"}) as watch:
        tell(watch.dispatch.breaker, Clock(), 1.0)
        watch.dispatch.breaker.clock = Clock()
        watch.dispatch.breaker._until = float("inf")
        lose(shop)
        assert [finding.rule for finding in watch.findings] == ["lost-writes"]


def test_the_share_is_a_setting() -> None:
    """From the configuration, 0.01 unless told otherwise."""
    with sessionwatch.watching("telemetry", log=False) as watch:
        assert watch.dispatch.breaker.share == 0.01
    with sessionwatch.watching("telemetry", log=False, settings={"breaker.share": 0.2}) as watch:
        assert watch.dispatch.breaker.share == 0.2


# -- status -------------------------------------------------------------------------------------------


def exporting(watch: Watch) -> InMemoryMetricReader:
    reader = InMemoryMetricReader()
    watch.telemetry.use(MeterProvider([reader], shutdown_on_exit=False))
    return reader


def test_ok_and_the_last_export() -> None:
    """All works: ok, nothing is degraded, and when a reader collected last; as JSON has it."""
    with sessionwatch.watching("telemetry", log=False) as watch:
        reader = exporting(watch)
        watch.telemetry._clock = lambda: 1_795_000_000.0
        assert watch.status()["telemetry"]["last_export"] is None
        reader.get_metrics_data()
        status = json.loads(json.dumps(watch.status()))
    assert (status["ok"], status["degraded"]) == (True, {})
    assert status["telemetry"]["last_export"] == "2026-11-18T11:06:40Z"


def test_without_a_meter_provider_it_is_not_ok() -> None:
    """Mode telemetry exports nothing then; in mode log nothing is missing."""
    with sessionwatch.watching("telemetry", log=False) as watch:
        watch.telemetry.is_exported = lambda: False  # type: ignore[method-assign]
        assert watch.status()["ok"] is False
        assert watch.status()["degraded"] == {"metrics": "not exported: OpenTelemetry has no meter provider"}
    with sessionwatch.watching("log", log=False) as watch:
        assert watch.status()["ok"] is True


def test_what_failed_and_why(shop: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A rule that was dropped, errors of ours, a file that can't be written, a pause."""
    monkeypatch.delenv("SESSIONWATCH_TESTING", raising=False)
    with sessionwatch.watching("log", log=False, output=tmp_path / "findings.jsonl") as watch:
        rule = sessionwatch.rules.find("lost-writes")
        with watch.tracker.guarded("Session.add"):
            raise RuntimeError("ours")
        try:
            raise RuntimeError("ours")
        except RuntimeError:
            watch.dispatch._drop(rule)
        assert watch.audience.output is not None
        watch.audience.output._fail("No space left on device")
        status = watch.status()
        assert status["ok"] is False
        assert status["degraded"] == {
            "rule lost-writes": "off: dropped after an internal error",
            "output": "No space left on device",
            "sessionwatch": "2 internal errors, in Session.add, rule lost-writes: see the log",
        }
    with sessionwatch.watching("log", log=False) as watch:
        watch.pause()
        assert (watch.status()["ok"], watch.status()["degraded"]) == (False, {})
        watch.resume()
        assert watch.status()["ok"] is True
