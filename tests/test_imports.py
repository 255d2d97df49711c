"""Imports point one way, and importing the package changes nothing and costs little."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sessionwatch

PACKAGE = Path(sessionwatch.__file__).parent
DEMO_PROGRAMS = ("demo.faulty", "demo.repaired")  # programs of their own: they import as users do
LAZY = ("api", "boundaries", "dto", "messages", "scope", "suppress")  # by __getattr__
TYPES_ONLY = {("__init__", name) for name in LAZY}

# What every hook and every rule may import, besides the neighbours that are named here.
CORE = {"model", "events", "activation", "callsite", "scope", "ledger", "suppress", "sql", "tracker", "watchdog"}
PLAIN = {"model", "events", "callsite", "sql", "rules._story", "rules._loader_options"}
HOOKS: dict[str, set[str]] = {
    "patch": {"patching"},
    "writes": set(),
    "tasks": set(),
    "overlaps": {"hooks.tasks"},
    "failures": set(),
    "forks": {"hooks.patch"},
    "statements": {"hooks.patch", "hooks.writes", "hooks.overlaps", "hooks.failures", "hooks.forks"},
    "sessions": {"hooks.patch"},
    "closing": {"hooks.patch", "hooks.writes", "hooks.sessions", "hooks.overlaps", "hooks.failures"},
    "holding": {"hooks.patch", "hooks.writes"},
    "ownership": {"hooks.patch"},
    "unloaded": {"hooks.ownership"},
    "reads": {"hooks.patch", "hooks.ownership", "hooks.unloaded"},
    "implicit": {"hooks.patch", "hooks.ownership", "hooks.unloaded"},
    "loads": {"hooks.patch", "hooks.unloaded"},
    "changes": {"hooks.patch", "hooks.ownership"},
    "settings": {"hooks.patch", "hooks.writes"},
    "reattach": {"hooks.patch", "hooks.ownership", "hooks.changes"},
    "crossing": set(),
    "mutation": {"hooks.patch"},
    "aio": {"hooks.patch", "hooks.sessions", "hooks.closing"},
    "units": {"hooks.writes"},
    "pools": {"hooks.patch"},
    "transactions": {
        "hooks.crossing",
        "hooks.failures",
        "hooks.holding",
        "hooks.overlaps",
        "hooks.reattach",
        "hooks.units",
        "hooks.writes",
    },
}

# What each module may import of the package. A module that is not listed fails the test.
LAYERS: dict[str, set[str]] = {
    "_version": set(),
    "model": set(),
    "sql": set(),
    "scope": set(),
    "patching": set(),
    "adapters": set(),
    "adapters.naming": set(),
    "adapters.asgi": {"patching", "scope", "adapters.naming"},
    "adapters.wsgi": {"patching", "scope", "adapters.naming"},
    "adapters.celery": {"scope"},
    "adapters.auto": {"patching", "scope", "adapters.asgi", "adapters.celery", "adapters.wsgi"},
    "process": {"model"},
    "config": {"model"},
    "baseline": {"model"},
    "callsite": {"model"},
    "activation": {"model", "callsite"},
    "events": {"model"},
    "ledger": {"model", "callsite", "scope"},
    "whereabouts": {"model", "callsite"},
    "watchdog": {"model", "events", "ledger", "whereabouts"},
    "rules._story": {"model", "events", "callsite", "sql"},
    "rules._loader_options": {"model", "events"},
    "rules": {"model", "config"},  # and every rule
    "messages": {"model", "events", "rules", "rules._story"},
    "suppress": {"model", "callsite", "scope", "rules", "baseline"},
    "sinks": {"model", "messages"},
    "tracker": {"model", "activation", "events", "callsite", "scope", "ledger", "suppress"},
    "telemetry.table": set(),
    "telemetry.instruments": {"_version", "telemetry.table"},
    "telemetry.batches": set(),
    "telemetry.metrics": {"ledger", "tracker", "telemetry.batches", "telemetry.instruments", "telemetry.table"},
    "telemetry": set(),
    "target": {"model"},
    "hooks": {"model", "tracker", "watchdog"}
    | {f"hooks.{name}" for name in HOOKS}
    - {"hooks.unloaded", "hooks.writes", "hooks.tasks", "hooks.overlaps", "hooks.units"},
    "watch": {
        "model",
        "events",
        "config",
        "callsite",
        "rules",
        "scope",
        "ledger",
        "suppress",
        "messages",
        "sinks",
        "target",
        "telemetry.metrics",
        "tracker",
        "watchdog",
        "hooks",
        "hooks.closing",
        "hooks.ownership",
        "hooks.changes",
        "hooks.pools",
        "hooks.settings",
        "adapters.auto",
        "telemetry.signals",
    },
    "telemetry.spans": {"_version", "model", "ledger", "telemetry.table"},
    "telemetry.logs": {"_version", "model", "messages", "sinks", "telemetry.table", "telemetry.spans"},
    "telemetry.signals": {"model", "ledger", "tracker", "telemetry.spans", "telemetry.logs"},
    "installation": {"model", "baseline", "config", "rules", "scope", "telemetry.metrics", "watch"},
    "instrumentor": {"model", "installation", "watch"},
    "instances": set(),
    "boundaries": {"model", "events", "callsite", "suppress", "messages", "instances", "rules.boundary", "watch"},
    "fields": set(),
    "dto": {"model", "config", "fields", "instances"},
    "orm": set(),
    "api": {"model", "orm", "installation", "watch"},
    "__init__": {"_version", "model"},
    "report": {"model", "messages"},
    "check": {
        "model",
        "config",
        "events",
        "ledger",
        "suppress",
        "tracker",
        "hooks.patch",
        "hooks.settings",
        "rules.config",
    },
    "run": {"model", "baseline", "config", "rules", "messages", "report", "process"},
    "cli": {"_version", "model", "config", "rules", "messages", "report", "run", "demo", "baseline", "check"},
    "persisted": {"model", "callsite", "messages"},
    "pytest_plugin": {
        "model",
        "callsite",
        "config",
        "baseline",
        "messages",
        "suppress",
        "installation",
        "watch",
        "persisted",
        "orm",
    },
    "__main__": {"cli"},
    "autostart": set(),
    "autostart.sitecustomize": set(),
    "demo": {"demo.database"},
    "demo.database": {"demo.repaired.models"},
}
LAYERS |= {f"hooks.{name}": set(siblings) for name, siblings in HOOKS.items()}
KNOWS_SQLALCHEMY = (
    {"orm", "hooks", "target", "check", "dto", "persisted", "demo.database"}
    | {f"hooks.{name}" for name in HOOKS}
    | {
        "watch",  # the live sessions
    }
)


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
RULES = {name for name in MODULES if name.startswith("rules.") and not name.startswith("rules._")}
LAYERS |= {name: set() for name in RULES}
LAYERS["rules"] |= RULES


def allowed(name: str) -> set[str]:
    """The row of the table, and what all modules of the kind may import."""
    return LAYERS[name] | (PLAIN if name in RULES else CORE if name.startswith("hooks.") else set())


def imports(name: str) -> tuple[set[str], set[str]]:
    """What a module imports anywhere in it: modules of the package, and top-level names of other packages."""
    path = MODULES[name]
    package = [] if name == "__init__" else name.split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    own: set[str] = set()
    other: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
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


def test_table_lists_every_module() -> None:
    """The table of layers and the package hold the same modules."""
    assert set(MODULES) == set(LAYERS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_only_what_its_layer_allows(name: str) -> None:
    """A module imports nothing of the package beyond its row in the table."""
    own, _ = imports(name)
    own -= {imported for importer, imported in TYPES_ONLY if importer == name}
    assert own <= allowed(name), f"{name} must not import {sorted(own - allowed(name))}"


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_table_allows_nothing_that_is_not_used(name: str) -> None:
    """A row of the table does not allow more than the module uses, so that the table stays true."""
    own, _ = imports(name)
    assert LAYERS[name] <= own, f"{name} does not import {sorted(LAYERS[name] - own)}"


def imported(path: Path) -> ast.Module:
    """The import statements of a module."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return ast.Module([node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)], [])


