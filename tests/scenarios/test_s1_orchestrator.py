"""Scenario 1: an orchestrator that passes models across asyncio sessions."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from sessionwatch import assert_no_instances, dto
from sessionwatch.watch.installation import current
from tests.rules.clock import Clock
from tests.scenarios.database import connect_asyncio, create_tables
from tests.scenarios.harness import assert_as_marked, bare, every_rule, listed, named, watched
from tests.scenarios.s1_orchestrator import faulty, repaired
from tests.scenarios.s1_orchestrator.models import Base, Job, store_first_rows

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

BROKEN = {
    "started": "MissingGreenlet",
    "announced": "DetachedInstanceError",
    "workflow": "DetachedInstanceError",
    "plan": "1. Read the news",
    "run": "pending",
    "stored": ("pending", 1),
}
MENDED = {
    "started": ["curiosity: Read the news", "curiosity: Sort the mail"],
    "announced": "Read the news, out of curiosity",
    "workflow": {"job": 1, "prompt": "Read the news", "drive": "curiosity"},
    "plan": "1. Read the news",
    "run": "cancelled",
    "stored": ("cancelled", 0),
}


async def think(prompt: str) -> str:
    """The planning service takes six seconds of the watchdog's clock."""
    watch = current()
    assert watch is not None
    await asyncio.to_thread(Clock(watch).sleep, 6)
    return f"1. {prompt}"


def test_the_marks_name_the_rules_of_the_scenario() -> None:
    """No mark was lost, and none was added so that a run passes."""
    assert named(faulty) == {"boundary", "detached-access", "implicit-io", "long-session", "reattach"}


def test_the_faulty_one_shows_what_its_users_saw(url: str) -> None:
    """Drives can't be read, neither inside nor outside of the session, and a cancelled job runs again."""
    assert bare(faulty.main, url).symptoms == BROKEN


def test_the_faulty_one_is_found_at_its_marks(url: str) -> None:
    """Each marked line has its finding and nothing else is found; users see what they saw before."""
    outcome = watched(faulty.main, url, "log", rules=dict.fromkeys(listed(faulty), "log"), planner=think)
    assert outcome.symptoms == BROKEN
    assert_as_marked(outcome, faulty, url)


def test_the_repaired_one_is_silent(url: str) -> None:
    """With every rule set to raise, all works and nothing is found."""
    outcome = watched(repaired.main, url, "strict", rules=every_rule("raise"), planner=think)
    assert outcome.symptoms == MENDED
    assert outcome.findings == [], outcome.told()


def test_crossings_can_be_counted_in_production(url: str) -> None:
    """With the rule on, telemetry mode counts the crossing of the faulty one."""
    counted = watched(faulty.main, url, "telemetry", rules={"boundary": "log"}).findings
    assert [finding.count for finding in counted if finding.rule == "boundary"] == [1]


def test_no_crossing_is_left_to_count(url: str) -> None:
    """The target of zero, in the same mode."""
    assert watched(repaired.main, url, "telemetry", rules={"boundary": "log"}).findings == []


async def test_a_brief_says_what_the_query_forgot(url: str) -> None:
    """Without the eager load, the transfer object is refused inside of the session, and names the option."""
    engine = connect_asyncio(url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    await create_tables(engine, Base.metadata)
    await store_first_rows(sessions)
    async with sessions() as session:
        with pytest.raises(dto.ExtractError, match=r"\.options\(joinedload\(Job\.drive\)\)") as caught:
            dto.extract(await session.get_one(Job, 1), repaired.Brief)
    await engine.dispose()
    assert caught.value.missing == ("drive",)


def test_a_job_in_a_workflow_is_named() -> None:
    """The validator that the project wanted: it says where in a value an instance is."""
    with pytest.raises(AssertionError, match=r'workflow\["jobs"\]\[0\]'):
        assert_no_instances({"jobs": [Job(id=1)]}, "workflow")
    assert_no_instances({"jobs": [repaired.Brief(1, "Read", "new", repaired.Motive("curiosity"))]}, "workflow")
