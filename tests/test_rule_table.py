"""The page of the rules is what the registry and the tests say."""

from __future__ import annotations

import ast

import pytest

from sessionwatch import rules
from sessionwatch.model import Rule
from tests import rule_table


def test_the_page_is_what_is_generated() -> None:
    """A new rule or default changes the page: python -m tests.rule_table > docs/rules.md."""
    assert rule_table.PAGE.read_text(encoding="utf-8") == rule_table.page()


@pytest.mark.parametrize("rule", rules.ALL, ids=lambda rule: rule.slug)
def test_each_rule_says_where_it_raises(rule: Rule) -> None:
    """The safe point is part of a rule; one line, no sentence."""
    assert rule.safe_point
    assert "\n" not in rule.safe_point
    assert "|" not in rule.safe_point


@pytest.mark.parametrize("rule", rules.ALL, ids=lambda rule: rule.slug)
def test_each_rule_has_its_tests(rule: Rule) -> None:
    """Programs that are reported, near misses that are not, the exact message, and strict mode."""
    counts = rule_table.tests_of(rule)
    assert counts["reports"] >= 3
    assert counts["ignores"] >= 5
    assert min(counts["asyncio"], counts["message"], counts["strict"]) >= 1


def test_kinds_by_name() -> None:
    """A test may be of several kinds, or of none."""
    source = "async def test_reports_strict(): ...\ndef test_the_message(): ...\ndef test_ignored(): ..."
    found = [
        rule_table.kinds(node)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert found == [["reports", "asyncio", "strict"], ["message"], []]


def test_each_file_belongs_to_one_rule() -> None:
    """No file of tests is counted twice."""
    files = [path for rule in rules.ALL for path in rule_table.files_of(rule.slug)]
    assert len(files) == len(set(files))
