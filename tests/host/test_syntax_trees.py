"""Python before 3.11.8 builds one syntax tree at a time in a process: ours is never built while the program builds one.

pytest and IPython build trees; a finding of the collector's, or of another thread, may come meanwhile.
"""

from __future__ import annotations

import ast
import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessionwatch import syntax
from sessionwatch.frames import source

TEXT = Path(ast.__file__).read_text(encoding="utf-8")


@pytest.mark.skipif(not syntax._ONE_AT_A_TIME, reason="a newer Python builds each tree by itself")
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
    """A parse leaves the collector as the program has it, on or off, also where the text is no Python."""
    if not collects:
        gc.disable()
    try:
        assert syntax.parse("a = 1") is not None
        assert syntax.parse("a = ") is None
        assert gc.isenabled() is collects
    finally:
        gc.enable()


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads that take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
    gc.enable()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("text", ["a = 1", "a = "])
def test_a_thread_that_switches_the_collector_finds_it_as_it_left_it(text: str) -> None:
    """The program's own switch is neither undone nor kept from it, whatever is asked for meanwhile."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            syntax.parse(text)

    thread = threading.Thread(target=ask)
    thread.start()
    found = set()
    for _ in range(3000):
        gc.disable()
        found |= {("off", gc.isenabled()) for _ in range(20)}
        gc.enable()
        found |= {("on", gc.isenabled()) for _ in range(20)}
    over.set()
    thread.join()
    assert found == {("off", False), ("on", True)}


def test_a_newer_python_leaves_the_collector_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither asked nor switched where each tree is built by itself."""
    monkeypatch.setattr(syntax, "_ONE_AT_A_TIME", False)
    monkeypatch.setattr(syntax, "_uncollected", None)
    assert syntax.parse("a = 1") is not None


def test_a_file_that_could_not_be_asked_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That no tree could be made is not kept; a tree that was made is."""
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
