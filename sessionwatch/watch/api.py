"""The functions of ``import sessionwatch``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import orm  # noqa: F401 (before the others)

# isort: split
from . import installation as _installation

if TYPE_CHECKING:
    from ..model import Finding, Level, Mode, Ownership
    from .watch import Watch


def install(
    mode: Mode | None = None,
    target: Any = None,
    *,
    rules: Mapping[str, Level] | None = None,
    settings: Mapping[str, Any] | None = None,
    on_finding: Callable[[Finding], object] | None = None,
    output: str | os.PathLike[str] | None = None,
    baseline: str | os.PathLike[str] | None = None,
    source: str | list[str] | None = None,
    through: list[str] | None = None,
    log: bool = True,
) -> Watch:
    """Watch the program's sessions from now on; returns the installation.

    Args:
        mode: ``"log"`` (development, the default), ``"strict"`` (tests) or ``"telemetry"`` (production).
        target: a sessionmaker, a Session class or an engine, sync or async; None watches all sessions.
        rules: a level, ``"off"``, ``"log"`` or ``"raise"``, by rule.
        settings: options of rules by their full name, for example ``{"use-after-close.after": "any"}``.
        on_finding: called with each `Finding` when it is first seen.
        output: a file that findings are appended to, one JSON object a line.
        baseline: a file with the fingerprints of findings that are known.
        source: folders whose code counts as the program's own, though it is installed.
        through: globs of files of the program's own that only pass calls on, relative to the folder of
            ``pyproject.toml``: findings point to the nearest caller outside of them.
        log: whether findings are logged by the logger ``sessionwatch``.

    A second call returns the same installation. Works before and after engines, sessionmakers and
    sessions exist. Raises `ConfigError` for unknown names and values, and for a second call with other
    settings.
    """
    return _installation.install(
        mode=mode,
        target=target,
        rules=rules,
        settings=settings,
        on_finding=on_finding,
        output=output,
        baseline=baseline,
        source=source,
        through=through,
        log=log,
    )


def uninstall() -> None:
    """Restore SQLAlchemy exactly as it was. Does nothing where nothing is installed."""
    _installation.uninstall()


@contextlib.contextmanager
def watching(mode: Mode | None = None, target: Any = None, **keywords: Any) -> Iterator[Watch]:
    """`install` for a block. What was installed before it stays installed after it."""
    before = _installation.current()
    watch = install(mode, target, **keywords)
    try:
        yield watch
    finally:
        if watch is not before:
            watch.uninstall()


def owner_of(instance: object) -> Ownership | None:
    """Who opened, loaded, expired and closed what held ``instance``; None where nothing is known.

    Never loads anything and never reads an attribute of the instance.
    """
    watch = _installation.current()
    return watch.owner_of(instance) if watch is not None else None
