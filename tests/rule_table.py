"""The table of the rules: what the registry says of each; and how many tests of each kind a rule has.

``python -m tests.rule_table > docs/rules.md`` writes the page; a test compares it.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

from sessionwatch import rules
from sessionwatch.model import MODES, Rule

PAGE = Path(__file__).parent.parent / "docs" / "rules.md"
TESTS = Path(__file__).parent / "rules"
KINDS = ("reports", "ignores", "asyncio", "message", "strict")  # a test may be of several kinds

HEAD = """\
# The rules

Made by `python -m tests.rule_table > docs/rules.md` from the registry: not typed. `sessionwatch explain SLUG` prints a
rule's page.
"""

LEVELS = """\
## Levels

A *fault* is raised in strict mode and fails its test; *advice* is only logged. "Raised" is the safe point: where
a rule that is set to `raise` raises, so that nothing is left half done and no connection checked out. An
exception that is on its way is never replaced: it gets the finding as a note.
"""


def page() -> str:
    """The whole page, as Markdown."""
    reports = [[rule.slug, rule.summary] for rule in rules.ALL]
    levels = [[rule.slug, rule.severity, *map(rule.level_in, MODES), rule.safe_point] for rule in rules.ALL]
    parts = [HEAD, *_table(["rule", "reports"], reports), "", LEVELS]
    return "\n".join([*parts, *_table(["rule", "severity", *MODES, "raised"], levels), ""])


def tests_of(rule: Rule) -> dict[str, int]:
    """How many tests a rule has, in all and by kind."""
    counts: Counter[str] = Counter()
    for path in files_of(rule.slug):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                counts["tests"] += 1
                counts.update(kinds(node))
    return {kind: counts[kind] for kind in ("tests", *KINDS)}


def files_of(slug: str) -> list[Path]:
    """The files with a rule's tests: its own name, and names that begin with it and with no other rule's."""
    names = sorted((rule.slug.replace("-", "_") for rule in rules.ALL), key=len, reverse=True)
    own = slug.replace("-", "_")
    stems = {path: path.stem.removeprefix("test_") for path in sorted(TESTS.glob("test_*.py"))}
    return [path for path, stem in stems.items() if next((name for name in names if _begins(stem, name)), None) == own]


def kinds(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """What a test is about, by its name."""
    found = [kind for kind in ("reports", "ignores") if test.name.startswith(f"test_{kind}")]
    if isinstance(test, ast.AsyncFunctionDef) or "asyncio" in test.name:
        found.append("asyncio")
    return found + [kind for kind in ("message", "strict") if kind in test.name]


def _begins(stem: str, name: str) -> bool:
    return stem == name or stem.startswith(f"{name}_")


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *([f"`{row[0]}`", *row[1:]] for row in rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]


if __name__ == "__main__":
    sys.stdout.write(page())
