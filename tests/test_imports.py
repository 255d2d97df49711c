"""Imports point one way, and importing the package changes nothing and costs little."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import sessionwatch

PACKAGE = Path(sessionwatch.__file__).parent
DEMO_PROGRAMS = ("demo.faulty", "demo.repaired")  # programs of their own: they import as users do
# What each folder of the package, and each module that stands beside them, imports of the others: from what is alone,
# by what records, judges and shows, to what users call. A row may name only what stands above it.
LAYERS: dict[str, set[str]] = {
    "_version": set(),
    "portable": set(),
    "saying": set(),
    "shown": set(),
    "syntax": set(),
    "places": set(),
    "model": {"places", "portable", "shown"},
    "border": {"model"},
    "patching": {"saying"},
    "imports": {"patching"},
    "config": {"model"},
    "frames": {"model", "syntax"},
    "units": {"border", "model", "frames", "patching", "imports"},
    "record": {"border", "model", "frames", "units", "saying"},
    "rules": {"model", "config", "frames", "record"},
    "output": {
        "_version",
        "model",
        "shown",
        "syntax",
        "config",
        "rules",
    },  # rules: their order, and the pages that some formats carry
    "telemetry": {"_version", "model", "record", "output", "saying"},  # output: the text of a finding, in log records
    "hooks": {"border", "model", "frames", "units", "record", "patching", "imports", "syntax"},
    "watch": {
        "border",
        "model",
        "config",
        "frames",
        "units",
        "record",
        "rules",
        "output",
        "telemetry",
        "hooks",
        "saying",
    },
    "adapters": {"units"},
    "data": {"model", "frames", "record", "rules", "output", "watch"},
    "dto": {"model", "config", "data"},
    "instrumentor": {"model", "watch"},
    "pytest_plugin": {"model", "config", "frames", "record", "rules", "output", "hooks", "watch", "data"},
    "autostart": set(),
    "demo": set(),
    "audit": {"_version", "model", "record", "rules", "output", "watch"},
    "command": {"_version", "model", "config", "record", "rules", "output", "hooks", "watch", "audit", "demo"},
    "__init__": {"_version", "model"},
    "__main__": {"command"},
}
LAZY = ("watch", "data", "dto", "rules", "units")  # of ``__init__``, by __getattr__
KNOWS_SQLALCHEMY = {
    "watch.target",
    "command.check",
    "dto",
    "data.persisted",
    "demo.database",
    "watch.orm",
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        name = name.removesuffix(".__init__") if name != "__init__" else name
        if not name.startswith(DEMO_PROGRAMS):
            found[name] = path
    return found


MODULES = modules()


def folder(name: str) -> str:
    """The folder that a module lies in, or its own name."""
    return name.partition(".")[0]


def imports(name: str, at_run_time: bool = False) -> tuple[set[str], set[str]]:
    """What a module imports anywhere in it: modules of the package, and top-level names of other packages.

    ``at_run_time``: without what only annotations need.
    """
    path = MODULES[name]
    package = [] if name == "__init__" else name.split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    own: set[str] = set()
    other: set[str] = set()
    nodes = list(ast.walk(ast.parse(path.read_text())))
    if at_run_time:
        checked = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
        unseen = {inner for node in checked for inner in node.body}
        nodes = [node for node in nodes if node not in unseen]
    for node in nodes:
        if isinstance(node, ast.Import):
            for item in node.names:
                top, _, rest = item.name.partition(".")
                (own if top == "sessionwatch" else other).add((rest or "__init__") if top == "sessionwatch" else top)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            top, _, rest = str(node.module).partition(".")
            if top != "sessionwatch":
                other.add(top)
            else:
                own |= targets(rest.split(".") if rest else [], node)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            own |= targets([*base, *(node.module.split(".") if node.module else [])], node)
    return own - {name}, other


def targets(base: list[str], node: ast.ImportFrom) -> set[str]:
    """``from base import a, b``: the submodules a and b where they are modules, else base."""
    found = set()
    for item in node.names:
        inner = ".".join([*base, item.name])
        found.add(inner if inner in MODULES else ".".join(base) or "__init__")
    return found


def test_table_lists_every_folder() -> None:
    """The table of layers and the package hold the same folders."""
    assert {folder(name) for name in MODULES} == set(LAYERS)


def test_arrows_point_up_the_table() -> None:
    """No row of the table allows what stands below it."""
    order = list(LAYERS)
    assert all(order.index(above) < order.index(name) for name, allowed in LAYERS.items() for above in allowed)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_only_what_its_layer_allows(name: str) -> None:
    """A module imports nothing of the package beyond its folder and what the table allows that."""
    own, _ = imports(name)
    own = {item for item in own if folder(item) != folder(name)}
    own -= {item for item in own if name == "__init__" and folder(item) in LAZY}
    wrong = {item for item in own if folder(item) not in LAYERS[folder(name)]}
    assert not wrong, f"{name} must not import {sorted(wrong)}"


def imported(path: Path) -> ast.Module:
    """The import statements of a module."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return ast.Module([node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)], [])


