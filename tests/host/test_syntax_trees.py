"""Python 3.11 builds one syntax tree at a time in a process: ours is never built while the program builds one.

pytest and IPython build trees; a finding of the collector's, or of another thread, may come meanwhile.
"""

from __future__ import annotations

import ast
import gc
import sys
from pathlib import Path

import pytest

from sessionwatch import syntax
from sessionwatch.frames import source

TEXT = Path(ast.__file__).read_text(encoding="utf-8")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a newer Python builds each tree by itself")
def test_none_is_begun_inside_of_another_one() -> None:
    """What the collector calls asks for a tree, and the program gets its own as without us."""
    asked = []

    def collected(phase: str, _: object) -> None:
        if phase == "stop":
            asked.append(syntax.parse("Order.status"))

    before = gc.get_threshold()
    gc.callbacks.append(collected)
    gc.set_threshold(50)
    try:
        for _ in range(5):
            ast.parse(TEXT)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(collected)
    assert asked.count(None) > 0


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_runs_as_before(collects: bool) -> None:
    if not collects:
        gc.disable()
    try:
        assert syntax.parse("a = 1") is not None
        assert syntax.parse("a = ") is None
        assert gc.isenabled() is collects
    finally:
        gc.enable()


def test_a_file_that_could_not_be_asked_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "shop.py"
    file.write_text("a = 1\n", encoding="utf-8")
    with monkeypatch.context() as busy:
        busy.setattr(source, "parse", lambda text: None)
        assert source.tree(str(file)) is None
    first = source.tree(str(file))
    assert first is not None
    assert source.tree(str(file)) is first


def test_nobody_else_builds_one_while_a_program_runs() -> None:
    """`syntax.py` is the one place of the package, but for the audit, which is a program of its own."""
    package = Path(source.__file__).parent.parent
    builders = [
        str(path.relative_to(package))
        for path in sorted(package.rglob("*.py"))
        if path.parts[len(package.parts)] != "audit" and "ast.parse(" in path.read_text(encoding="utf-8")
    ]
    assert builders == []
