"""Scenario 4: a task manager that breaks its own generator of sessions."""

from __future__ import annotations

import pytest
import sqlalchemy

from tests.scenarios.harness import assert_as_marked, bare, every_rule, listed, named, watched
from tests.scenarios.s4_task_manager import faulty, repaired

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")

BROKEN = {
    "created": "ResourceClosedError",
    "started": "running",
    "not started": "ConnectionError",
    "tasks": ["Build: running", "Paint: new"],
}
MENDED = {
    "created": 1,
    "started": "running",
    "step": "IntegrityError",
    "followed up": 3,
    "not started": "ConnectionError",
    "tasks": ["Build: running", "Dig: new", "Sweep: new"],
    "steps": [],
}


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def test_the_marks_name_the_rules_of_the_scenario() -> None:
    """No mark was lost, and none was added so that a run passes."""
    assert named(faulty) == {
        "config",
        "cross-task",
        "lost-writes",
        "session-leak",
        "split-unit-of-work",
        "use-after-close",
    }


@pytest.fixture
def with_a_pool(url: str) -> None:
    """What users saw comes of a pool, which asyncio's SQLite has since SQLAlchemy 2.0.38."""
    version = tuple(int(part) for part in sqlalchemy.__version__.split(".")[:3] if part.isdigit())
    if is_sqlite(url) and version < (2, 0, 38):
        pytest.skip("aiosqlite has no pool before SQLAlchemy 2.0.38")


@pytest.mark.filterwarnings("default:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
@pytest.mark.usefixtures("with_a_pool")
def test_the_faulty_one_shows_what_its_users_saw(url: str) -> None:
    """Two tasks are lost, one of them answered; a failed operation is half stored; SQLite takes a step of no task."""
    with pytest.warns(Warning, match="garbage collector is trying to clean up non-checked-in connection"):
        outcome = bare(faulty.main, url)
    assert {name: outcome.symptoms[name] for name in BROKEN} == BROKEN
    assert isinstance(outcome.symptoms["followed up"], int)
    assert outcome.symptoms["step"] == ("Measure" if is_sqlite(url) else "IntegrityError")
    assert outcome.symptoms["steps"] == (["Measure"] if is_sqlite(url) else [])
    assert outcome.loop_errors == ["IllegalStateChangeError"]


@pytest.mark.usefixtures("with_a_pool")
def test_the_faulty_one_is_found_at_its_marks(url: str) -> None:
    """Each marked line has its finding and nothing else is found; users see what they saw before."""
    outcome = watched(faulty.main, url, "log", rules=dict.fromkeys(listed(faulty), "log"))
    assert {name: outcome.symptoms[name] for name in BROKEN} == BROKEN
    assert outcome.loop_errors == ["IllegalStateChangeError"]
    assert_as_marked(outcome, faulty, url)


def test_the_broken_generator_is_named(url: str) -> None:
    """The finding says which generator's session is used, and the line that ran the generator is evidence."""
    findings = watched(faulty.main, url, "log", rules={}).findings
    told = {finding.message for finding in findings if finding.rule == "use-after-close"}
    assert told == {"the session was used after the generator TaskManager.get_session() that yielded it had ended"}


def test_the_repaired_one_is_silent(url: str) -> None:
    """With every rule set to raise, all works, nothing is found, and a failed operation leaves nothing behind."""
    outcome = watched(repaired.main, url, "strict", rules=every_rule("raise"))
    assert outcome.symptoms == MENDED
    assert outcome.loop_errors == []
    assert outcome.findings == [], outcome.told()
