"""The marker ``sessionwatch``: what it says, and where it stands."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..model import Site

MODES = ("strict", "log", "telemetry", "off")


def place(node: Any) -> Site:
    """Where a test, class or module is; the first line of its file where pytest does not know."""
    from ..model import Site

    path, line = node.path, None
    with contextlib.suppress(Exception):  # a collector of another plugin's
        path, line, _ = node.reportinfo()
    return Site(str(path), (line or 0) + 1, "")


def parsed(marker: pytest.Mark) -> tuple[Any, tuple[str, ...], str]:
    from ..model import ConfigError

    unknown = set(marker.kwargs) - {"mode", "allow", "reason"}
    slugs = marker.kwargs.get("allow") or ()
    slugs = (slugs,) if isinstance(slugs, str) else tuple(slugs)
    mode, reason = marker.kwargs.get("mode"), marker.kwargs.get("reason") or ""
    if marker.args or unknown:
        raise ConfigError("the marker sessionwatch takes mode=, allow= and reason=")
    if mode is not None and mode not in MODES:
        raise ConfigError(f"the marker sessionwatch has an unknown mode {mode!r}: choose one of {', '.join(MODES)}")
    return mode, slugs, reason
