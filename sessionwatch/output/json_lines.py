"""The format ``json``: JSON Lines, one finding per line, in the order in which they were first met."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Report


def render(report: Report) -> str:
    """One line per finding, with its count over all processes."""
    return "".join(json.dumps(seen.record()) + "\n" for seen in report.seen)
