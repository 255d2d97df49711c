"""The recipe for Sentry in ``docs/tracing.md``, with sentry-sdk and a transport of our own."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.model import Finding, Site
from tests.cli.programs import ROOT
from tests.rules.models import Order
from tests.rules.places import line

sentry_sdk = pytest.importorskip("sentry_sdk")


class Kept(sentry_sdk.transport.Transport):  # type: ignore[misc,name-defined]
    """Keeps what would be sent."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.events += [event for event in (item.get_event() for item in envelope.items) if event is not None]


@pytest.fixture
def sent() -> Iterator[list[dict[str, Any]]]:
    """The events that Sentry is sent."""
    kept = Kept()
    before = sentry_sdk.get_client()
    sentry_sdk.init(dsn="https://key@sentry.invalid/1", transport=kept, default_integrations=True)
    yield kept.events
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(before)


@pytest.fixture
def recipe(sent: list[Any]) -> Iterator[dict[str, Any]]:
    """What the page's code defines, run as it stands there."""
    page = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "sentry_sdk" in block]
    sessionwatch.uninstall()
    gc.collect()
    names: dict[str, Any] = {}
    exec(compile(code, "recipe.py", "exec"), names)
    yield names
    sessionwatch.uninstall()


def lose(engine: Engine, name: str) -> None:
    session = Session(engine)
    session.add(Order())
    session.flush()
    session.close()  # lost in a helper


def test_finding_is_one_issue(recipe: Any, sent: list[dict[str, Any]], shop: Engine) -> None:
    """One event for each finding, however often it occurs; a fault is an error; the innermost frame is the last."""
    for _ in range(3):
        lose(shop, "one")  # the caller
    (event,) = sent
    finding = sessionwatch.install(mode="telemetry").findings[0]
    assert (event["level"], event["fingerprint"]) == ("error", [finding.fingerprint])
    assert event["tags"]["rule"] == "lost-writes"
    (issue,) = event["exception"]["values"]
    assert (issue["type"], issue["value"]) == ("lost-writes", finding.message)
    last = issue["stacktrace"]["frames"][-1]
    assert (last["abs_path"], last["lineno"], last["function"]) == (__file__, line("lost in a helper"), "lose")
    assert [frame["function"] for frame in issue["stacktrace"]["frames"]][-2:] == [
        "test_finding_is_one_issue", "lose",
    ]  # fmt: skip


def test_advice_is_a_warning(recipe: dict[str, Any], sent: list[dict[str, Any]]) -> None:
    """And a finding whose place is not known has no frames."""
    recipe["to_sentry"](Finding("n-plus-one", "advice", "Order.items", "m", Site("/srv/app.py", 3, "view"), (), "fix"))
    recipe["to_sentry"](Finding("session-leak", "fault", "session", "m", None, (), "fix"))
    advice, unknown = sent
    assert advice["level"] == "warning"
    assert advice["exception"]["values"][0]["stacktrace"]["frames"][0]["lineno"] == 3
    assert not unknown["exception"]["values"][0]["stacktrace"]["frames"]
