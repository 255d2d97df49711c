"""Findings as they are written: a line of JSON each, typed here, read and checked; see ``schema.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TypedDict, cast

from ..model import SCHEMA, Evidence, Finding, Level, Mode, SessionwatchError, Severity, Site

_LONGEST = 16_000_000  # characters of a line: a device may have no end
_SHOWN = 40  # characters of a wrong value
_TEXT, _TEXT_OR_NONE, _NUMBER = (str,), (str, type(None)), (int,)
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("rule", "severity", "subject", "message", "fingerprint", "label", "mode", "level"), _TEXT),
    **dict.fromkeys(("path", "function", "thread", "task", "note", "fix", "unit", "allowed", "cause"), _TEXT_OR_NONE),
    **dict.fromkeys(("trace_id", "span_id", "time"), _TEXT_OR_NONE),
    **dict.fromkeys(("pid", "count", "units_total", "tests_total"), _NUMBER),
    "line": (int, type(None)),
    "known": (bool,),
    **dict.fromkeys(("evidence", "chain", "units", "tests"), (list,)),
}
_LISTS = ("evidence", "chain", "units", "tests")
_READ = (1, SCHEMA)  # one of the first has no chain, and is known by other keys


class PlaceRecord(TypedDict):
    """A place in a source file; all of it is None where it is not known."""

    path: str | None
    line: int | None
    function: str | None


class EvidenceRecord(PlaceRecord, total=False):
    """One labelled fact."""

    label: str
    thread: str | None
    task: str | None
    session: str | None
    note: str | None


class Record(PlaceRecord, total=False):
    """A finding, as one line of JSON holds it."""

    rule: str
    severity: Severity
    subject: str
    message: str
    evidence: list[EvidenceRecord]
    session: dict[str, object] | None
    fix: str
    fingerprint: str
    count: int
    mode: Mode
    level: Level
    unit: str | None
    chain: list[PlaceRecord]
    cause: str
    known: bool
    units: list[str]
    units_total: int
    tests: list[str]
    tests_total: int
    allowed: str | None
    trace_id: str | None
    span_id: str | None
    pid: int
    time: str
    schema: int


class Note(TypedDict, total=False):
    """What a watched process said about itself."""

    pid: int
    event: str
    error: str
    unused: list[UnusedAllowance]


class UnusedAllowance(TypedDict):
    """An allowance that covered nothing in one process."""

    rules: list[str]
    reason: str
    text: str


def read(path: str, strict: bool = True) -> list[Record]:
    """The lines of a JSON Lines file. A last line that was cut off by the end of its process is left out.

    Raises `SessionwatchError` for anything else that is not an object of JSON, unless not ``strict``.
    """
    return [cast(Record, item) for item in _objects(path, strict)]


def lines(path: str) -> list[dict[str, object]]:
    """The lines of a file that watched processes have written; none where there is no such file."""
    return list(_objects(path, strict=False)) if os.path.exists(path) else []


def notes(path: str) -> list[Note]:
    """The lines of the file of notes that watched processes have written."""
    return [cast(Note, item) for item in _objects(path, strict=False)]


def _objects(path: str, strict: bool) -> Iterator[dict[str, object]]:
    with open(path, encoding="utf-8", errors="replace") as stream:
        number = 0
        while line := stream.readline(_LONGEST):
            number += 1
            try:
                item: object = json.loads(line)
            except (ValueError, RecursionError):
                item = None
            if isinstance(item, dict):
                yield item
            elif strict and (line.endswith("\n") or len(line) >= _LONGEST):
                raise SessionwatchError(f"{path}:{number} is not a line of JSON")
            elif len(line) >= _LONGEST:
                return


def check(records: Iterable[Record], path: str) -> None:
    """Raise `SessionwatchError` where a line is not a finding of a form that this version knows."""
    for number, record in enumerate(records, 1):
        if not {"rule", "message", "fingerprint", "pid"} <= record.keys():
            raise SessionwatchError(f"{path}:{number} is not a finding of sessionwatch")
        if record.get("schema") not in _READ:
            raise SessionwatchError(f"{path}:{number} has schema {record.get('schema')!r}; this version reads {SCHEMA}")
        wrong = next(_wrong(record), None)
        if wrong is not None:
            raise SessionwatchError(f"{path}:{number} is not a finding of sessionwatch: {wrong}")


def _wrong(record: Mapping[str, object]) -> Iterator[str]:
    """What is not as the schema has it, as far as a report would break on it."""
    yield from _mistyped(record, {**_KINDS, "session": (dict, type(None))})
    for name in _LISTS:
        for item in cast(list[object], record.get(name) or ()):
            if isinstance(item, dict):
                yield from (f"{name}: {wrong}" for wrong in _mistyped(item, _KINDS))
                if name == "evidence" and "label" not in item:
                    yield f"{name} without a label"
            elif not isinstance(item, str) or name == "evidence":
                yield f"{name} has {_shown(item)}"
    try:
        datetime.fromisoformat(str(record.get("time") or "2000-01-01")).timestamp()
    except (ValueError, OverflowError):
        yield f"time is {_shown(record['time'])}"


def _mistyped(record: Mapping[str, object], kinds: Mapping[str, tuple[type, ...]]) -> Iterator[str]:
    for name, value in record.items():
        kind = kinds.get(name)
        if kind is not None and (not isinstance(value, kind) or isinstance(value, bool) is not (kind == (bool,))):
            yield f"{name} is {_shown(value)}"


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def as_record(finding: Finding) -> Record:
    """What is written of a finding."""
    return cast(Record, finding.as_json())


def as_finding(record: Record) -> Finding:
    """The `Finding` that was written as ``record``."""
    finding = Finding(
        rule=record["rule"],
        severity=record.get("severity", "fault"),
        subject=record.get("subject", ""),
        message=record["message"],
        site=_site(record),
        evidence=tuple(map(_evidence, record.get("evidence", ()))),
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
        known=record.get("known", False),
        chain=tuple(site for frame in record.get("chain", ()) if (site := _site(frame)) is not None),
    )
    finding.known_by, finding.caused_by = record.get("fingerprint"), record.get("cause")
    return finding


def _site(record: PlaceRecord) -> Site | None:
    path = record.get("path")
    return Site(path, record.get("line") or 0, record.get("function") or "") if path is not None else None


def _evidence(item: EvidenceRecord) -> Evidence:
    site = _site(item)
    note = item.get("note") or ""
    return Evidence(item["label"], site, item.get("thread"), item.get("task"), item.get("session"), note)
