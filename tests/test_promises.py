"""The pages of what is promised name tests and pages that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("SECURITY.md", "docs/what-we-promise.md")


def rows(page: str) -> list[str]:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("| ")]
    return [line for line in tables if not line.startswith(("| ---", "| promise", "| what could go wrong"))]


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {one.name for one in tree.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("page", PAGES)
def test_each_promise_names_tests_that_exist(page: str) -> None:
    """Each row of a table of promises has at least one test, and each of them is a function of its file."""
    assert rows(page)
    for row in rows(page):
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, row
        assert [one for one in named if one[1] not in functions_of(one[0])] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_a_promise_links_to_exists(page: str) -> None:
    """Pages and modules that are to be run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
    for module in re.findall(r"`python -m ([\w.]+)`", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
    for script in re.findall(r"`python (\S+\.py)`", text):
        assert (ROOT / script).exists()
