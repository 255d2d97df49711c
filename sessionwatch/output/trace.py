"""The format ``trace``: Chrome trace events, which Perfetto (https://ui.perfetto.dev) and chrome://tracing open.

Each lane of the recording is a track, of as many rows as sessions overlap in it. A session is a slice, with its
transactions and the connection inside; marks and findings are instants; a finding after a session's end is a slice
of its own, with an arrow from the close.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from .html_data import dumped
from .timeline import Interval, Json, Link, Session, Timeline, number, text, timeline

if TYPE_CHECKING:
    from .report import Report

Event = dict[str, object]
_PROCESS = 1
_LEAST = 1  # microsecond: a slice that can be seen and clicked


def render(report: Report) -> str:
    """The whole report."""
    return trace([dict(seen.record()) for seen in report.seen], report.recording)


def trace(findings: Sequence[Json], recording: Iterable[Json] | None = None) -> str:
    """All of it as one object of JSON; without a recording, the findings alone."""
    line = timeline(recording, findings) if recording is not None else None
    events = list(_Events(findings, line).all() if line is not None else _alone(findings))
    about = {"made by": "sessionwatch", "recording": line.note if line is not None else "none: findings alone"}
    document = {"displayTimeUnit": "ms", "otherData": about, "traceEvents": events}
    return dumped(document) + "\n"


class _Events:
    def __init__(self, findings: Sequence[Json], line: Timeline) -> None:
        self._findings = findings
        self._line = line
        self._tied = {(line.sessions[link.session].key, link.finding) for link in line.links}
        self._rows: list[list[float]] = [[] for _ in line.lanes]  # when each row of a lane is free again

    def all(self) -> Iterator[Event]:
        yield _named("process_name", 0, "sessionwatch")
        rows = [self._row(one) for one in self._line.sessions]
        tracks: dict[tuple[int, int], int] = {}
        for lane, count in enumerate(map(len, self._rows)):
            for row in range(max(1, count)):
                track = tracks[lane, row] = len(tracks) + 1
                name = self._line.lanes[lane].name
                yield _named("thread_name", track, f"{name} ({row + 1})" if row else name)
                yield {**_named("thread_sort_index", track, ""), "args": {"sort_index": track}}
        for one, row in zip(self._line.sessions, rows, strict=True):
            yield from self._session(one, tracks[one.lane, row])
        for arrow, link in enumerate(self._line.links, 1):
            lane = self._line.sessions[link.session].lane
            track = tracks[lane, rows[link.session]]
            if link.kind == "touch":
                yield from self._touch(link, arrow, track, track if link.lane == lane else tracks[link.lane, 0])
            else:
                yield self._instant(link.finding, track, link.time)

    def _row(self, one: Session) -> int:
        """The first row of its lane that is free while the session lives."""
        rows = self._rows[one.lane]
        end = one.closed if one.closed is not None else self._line.ends
        row = next((place for place, free in enumerate(rows) if free <= one.opened), len(rows))
        rows[row:] = [end, *rows[row + 1 :]]
        return row

    def _session(self, one: Session, track: int) -> Iterator[Event]:
        end = one.closed if one.closed is not None else self._line.ends
        place = one.opened_at or {}
        told = {
            "ended": one.end,
            "opened at": f"{text(place, 'path')}:{number(place, 'line'):.0f}" if place else "unknown",
            "findings": ", ".join(text(self._findings[n], "rule") for n in one.findings) or "none",
        }
        yield self._slice(f"{one.label} {one.end.replace('_', ' ')}", "session", track, (one.opened, end), told)
        for interval in one.transactions:
            yield self._slice("transaction", "transaction", track, interval, {})
        for interval in one.held:
            yield self._slice("connection", "connection", track, interval, {})
        for mark in one.marks:
            told = {"at": f"{mark.place[0]}:{mark.place[1]}"} if mark.place is not None else {}
            if mark.count > 1:
                told["times"] = str(mark.count)
            yield {**self._event("i", mark.kind, "mark", track, mark.first), "s": "t", "args": told}
        for index in one.findings:
            if (one.key, index) not in self._tied:
                yield self._instant(index, track, end)

    def _touch(self, link: Link, arrow: int, source: int, target: int) -> Iterator[Event]:
        """A finding after its session's end, and the arrow from the close to it."""
        closed = self._line.sessions[link.session].closed or link.time
        told = self._told(link.finding)
        yield {**self._event("X", self._rule(link.finding), "finding", target, link.time), "dur": _LEAST, "args": told}
        ends = {"id": arrow, "bp": "e"}
        yield {**self._event("s", "after the close", "finding", source, closed - _LEAST / 1e6), **ends}
        yield {**self._event("f", "after the close", "finding", target, link.time), **ends}

    def _instant(self, finding: int, track: int, when: float) -> Event:
        event = self._event("i", self._rule(finding), "finding", track, when)
        return {**event, "s": "t", "args": self._told(finding)}

    def _rule(self, finding: int) -> str:
        return text(self._findings[finding], "rule")

    def _told(self, finding: int) -> dict[str, str]:
        return _told(self._findings[finding])

    def _slice(self, name: str, kind: str, track: int, interval: Interval, told: dict[str, str]) -> Event:
        begins, ends = interval
        length = self._moment(ends if ends is not None else self._line.ends) - self._moment(begins)
        return {**self._event("X", name, kind, track, begins), "dur": max(length, _LEAST), "args": told}

    def _event(self, phase: str, name: str, kind: str, track: int, when: float) -> Event:
        moment = self._moment(when)
        return {"ph": phase, "name": name, "cat": kind, "pid": _PROCESS, "tid": track, "ts": moment}

    def _moment(self, when: float) -> int:
        """Microseconds since the beginning; whole ones, so that what is inside of a slice does not stick out."""
        return max(0, round((when - self._line.begins) * 1e6))


def _alone(findings: Sequence[Json]) -> Iterator[Event]:
    """The findings at the time at which each was first met."""
    yield _named("process_name", 0, "sessionwatch")
    stamps = [_stamp(text(one, "time")) for one in findings]
    begins = min(stamps, default=0.0)
    for one, when in zip(findings, stamps, strict=True):
        event: Event = {"ph": "i", "name": text(one, "rule"), "cat": "finding", "pid": _PROCESS, "tid": 1, "s": "t"}
        yield {**event, "ts": round((when - begins) * 1e6), "args": _told(one)}


def _told(finding: Json) -> dict[str, str]:
    return {
        "message": text(finding, "message"),
        "at": f"{text(finding, 'path')}:{number(finding, 'line'):.0f}",
        "fix": text(finding, "fix"),
        "fingerprint": text(finding, "fingerprint"),
    }


def _named(name: str, track: int, value: str) -> Event:
    return {"ph": "M", "name": name, "pid": _PROCESS, "tid": track, "args": {"name": value}}


def _stamp(when: str) -> float:
    try:
        return datetime.fromisoformat(when).timestamp()
    except ValueError:
        return 0.0
