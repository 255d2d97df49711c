"""The format ``patch``: the certain edits as one unified diff, for ``git apply``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .causes import causes
from .edits import diff, edit

if TYPE_CHECKING:
    from .report import Report


def render(report: Report) -> str:
    """All edits that are certain; empty where there is none."""
    found = [item for item in report.seen if item.finding.allowed is None]
    edits = (edit(item.finding) for cause in causes(found) for item in cause.seen)
    return diff(item for item in edits if item is not None)
