"""How many findings there were: by rule, and by place."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from ..model import Finding, exportable

PLACES = 200  # different ones that are counted by themselves
OTHER = "other"
UNKNOWN, NO_UNIT = "(unknown)", "(none)"
_Key = TypeVar("_Key", bound=Hashable)
Place = tuple[str, str, str, str]  # rule, file, function, unit of work


class FindingCounts:
    """What one installation has found that nothing covers; both views have the same sum for each rule."""

    def __init__(self) -> None:
        self.by_rule: dict[tuple[str, str], int] = {}  # and mode
        self.by_place: dict[Place, int] = {}

    def add(self, finding: Finding) -> None:
        """One more occurrence."""
        _count(self.by_rule, (finding.rule, finding.mode))
        place = _place(finding)
        if place not in self.by_place and len(self.by_place) >= PLACES:
            place = (finding.rule, OTHER, OTHER, OTHER)
        _count(self.by_place, place)

    def clear(self) -> None:
        """In a forked child: all of them are the parent's."""
        self.by_rule.clear()
        self.by_place.clear()


def _count(counts: dict[_Key, int], key: _Key) -> None:
    counts.setdefault(key, 0)
    counts[key] += 1  # of a key that is there: no thread can come between


def _place(finding: Finding) -> Place:
    site = finding.site
    path, function = (site.path, site.full_function) if site is not None else (UNKNOWN, UNKNOWN)
    unit = finding.unit if finding.unit is not None else NO_UNIT
    return finding.rule, exportable(path), exportable(function), exportable(unit)
