"""Which files are audited, their text and their syntax trees."""

from __future__ import annotations

import ast
import os
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..model import ConfigError
from .vocabulary import RELEVANT

SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist", "venv", "env", "__pypackages__"})


@dataclass(slots=True)
class Source:
    """One file. ``error`` says why it has no tree."""

    path: str  # as it is shown
    name: str  # the module's, in dots
    package: bool
    parts: tuple[str, ...] = ()  # of its whole path, as an import would write them
    lines: int = 0
    text: str = ""
    tree: ast.Module | None = None
    error: str | None = None
    relevant: bool = field(default=False)


def find(root: str) -> list[tuple[Path, str]]:
    """Every Python file below ``root`` (or that one file) and its module's name; raises `ConfigError` without any."""
    top = Path(root)
    if top.is_file():
        return [(top, _module_name(top, _import_root(top.parent)))]
    if not top.is_dir():
        raise ConfigError(f"can't audit {root}: no such file or folder")
    above = _import_root(top)
    found = [(path, _module_name(path, above)) for path in _walk(top)]
    if not found:
        raise ConfigError(f"can't audit {root}: there is no Python file in it")
    return found


def read(path: Path, name: str) -> Source:
    """The file, parsed; one that can't be read or parsed has an ``error`` instead of a tree."""
    package = path.name == "__init__.py"
    whole = path.resolve()
    parts = whole.parent.parts if package else whole.with_suffix("").parts
    source = Source(_shown(path), name, package, parts)
    try:
        with tokenize.open(path) as file:
            source.text = file.read()
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        source.error = f"can't be read: {error}"
        return source
    source.lines = source.text.count("\n") + (not source.text.endswith("\n") and bool(source.text))
    lowered = source.text.lower()
    source.relevant = any(word in lowered for word in RELEVANT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source.tree = ast.parse(source.text, str(path))  # also where nothing is looked for: others may import it
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        source.error = f"can't be parsed: {line}{error.msg if isinstance(error, SyntaxError) else error}"
    return source


def _walk(top: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(top):
        names[:] = sorted(
            name
            for name in names
            if name not in SKIPPED and not name.startswith(".") and not os.path.exists(Path(folder, name, "pyvenv.cfg"))
        )
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name)


def _import_root(folder: Path) -> Path:
    """The folder that would stand on ``sys.path``: the first one upwards that is no package."""
    current = folder.resolve()
    while (current / "__init__.py").is_file() and current.parent != current:
        current = current.parent
    return current


def _module_name(path: Path, above: Path) -> str:
    parts = list(path.resolve().relative_to(above).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) or path.parent.name


def _shown(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    resolved = path.resolve()
    here = Path.cwd()
    return resolved.relative_to(here).as_posix() if resolved.is_relative_to(here) else str(resolved)