def test_no_cycles() -> None:
    """The modules have an order in which each comes after all that it imports."""
    remaining = {name: imports(name)[0] - {name} for name in MODULES if name != "__init__"}
    while remaining:
        free = {name for name, needs in remaining.items() if not needs & set(remaining)}
        assert free, f"a cycle among {sorted(remaining)}"
        remaining = {name: needs for name, needs in remaining.items() if name not in free}


def test_the_longest_way_has_twelve_modules() -> None:
    """No module is more than eleven imports away from the end; what annotations alone need is not imported."""
    arrows = {name: imports(name, at_run_time=True)[0] - {"__init__"} for name in MODULES}

    @functools.cache
    def depth(name: str) -> int:
        return 1 + max((depth(other) for other in arrows.get(name, ())), default=0)

    assert max(depth(name) for name in MODULES) <= 12


@pytest.mark.parametrize("name", [name for name in sorted(set(MODULES) - KNOWS_SQLALCHEMY) if folder(name) != "hooks"])
def test_only_hooks_know_sqlalchemy(name: str) -> None:
    """Outside of the hooks, the watch and the target, nothing imports SQLAlchemy, not even inside a function."""
    _, other = imports(name)
    assert "sqlalchemy" not in other


@pytest.mark.parametrize("name", [name for name in sorted(MODULES) if name.startswith("rules")])
def test_rules_see_plain_events_only(name: str) -> None:
    """A rule imports neither hooks nor ledger nor tracker: it can be tested without a database."""
    own, other = imports(name)
    assert not {
        item for item in own if item.startswith(("hooks", "record.ledger", "record.tracker", "record.emitter", "watch"))
    }
    assert other <= {"__future__", "collections", "dataclasses", "typing"}


def test_run_time_dependencies_are_the_declared_ones() -> None:
    """SQLAlchemy, wrapt, and the API of OpenTelemetry, never its SDK; pytest in its plugin only."""
    third = {name: imports(name)[1] - set(sys.stdlib_module_names) for name in MODULES}
    assert set().union(*third.values()) <= {"sqlalchemy", "wrapt", "opentelemetry", "pytest", "sitecustomize"}
    assert not [name for name, path in MODULES.items() if "opentelemetry.sdk" in ast.unparse(imported(path))]
    tracing = {name for name, others in third.items() if "opentelemetry" in others}
    assert tracing <= {"instrumentor"} | {name for name in MODULES if name.startswith("telemetry")}
    assert {folder(name) for name, others in third.items() if "pytest" in others} == {"pytest_plugin"}


@pytest.mark.parametrize(
    "module",
    [
        "sessionwatch",
        *(
            f"sessionwatch.{name}"
            for name in ("command.cli", "command.run", "output.formats", "output.text", "pytest_plugin", "__main__")
        ),
    ],
)
def test_import_is_light(module: str) -> None:
    """Importing the package or a command does not import SQLAlchemy, wrapt, OpenTelemetry or asyncio."""
    heavy = ("sqlalchemy", "wrapt", "opentelemetry", "greenlet", "rich")
    code = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    code = "import pytest; " + code if module.endswith("pytest_plugin") else code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.partition(".")[0] in heavy]


def test_import_changes_nothing() -> None:
    """Importing the package touches neither SQLAlchemy nor the interpreter's hooks."""
    code = """
import atexit, gc, logging, sys, threading
import opentelemetry.metrics, opentelemetry.trace  # older ones import a package that adds a finder of its own
from sqlalchemy.orm import Session
before = dict(vars(Session)), sys.excepthook, list(sys.meta_path), threading.active_count(), atexit._ncallbacks()
import sessionwatch
from sessionwatch import *
after = dict(vars(Session)), sys.excepthook, list(sys.meta_path), threading.active_count(), atexit._ncallbacks()
print(before == after, logging.getLogger("sessionwatch").handlers)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "[]"]


def test_public_names() -> None:
    """``__all__`` is what there is, each name can be had, and a wrong one is an AttributeError."""
    assert sessionwatch.__all__ == sorted(sessionwatch.__all__)
    assert all(getattr(sessionwatch, name) is not None for name in sessionwatch.__all__)
    assert set(sessionwatch.__all__) <= set(dir(sessionwatch))
    with pytest.raises(AttributeError, match="instal"):
        sessionwatch.instal  # noqa: B018
