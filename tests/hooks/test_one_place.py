"""Private names of SQLAlchemy stand in `sessionwatch.hooks.private` and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sessionwatch
from sessionwatch.hooks import private

PACKAGE = Path(sessionwatch.__file__).parent
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "hooks" / "private.py"]
LISTED = {one for name in private.NAMES for part in name.name.split("|") for one in part.split(", ")}
# Underscores of others than SQLAlchemy, and our own that are read from outside of their class.
OTHERS = {
    "_getframe", "_current_frames", "_active", "_get_running_loop", "_all_tasks",  # Python's
    "_replace", "_asdict", "_fields",  # of named tuples
    "_actions", "_SubParsersAction",  # argparse's
    "_get_current_object",  # werkzeug's
    "_allowance", "_subscribers", "_name", "_passed", "_users", "_sessionwatch", "_sessionwatch_rows",  # ours
}  # fmt: skip
TELEMETRY = "telemetry"  # its modules read private names of OpenTelemetry's SDK
# These may be used where no hook is imported.
SPELLED = {
    "dto.py": {"_AsyncIoGreenlet"},
    "data/instances.py": {"_sa_instance_state", "_sa_class_manager"},
    "data/fields.py": {"_sa_class_manager"},
}


PRIVATE = re.compile(r"_(?!_)")


def tree(path: Path) -> ast.Module:
    """The syntax of one of our modules."""
    return ast.parse(path.read_text(encoding="utf-8"))


def reads(node: ast.AST, own: frozenset[str] = frozenset()) -> Iterator[tuple[str, int]]:
    """Attributes with an underscore; of ``self`` and ``cls`` only those that the class around it does not define."""
    if isinstance(node, ast.ClassDef):
        own = frozenset(defined(node))
    if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
        mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") and node.attr in own
        if not mine:
            yield node.attr, node.lineno
    for child in ast.iter_child_nodes(node):
        yield from reads(child, own)


def defined(owner: ast.ClassDef) -> Iterator[str]:
    """What a class itself defines: functions, annotations, slots, and what its methods assign to ``self``."""
    for node in ast.walk(owner):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_name_elsewhere(path: Path) -> None:
    """A module reads no attribute with an underscore that is not its own, and spells no listed one in a string."""
    module, name = tree(path), path.relative_to(PACKAGE).as_posix()
    allowed = SPELLED.get(name, set())
    found = [f"{attribute}, line {line}" for attribute, line in reads(module) if attribute not in OTHERS]
    spelled = [
        f"{node.value!r}, line {node.lineno}"
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and node.value in LISTED - allowed and PRIVATE.match(str(node.value))
    ]
    imported = [
        f"{alias.name}, line {node.lineno}"
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sqlalchemy")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    if path.parent.name == TELEMETRY:
        found = [one for one in found if one.partition(",")[0] in LISTED]
    assert (found, spelled, imported) == ([], [], [])


@pytest.mark.parametrize(
    "source",
    [
        "def begun(session): return session._new",
        "def patch(original):\n    def close(self): return self._transaction\n    return close",
        "class Ours:\n    def look(self, session): return session._flushing",
    ],
)
def test_a_read_is_found(source: str) -> None:
    """The test itself finds a private name that is read of a session, also of one that is called ``self``."""
    assert [name for name, _ in reads(ast.parse(source))]


def test_what_data_spells_is_what_is_listed() -> None:
    """The names that `data` and `dto` look for by themselves are those that the probe looks for."""
    assert {name for names in SPELLED.values() for name in names} <= LISTED
