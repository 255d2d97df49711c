"""The text report: findings as they were written to JSON Lines, for people.

Works on plain dictionaries (see ``schema.json``), so that it can also show a file of another day, another
machine or another process. Lines of one finding from several processes become one entry.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from ..model import SCHEMA, Evidence, Finding, SessionwatchError, Site
from . import messages

Record = dict[str, Any]


@dataclass(slots=True)
class Seen:
    """One finding: how it was first written, and how often each process met it."""

    record: Record
    counts: dict[int, int] = field(default_factory=dict)  # by process id

    @property
    def rule(self) -> str:
        return str(self.record["rule"])

    @property
    def allowed(self) -> str | None:
        """The reason of the allowance that covers it."""
        reason = self.record.get("allowed")
        return None if reason is None else str(reason)

    @property
    def count(self) -> int:
        return sum(self.counts.values())


def read(path: str, strict: bool = True) -> list[Record]:
    """The lines of a JSON Lines file. A last line that was cut off by the end of its process is left out.

    Raises `SessionwatchError` for anything else that is not an object of JSON, unless not ``strict``.
    """
    with open(path, encoding="utf-8", errors="replace") as stream:
        lines = stream.readlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif strict and line.endswith("\n"):
            raise SessionwatchError(f"{path}:{number} is not a line of JSON")
    return records


def check(records: Iterable[Record], path: str) -> None:
    """Raise `SessionwatchError` where a line is not a finding of a form that this version knows."""
    for number, record in enumerate(records, 1):
        if not {"rule", "message", "fingerprint", "pid"} <= record.keys():
            raise SessionwatchError(f"{path}:{number} is not a finding of sessionwatch")
        if record.get("schema") != SCHEMA:
            raise SessionwatchError(f"{path}:{number} has schema {record.get('schema')!r}; this version reads {SCHEMA}")


def key(record: Record) -> tuple[str, int, bool]:
    """What is told only once, as `Finding.key` is for findings."""
    return record["fingerprint"], record.get("line") or 0, record.get("allowed") is not None


def merge(records: Iterable[Record]) -> list[Seen]:
    """One entry a finding, in the order in which they first happened.

    A process writes a finding again with its final count: the last line counts. Counts of several
    processes are added.
    """
    found: dict[tuple[str, int, bool], Seen] = {}
    for record in records:
        seen = found.setdefault(key(record), Seen(record))
        seen.counts[record["pid"]] = record.get("count", 1)
    return list(found.values())


def as_finding(record: Mapping[str, Any]) -> Finding:
    """The `Finding` that was written as ``record``."""
    finding = Finding(
        rule=record["rule"],
        severity=record.get("severity", "fault"),
        subject=record.get("subject", ""),
        message=record["message"],
        site=_site(record),
        evidence=tuple(_evidence(item) for item in record.get("evidence", ())),
        fix=record.get("fix") or "",
        session=record.get("session"),
        level=record.get("level", "log"),
        mode=record.get("mode", "log"),
        unit=record.get("unit"),
        count=record.get("count", 1),
        trace_id=record.get("trace_id"),
        span_id=record.get("span_id"),
        pid=record["pid"],
        time=datetime.fromisoformat(record["time"]).timestamp() if record.get("time") else 0.0,
        allowed=record.get("allowed"),
    )
    finding.known_by = record.get("fingerprint")
    return finding


def _site(record: Mapping[str, Any]) -> Site | None:
    if record.get("path") is None:
        return None
    return Site(record["path"], record.get("line") or 0, record.get("function") or "")


def _evidence(item: Mapping[str, Any]) -> Evidence:
    return Evidence(
        item["label"], _site(item), item.get("thread"), item.get("task"), item.get("session"), item.get("note") or ""
    )


# -- text -------------------------------------------------------------------------------------------


def text(
    seen: Sequence[Seen], notes: Sequence[Record] | None = None, *, colour: bool = False, unused: bool = False
) -> str:
    """The whole report.

    ``notes``: what watched processes said about themselves, None where nobody listened. ``unused``: name
    allowances that covered nothing.
    """
    blocks = [_rule_block(rule, group, colour) for rule, group in _by_rule(seen).items()]
    lines = [_bold(" sessionwatch ".center(72, "-"), colour), ""] if blocks else []
    lines += blocks
    lines += failures(notes or ())
    lines += _unused(seen, notes or ()) if unused else []
    lines.append(_bold(totals(seen, notes), colour))
    return "\n".join(lines) + "\n"


def totals(seen: Sequence[Seen], notes: Sequence[Record] | None = None) -> str:
    """The last line: how many findings, of which rules, how many allowed."""
    shown = [item for item in seen if item.allowed is None]
    allowed = sum(item.count for item in seen if item.allowed is not None)
    tail = f", {allowed} allowed" if allowed else ""
    if not shown:
        nowhere = " (no process imported sqlalchemy.orm)" if notes == [] else ""
        return f"sessionwatch: no findings{tail}{nowhere}"
    rules = ", ".join(f"{number} {rule}" for rule, number in Counter(item.rule for item in shown).most_common())
    times = sum(item.count for item in shown)
    again = f", {times} times in all" if times > len(shown) else ""
    return f"sessionwatch: {_plural(len(shown), 'finding')} ({rules}){again}{tail}"


def _by_rule(seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    groups: dict[str, list[Seen]] = {}
    for item in seen:
        if item.allowed is None:
            groups.setdefault(item.rule, []).append(item)
    return groups


def _rule_block(rule: str, group: list[Seen], colour: bool) -> str:
    places: dict[tuple[object, object], list[Seen]] = {}
    for item in group:
        places.setdefault((item.record.get("path"), item.record.get("line")), []).append(item)
    severity = group[0].record.get("severity", "fault")
    head = f"{rule} ({severity}): {_plural(len(group), 'finding')} at {_plural(len(places), 'place')}"
    stories = [_story(item, colour) for items in places.values() for item in items]
    return "\n\n".join([_bold(head, colour), *stories]) + "\n"


def _story(item: Seen, colour: bool) -> str:
    finding = as_finding(item.record)
    counted = messages.counted(item.rule, finding.message, item.count)
    finding.message = counted or finding.message
    story = messages.render(finding, colour=colour).rstrip("\n")
    times = f" {item.count} times" if item.count > 1 and counted is None else ""
    processes = f" in {len(item.counts)} processes" if len(item.counts) > 1 else ""
    return f"{story}\n  seen{times}{processes}" if times or processes else story


def failures(notes: Iterable[Record]) -> list[str]:
    """What kept processes from being watched, one line an error."""
    errors = Counter(str(note.get("error")) for note in notes if note.get("event") == "failed")
    return [f"sessionwatch: {_plural(count, 'process', 'es')} not watched: {error}" for error, count in errors.items()]


def _unused(seen: Iterable[Seen], notes: Iterable[Record]) -> list[str]:
    """Allowances that covered nothing in any process (each one knows only its own findings)."""
    used = {(item.rule, item.allowed) for item in seen if item.allowed is not None}
    unused = {
        str(item["text"]): None  # a dictionary keeps the order
        for note in notes
        for item in note.get("unused", ())
        if not any((rule, item["reason"]) in used for rule in item["rules"])
    }
    return ["sessionwatch: allowances that matched nothing:", *(f"  {item}" for item in unused), ""] if unused else []


def wants_colour(stream: IO[str] | None, environ: Mapping[str, str] | None = None) -> bool:
    """Whether ``stream`` is a terminal; ``NO_COLOR`` and ``FORCE_COLOR`` have the last word."""
    environ = os.environ if environ is None else environ
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return stream is not None and stream.isatty() and environ.get("TERM") != "dumb"


def _bold(line: str, colour: bool) -> str:
    return f"\x1b[1m{line}\x1b[0m" if colour else line


def _plural(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"
