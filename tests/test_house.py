"""The house keeps its measures: no long module, no long function, one declarative base for the tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sessionwatch

PACKAGE = Path(sessionwatch.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LINES, FUNCTION_LINES = 400, 45


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How long a function's body is, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_and_no_function_is_long(path: Path) -> None:
    """A module has at most 400 lines, and a function in it at most 45."""
    text = path.read_text(encoding="utf-8")
    functions = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert text.count("\n") <= LINES
    assert [one.name for one in functions if lines_of(one) > FUNCTION_LINES] == []


# -- one declarative base --------------------------------------------------------------------------------

TESTS = Path(__file__).parent
BASES = {"DeclarativeBase", "DeclarativeBaseNoMeta", "MappedAsDataclass", "declarative_base", "automap_base"}
OWN_BASE = {
    "models.py": "the one that the tests share",
    "programs": "programs in their own right",
    "scenarios": "programs in their own right",
    "docs/files": "projects that the pages' commands are run on",
    "audit/corpus": "a program that the audit reads",
    "host/fuzz/program.py": "a program that is fuzzed in processes of its own",
    "rules/test_lost_writes.py": "a registry whose only class has no mapper yet is what is tested, once per database",
}


def makes_a_base(path: Path) -> bool:
    """Whether a file's own code, not a program that it holds as text, makes a declarative base."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    parents = [parent for node in nodes if isinstance(node, ast.ClassDef) for parent in node.bases]
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return any(ast.unparse(one).rpartition(".")[2] in BASES for one in (*parents, *called))


def test_tests_share_one_declarative_base() -> None:
    """A test maps what it alone needs on the base in ``tests/models.py``; each exception is named, and needed."""
    made = [path.relative_to(TESTS) for path in sorted(TESTS.rglob("*.py")) if makes_a_base(path)]
    used = {allowed for path in made for allowed in OWN_BASE if path.is_relative_to(allowed)}
    assert [str(path) for path in made if not any(path.is_relative_to(allowed) for allowed in OWN_BASE)] == []
    assert used == set(OWN_BASE)