def test_no_cycles() -> None:
    """The table itself has an order in which every module comes after what it imports."""
    remaining = {name: allowed(name) for name in LAYERS}
    while remaining:
        free = {name for name, needs in remaining.items() if not needs & set(remaining)}
        assert free, f"a cycle among {sorted(remaining)}"
        remaining = {name: needs for name, needs in remaining.items() if name not in free}


@pytest.mark.parametrize("name", sorted(set(MODULES) - KNOWS_SQLALCHEMY))
def test_only_hooks_know_sqlalchemy(name: str) -> None:
    """Outside of the hooks, the watch and the target, nothing imports SQLAlchemy, not even inside a function."""
    _, other = imports(name)
    assert "sqlalchemy" not in other


@pytest.mark.parametrize("name", [name for name in sorted(MODULES) if name.startswith("rules")])
def test_rules_see_plain_events_only(name: str) -> None:
    """A rule imports neither hooks nor ledger nor tracker: it can be tested without a database."""
    own, other = imports(name)
    assert not {item for item in own if item.startswith(("hooks", "ledger", "tracker", "watch"))}
    assert other <= {"__future__", "collections", "typing"}


def test_run_time_dependencies_are_the_declared_ones() -> None:
    """SQLAlchemy, wrapt, and the API of OpenTelemetry, never its SDK; pytest in its plugin only."""
    third = {name: imports(name)[1] - set(sys.stdlib_module_names) for name in MODULES}
    assert set().union(*third.values()) <= {"sqlalchemy", "wrapt", "opentelemetry", "pytest", "sitecustomize"}
    assert not [name for name, path in MODULES.items() if "opentelemetry.sdk" in ast.unparse(imported(path))]
    tracing = {name for name, others in third.items() if "opentelemetry" in others}
    assert tracing <= {"instrumentor"} | {name for name in MODULES if name.startswith("telemetry")}
    assert [name for name, others in third.items() if "pytest" in others] == ["pytest_plugin"]


@pytest.mark.parametrize(
    "module",
    ["sessionwatch", *(f"sessionwatch.{name}" for name in ("cli", "run", "report", "pytest_plugin", "__main__"))],
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
