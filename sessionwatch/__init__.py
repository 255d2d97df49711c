"""Finds SQLAlchemy sessions and instances that are used outside of their bounds.

Importing changes nothing, and imports neither SQLAlchemy nor anything heavy; `install` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .model import ConfigError, Finding, FindingError, Ownership, SessionwatchError

if TYPE_CHECKING:
    from . import dto
    from .data.boundaries import assert_no_instances, boundary
    from .units.scope import unit_of_work
    from .watch.api import install, owner_of, uninstall, watching
    from .watch.suppress import allow

__all__ = [
    "ConfigError",
    "Finding",
    "FindingError",
    "Ownership",
    "SessionwatchError",
    "__version__",
    "allow",
    "assert_no_instances",
    "boundary",
    "dto",
    "explain",
    "install",
    "owner_of",
    "uninstall",
    "unit_of_work",
    "watching",
]

_LAZY = {
    "allow": "watch.suppress",
    "assert_no_instances": "data.boundaries",
    "boundary": "data.boundaries",
    "explain": "rules",
    "install": "watch.api",
    "owner_of": "watch.api",
    "uninstall": "watch.api",
    "unit_of_work": "units.scope",
    "watching": "watch.api",
}


def __getattr__(name: str) -> Any:
    if name == "dto":
        return importlib.import_module(f"{__name__}.dto")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
