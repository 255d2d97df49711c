"""Scenario 2: a service that answers 201 and stores nothing."""

from __future__ import annotations

from typing import Any

import pytest

from sessionwatch import dto
from tests.scenarios.harness import assert_as_marked, bare, every_rule, listed, named, watched
from tests.scenarios.s2_answered_201 import faulty, repaired
from tests.scenarios.s2_answered_201.models import Note, Project

BROKEN = {"note": 201, "async note": 201, "listing": 500, "project": 500, "registration": 201, "same name": 201}
MENDED = {"note": 201, "async note": 201, "listing": 200, "project": 200, "registration": 201, "same name": 409}


def statuses(symptoms: dict[str, Any]) -> dict[str, int]:
    return {name: answer[0] for name, answer in symptoms.items() if name != "rows"}


def test_the_marks_name_the_rules_of_the_scenario() -> None:
    """No mark was lost, and none was added so that a run passes."""
    assert named(faulty) == {"detached-access", "lost-writes", "swallowed-error"}


def test_the_faulty_one_shows_what_its_users_saw(url: str) -> None:
    """Notes are answered with 201, and the table is empty; listings fail; a failed registration has no number."""
    symptoms = bare(faulty.main, url).symptoms
    assert statuses(symptoms) == BROKEN
    assert symptoms["same name"] == (201, {"id": None})
    assert symptoms["rows"] == {"notes": 0, "users": 1}


def test_the_faulty_one_is_found_at_its_marks(url: str) -> None:
    """Each marked line has its finding and nothing else is found; users see what they saw before."""
    outcome = watched(faulty.main, url, "log", rules=dict.fromkeys(listed(faulty), "log"))
    assert statuses(outcome.symptoms) == BROKEN
    assert_as_marked(outcome, faulty, url)


def test_the_repaired_one_is_silent(url: str) -> None:
    """With every rule set to raise, all is answered and stored, and nothing is found."""
    outcome = watched(repaired.main, url, "strict", rules=every_rule("raise"))
    assert statuses(outcome.symptoms) == MENDED
    assert outcome.symptoms["rows"] == {"notes": 2, "users": 2}
    assert outcome.findings == [], outcome.told()


def test_the_faulty_answer_lacks_three_columns() -> None:
    """`assert_covers` lists what the response model forgot, with the types; the one for notes forgot nothing."""
    with pytest.raises(AssertionError) as caught:
        dto.assert_covers(Project, faulty.ProjectOut)
    assert str(caught.value).splitlines()[:4] == [
        "ProjectOut lacks 3 attributes of Project:",
        "  insights: str | None",
        "  actions: str | None",
        "  decisions: str | None",
    ]
    dto.assert_covers(Note, faulty.NoteOut)


def test_the_repaired_answer_covers_its_table() -> None:
    """Nothing is left out, without an exception to the rule."""
    dto.assert_covers(Project, repaired.ProjectOut)
    dto.assert_covers(Note, repaired.NoteOut)


def test_the_repaired_answer_has_every_column(url: str) -> None:
    """A project and its notes come back whole, through another session than the one that stored them."""
    status, project = bare(repaired.main, url).symptoms["project"]
    assert status == 200
    assert {name: project[name] for name in ("insights", "actions", "decisions", "owner_id")} == {
        "insights": "It is long",
        "actions": "Measure",
        "decisions": "Of steel",
        "owner_id": 1,
    }
    assert [note["text"] for note in project["notes"]] == ["Ask the river", "Ask the wind"]
