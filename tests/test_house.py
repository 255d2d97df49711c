"""The house keeps its measures: no long module, no long function."""

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
