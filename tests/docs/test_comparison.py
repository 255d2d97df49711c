"""The page that compares tools is what its command gives."""

from __future__ import annotations

import re

import pytest

import sessionwatch
from sessionwatch import rules
from tests import comparison
from tests.rules import examples

ROWS = {
    row[0]: row[1:]
    for line in comparison.PAGE.read_text(encoding="utf-8").splitlines()
    if (row := re.sub(r"\[`([a-z-]+)`\]\(rules.md\)", r"\1", line).strip("| ").split(" | ")) and len(row) > 4
}


def test_the_page_has_a_row_for_each_rule_that_was_run() -> None:
    """And sessionwatch names the line in each."""
    run = [rule.slug for rule in rules.ALL if rule.slug not in comparison.NOT_RUN]
    assert [slug for slug in ROWS if slug in run] == run
    assert {ROWS[slug][-1] for slug in run} == {"the line"}


@pytest.mark.parametrize("slug", ["lost-writes", "detached-access", "n-plus-one"])
@pytest.mark.parametrize("tool", ["SQLAlchemy", "sessionwatch"])
def test_a_cell_is_what_a_run_gives(slug: str, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tools that are installed with the tests."""
    sessionwatch.uninstall()
    monkeypatch.setattr(examples, "suppress", comparison.Outcome)
    assert comparison.cell(slug, tool) == ROWS[slug][list(comparison.TOOLS).index(tool)]
