"""Scenario 3: a service half way from sync to asyncio."""

from __future__ import annotations

import pytest

from tests.scenarios.harness import assert_as_marked, bare, every_rule, listed, named, watched
from tests.scenarios.s3_migration import faulty, repaired

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

MENDED = {
    "open tickets": ["Door", "Lamp", "Roof"],
    "closing": {"title": "Door"},
    "numbers": {"tickets": 3, "agents": 1},
    "report": {"agent": "Ada", "by status": {"closed": 1, "open": 2}},
    "heartbeat": ["Ada", "Ada"],
}
BROKEN = MENDED | {"closing": 500}


def test_the_marks_name_the_rules_of_the_scenario() -> None:
    """No mark was lost, and none was added so that a run passes."""
    assert named(faulty) == {"blocking-io", "config", "cross-task", "implicit-io"}


def test_the_faulty_one_shows_what_its_users_saw(url: str) -> None:
    """Closing a ticket fails after the commit; the rest seems to work."""
    assert bare(faulty.main, url).symptoms == BROKEN


def test_the_faulty_one_is_found_at_its_marks(url: str) -> None:
    """Each marked line has its finding and nothing else is found; users see what they saw before."""
    outcome = watched(faulty.main, url, "log", rules=dict.fromkeys(listed(faulty), "log"))
    assert outcome.symptoms == BROKEN
    assert_as_marked(outcome, faulty, url)


def test_the_repaired_one_is_silent(url: str) -> None:
    """With every rule set to raise, all works and nothing is found."""
    outcome = watched(repaired.main, url, "strict", rules=every_rule("raise"))
    assert outcome.symptoms == MENDED
    assert outcome.findings == [], outcome.told()
