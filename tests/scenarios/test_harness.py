"""The comparison itself: a finding without a mark, a mark without a finding and missing evidence all fail."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from sessionwatch import Finding
from sessionwatch.model import Evidence, Site
from tests.scenarios.harness import Outcome, assert_as_marked, marks

SOURCE = """\
session.close()  # expect: lost-writes
session.flush()  # evidence: lost-writes written
engine = make()  # expect on sqlite: session-leak
user.name  # expect: detached-access, use-after-close
"""
SQLITE, POSTGRESQL = "sqlite:///x.db", "postgresql+psycopg://server/x"


@pytest.fixture
def program(tmp_path: Path) -> ModuleType:
    """A module with marks, which is never run."""
    module = ModuleType("program")
    module.__file__ = str(tmp_path / "program.py")
    (tmp_path / "program.py").write_text(SOURCE)
    return module


def found(program: ModuleType, *places: tuple[str, int], written: int = 2) -> Outcome:
    evidence = (Evidence("written", Site(str(program.__file__), written, "work")),)

    def finding(rule: str, line: int) -> Finding:
        return Finding(rule, "fault", "", "", Site(str(program.__file__), line, "work"), evidence, "")

    return Outcome({}, [finding(rule, line) for rule, line in places])


ALL = (("lost-writes", 1), ("detached-access", 4), ("use-after-close", 4))


def test_marks_are_read_with_their_backend(program: ModuleType) -> None:
    """One comment may name several rules, and a backend."""
    everywhere = {(rule, "program.py", line) for rule, line in ALL}
    assert marks(program, POSTGRESQL) == everywhere
    assert marks(program, SQLITE) == everywhere | {("session-leak", "program.py", 3)}


def test_what_is_marked_and_found_passes(program: ModuleType) -> None:
    """The same finding twice at one place is one place."""
    assert_as_marked(found(program, *ALL, ALL[0]), program, POSTGRESQL)


@pytest.mark.parametrize("places", [ALL[1:], (*ALL, ("lost-writes", 2)), (("lost-writes", 2), *ALL[1:])])
def test_what_differs_fails(program: ModuleType, places: tuple[tuple[str, int], ...]) -> None:
    """A mark that nothing was found at, a finding without a mark, and one beside its mark."""
    with pytest.raises(AssertionError):
        assert_as_marked(found(program, *places), program, POSTGRESQL)


def test_missing_evidence_fails(program: ModuleType) -> None:
    """The right place with a story about another line is not enough."""
    with pytest.raises(AssertionError):
        assert_as_marked(found(program, *ALL, written=3), program, POSTGRESQL)


def test_a_mark_of_no_rule_fails(program: ModuleType) -> None:
    """A misspelt rule would be a mark that is never looked at."""
    Path(str(program.__file__)).write_text("x  # expect: lost-write\n")
    with pytest.raises(AssertionError, match="lost-write"):
        marks(program, SQLITE)
