"""Findings by cause: what one change ends stands together, what matters most comes first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import rules

if TYPE_CHECKING:
    from ..model import Evidence, Finding, Site
    from .store import Seen

_CALLERS = 5  # that share one place: from so many on it is plumbing, perhaps


@dataclass(frozen=True, slots=True)
class Cause:
    """Findings that one change ends, the most frequent first. ``letter`` is for one report only."""

    letter: str
    seen: Sequence[Seen]

    @property
    def first(self) -> Finding:
        """The finding whose story is told: one that is new, if there is any."""
        return self.seen[0].finding

    @property
    def new(self) -> int:
        """How many of its findings the baseline does not know."""
        return sum(not item.finding.known for item in self.seen)

    @property
    def subjects(self) -> list[str]:
        return list(dict.fromkeys(item.finding.subject for item in self.seen if item.finding.subject))

    @property
    def places(self) -> list[tuple[str, int]]:
        """The places of its findings, that of the first one first."""
        places = [(item.finding.path, item.finding.line or 0) for item in self.seen]
        return list(dict.fromkeys((path, line) for path, line in places if path is not None))

    @property
    def units(self) -> int:
        return max(len({unit for item in self.seen for unit in item.units}), *(item.units_total for item in self.seen))

    @property
    def tests(self) -> int:
        return max(len({test for item in self.seen for test in item.tests}), *(item.tests_total for item in self.seen))

    @property
    def times(self) -> int:
        return sum(item.count for item in self.seen)

    @property
    def processes(self) -> int:
        return max(item.processes for item in self.seen)

    @property
    def changes(self) -> Site | None:
        """What has to change."""
        return changes(self.first)


def causes(seen: Iterable[Seen]) -> list[Cause]:
    """Faults before advice, new ones before known ones, lost data first, then by how often."""
    groups: dict[str, list[Seen]] = {}
    for item in seen:
        groups.setdefault(item.finding.cause, []).append(item)
    ordered = sorted(rules.ALL, key=lambda rule: not rule.loses_data)
    rank = {rule.slug: place for place, rule in enumerate(ordered)}

    def importance(group: list[Seen]) -> tuple[bool, bool, int, int]:
        first = group[0].finding
        known = all(item.finding.known for item in group)
        return first.severity != "fault", known, rank.get(first.rule, len(rank)), -sum(item.count for item in group)

    for group in groups.values():
        group.sort(key=lambda item: (item.finding.known, -item.count))
    by_importance = sorted(groups.values(), key=importance)
    return [Cause(letters(number), group) for number, group in enumerate(by_importance)]


def letters(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    name = ""
    number += 1
    while number:
        number, place = divmod(number - 1, 26)
        name = chr(ord("A") + place) + name
    return name


def changes(finding: Finding) -> Site | None:
    """What has to change, also where the finding was read from a file: never plumbing."""
    if finding.changes is not None:
        return finding.changes
    for label in _labels(finding.rule):
        for item in finding.evidence:
            if item.label == label and item.site is not None:
                return item.site if not is_plumbing(item) else finding.site
    return finding.site


def is_plumbing(item: Evidence) -> bool:
    """Whether a piece of evidence stands in a file that only passes calls on."""
    return item.label == "through" or item.note.split(", ")[-1] == "through"


def _labels(slug: str) -> tuple[str, ...]:
    return next((rule.changes for rule in rules.ALL if rule.slug == slug), ())


@dataclass(frozen=True, slots=True)
class Shared:
    """One place of findings that many callers share."""

    site: Site
    callers: int


def shared(seen: Iterable[Seen]) -> Iterator[Shared]:
    """Places that at least 5 callers share: that file may be plumbing, see ``through``."""
    sites: dict[str, Site] = {}
    callers: dict[str, set[str]] = {}
    for item in seen:
        site, caller = item.finding.site, item.finding.caller
        if site is not None and caller is not None:
            key = f"{site.path}\0{site.line}\0{site.function}"
            sites.setdefault(key, site)
            callers.setdefault(key, set()).add(f"{caller.path}\0{caller.function}")
    for key, names in callers.items():
        if len(names) >= _CALLERS:
            yield Shared(sites[key], len(names))
