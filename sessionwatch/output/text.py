"""The format ``text``: findings for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import messages
from .escape import visible
from .records import Note
from .report import Report, plural
from .store import Seen


def render(report: Report) -> str:
    """The whole report."""
    colour = report.colour
    blocks = [_rule_block(rule, group, colour) for rule, group in _by_rule(report.shown).items()]
    lines = [_bold(" sessionwatch ".center(72, "-"), colour), ""] if blocks else []
    lines += blocks
    lines += report.failures()
    lines += _unused(report.seen, report.notes or ()) if report.unused else []
    lines.append(_bold(report.totals(), colour))
    return "\n".join(lines) + "\n"


def _by_rule(seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    groups: dict[str, list[Seen]] = {}
    for item in seen:
        groups.setdefault(item.finding.rule, []).append(item)
    return groups


def _rule_block(rule: str, group: list[Seen], colour: bool) -> str:
    places: dict[tuple[object, object], list[Seen]] = {}
    for item in group:
        places.setdefault((item.finding.path, item.finding.line), []).append(item)
    severity = group[0].finding.severity
    head = f"{visible(rule)} ({visible(severity)}): {plural(len(group), 'finding')} at {plural(len(places), 'place')}"
    stories = [_story(item, colour) for items in places.values() for item in items]
    return "\n\n".join([_bold(head, colour), *stories]) + "\n"


def _story(item: Seen, colour: bool) -> str:
    story = messages.render(item.finding, colour=colour).rstrip("\n")
    times = f" {item.count} times" if item.count > 1 else ""
    processes = f" in {item.processes} processes" if item.processes > 1 else ""
    return f"{story}\n  seen{times}{processes}" if times or processes else story


def _unused(seen: Sequence[Seen], notes: Iterable[Note]) -> list[str]:
    """Allowances that covered nothing in any process (each one knows only its own findings)."""
    used = {(item.finding.rule, item.finding.allowed) for item in seen if item.finding.allowed is not None}
    unused = {
        visible(item["text"]): None  # a dictionary keeps the order
        for note in notes
        for item in note.get("unused", ())
        if not any((rule, item["reason"]) in used for rule in item["rules"])
    }
    return ["sessionwatch: allowances that matched nothing:", *(f"  {item}" for item in unused), ""] if unused else []


def _bold(line: str, colour: bool) -> str:
    return f"\x1b[1m{line}\x1b[0m" if colour else line
