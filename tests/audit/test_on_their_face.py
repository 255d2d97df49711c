"""The programs that the runtime rules' tests run: what the audit finds in the wrong ones, and not in the right ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from sessionwatch import rules
from sessionwatch.audit.analyse import audit
from sessionwatch.audit.result import Entry
from tests.audit.on_their_face import HIDDEN, IN_ORDER, ON_THEIR_FACE, REASONS
from tests.audit.test_corpus import look

ROOT = Path(__file__).parents[2]
SHARE = 0.7
SUFFIXES = ("_asyncio", "_kinds", "_silent", "_live")  # of test files, behind the rule's name
EXAMPLE = re.compile(r"## (Bad|Good)\n.*?```python\n(.*?)```", re.DOTALL)
NO_ANTI_PATTERN = {
    "boundary", "config", "cross-process", "cross-session", "detached-write", "foreign-loop", "late-commit",
    "long-session", "reattach", "shared-connection", "untracked-mutation",
}  # fmt: skip


@cache
def entries() -> list[Entry]:
    """What the audit says of all tests."""
    return [entry for entry in audit(str(ROOT / "tests"), workers=1).entries if entry.counts]


def rule_of(name: str) -> str:
    stem = name.removeprefix("test_").removesuffix(".py")
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem.replace("_", "-")


def spans(name: str) -> dict[str, list[tuple[int, int]]]:
    """The lines of each test of a file: its own, then those of the functions of the file that it names."""
    tree = ast.parse((ROOT / "tests" / "rules" / name).read_text(encoding="utf-8"))
    top = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {test: list(_spans(node, top, set())) for test, node in top.items() if test.startswith("test_")}


def _spans(
    node: ast.FunctionDef | ast.AsyncFunctionDef,
    top: dict[str, ast.FunctionDef | ast.AsyncFunctionDef],
    seen: set[str],
) -> Iterator[tuple[int, int]]:
    seen.add(node.name)
    yield node.lineno, node.end_lineno or node.lineno
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and each.id in top and each.id not in seen and not each.id.startswith("test_"):
            yield from _spans(top[each.id], top, seen)


def found(name: str, lines: list[tuple[int, int]]) -> list[Entry]:
    """The entries of a file's rule between those lines."""
    path, rule = f"tests/rules/{name}", rule_of(name)
    own = [entry for entry in entries() if entry.path.endswith(path) and entry.rule == rule]
    return [entry for entry in own if any(first <= entry.line <= last for first, last in lines)]


def test_most_of_what_shows_on_its_face_is_found() -> None:
    """Of the wrong programs that show it on their face, at least 70 % are found; the page has the numbers."""
    results = {
        f"{name}: {test}": bool(found(name, where[test]))
        for name, tests in ON_THEIR_FACE.items()
        for where in [spans(name)]
        for test in tests
        if test in where
    }
    missed = [name for name, is_found in results.items() if not is_found]
    hits, share = len(results) - len(missed), 1 - len(missed) / len(results)
    assert len(results) >= 90
    assert share >= SHARE, missed
    page = " ".join((ROOT / "docs" / "audit.md").read_text(encoding="utf-8").split())
    assert (
        f"Of {len(results)} wrong ones that show the fault on their face, {hits} are found ({share * 100:.0f} %)"
        in page
    )


def test_each_program_that_hides_it_has_a_reason() -> None:
    """A program is on one list or on the other, and there is a reason for each that the audit can't see."""
    for name, tests in HIDDEN.items():
        assert set(tests.values()) <= set(REASONS), name
        assert not set(tests) & set(ON_THEIR_FACE[name])


@pytest.mark.parametrize("name", sorted(ON_THEIR_FACE))
def test_right_programs_are_not_certain(name: str) -> None:
    """In the programs that a rule has to stay silent on, the audit is certain of nothing by that rule."""
    right = {test: where[:1] for test, where in spans(name).items() if test.startswith("test_ignores")}
    certain = {test: found(name, where) for test, where in right.items() if test not in IN_ORDER}
    assert not {
        test: [f"{entry.line}: {entry.message}" for entry in hits if entry.confidence == "certain"]
        for test, hits in certain.items()
        if any(entry.confidence == "certain" for entry in hits)
    }


def test_the_program_of_right_use_is_not_certain() -> None:
    """In more than sixty sessions of right use nothing is certain, by any rule."""
    program = audit(str(ROOT / "tests" / "programs" / "right_use.py"), workers=1)
    assert program.failing == []
    assert sum(count.openings for count in program.files) > 60


def test_tutorials_and_repaired_programs_are_not_certain() -> None:
    """Nor in the tutorials' programs and in what was repaired."""
    places = [*ROOT.glob("tests/programs/tutorials"), *ROOT.glob("tests/scenarios/*/repaired.py")]
    places += [ROOT / "sessionwatch" / "demo" / "repaired", ROOT / "examples" / "fastapi_orders" / "repaired.py"]
    assert [entry for place in places for entry in audit(str(place), workers=1).failing] == []


def examples() -> list[tuple[str, str, str]]:
    return [(rule.slug, kind, text) for rule in rules.ALL for kind, text in EXAMPLE.findall(rule.page)]


@pytest.mark.parametrize(("slug", "kind", "text"), examples())
def test_examples_of_the_pages(slug: str, kind: str, text: str, tmp_path: Path) -> None:
    """Of the rules' pages the bad example is found where an anti-pattern leads to the rule; the good one is not."""
    body = "def program():\n" + "".join(f"    {line}\n" for line in text.splitlines())
    found_ = [entry for entry in look(body, tmp_path) if entry.rule == slug]
    if kind == "Good":
        assert [entry for entry in found_ if entry.confidence == "certain"] == []
    elif slug not in NO_ANTI_PATTERN:
        assert found_
