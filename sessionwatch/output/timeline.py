"""A recording's lines -> lanes, sessions and what ties findings to them. For the formats ``html`` and ``trace``.

Works on plain data: lines as `sessionwatch.record.recording` writes them, findings as they are written to JSON
Lines. Whatever does not have the expected form is left out; nothing in here raises for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Json = Mapping[str, object]
Interval = tuple[float, float | None]  # seconds since the epoch; None: not over when the recording ended
Key = tuple[int, str]  # process id and label of a session

MOST_REST = 3000  # sessions without a finding that a report keeps
MOST_LINKS = 40  # occurrences of one finding that a report keeps
_GIVEN_BY_ASYNCIO = re.compile(r"Task-\d+")
_NOT_AT_WORK = ("opened", "created", "made", "obtained", "closed", "detached", "ended")


@dataclass(slots=True)
class Mark:
    """What a session did; ``last`` and ``count`` where one line did it again and again."""

    kind: str
    first: float
    last: float
    count: int
    place: tuple[str, int] | None


@dataclass(slots=True)
class Session:
    """One session's life. ``lane`` is an index; ``unit`` tells units of work of all processes apart."""

    key: Key
    lane: int
    unit: Key | None
    opened: float
    closed: float | None
    end: str
    opened_at: Json | None
    closed_at: Json | None
    marks: list[Mark]
    transactions: list[Interval]
    held: list[Interval]
    left_out: int = 0  # marks
    findings: list[int] = field(default_factory=list)  # indexes

    @property
    def label(self) -> str:
        return self.key[1]


@dataclass(slots=True)
class Lane:
    """Where sessions stand: a unit's name, a thread, a task, all tasks without a name of their own."""

    kind: str
    name: str


@dataclass(slots=True)
class Block:
    """One unit of work: from its first session's opening to its end."""

    lane: int
    name: str
    begins: float
    ends: float


@dataclass(slots=True)
class Link:
    """A finding at a moment. ``touch``: after its session had ended; ``both``: two at once; ``pair``: two sessions."""

    kind: str
    finding: int
    session: int
    time: float
    lane: int
    unit: Key | None
    other: int | None = None


@dataclass(slots=True)
class Timeline:
    """All that was recorded; ``begins`` and ``ends`` are seconds since the epoch."""

    lanes: list[Lane] = field(default_factory=list)
    blocks: dict[Key, Block] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    times: list[list[float | None]] = field(default_factory=list)  # of each finding's pieces of evidence
    seen: int = 0  # sessions that were watched
    begins: float = 0.0
    ends: float = 0.0
    note: str = ""


def timeline(lines: Iterable[Json], findings: Sequence[Json]) -> Timeline | None:
    """What was recorded, with the findings pinned to it; None where nothing was."""
    return _Builder(findings).build(list(lines))


class _Builder:
    def __init__(self, findings: Sequence[Json]) -> None:
        self._findings = findings
        self._by_print = {_key(one, _is_covered(one)): n for n, one in enumerate(findings)}
        self._made = Timeline()
        self._lanes: dict[tuple[str, str], int] = {}
        self._several = False  # processes
        self._names: dict[Key, str] = {}

    def build(self, lines: list[Json]) -> Timeline | None:
        sessions: dict[Key, Json] = {}
        occurrences: list[Json] = []
        for line in lines:
            kind, pid = line.get("kind"), int(number(line, "pid"))
            if kind == "session":
                sessions[pid, text(line, "id")] = line  # written again when more is known of it
            elif kind == "finding":
                occurrences.append(line)
            elif kind == "unit":
                self._names[pid, str(line.get("unit"))] = text(line, "name")
        if not sessions:
            return None
        self._several = len({pid for pid, _ in sessions}) > 1
        named = {(int(number(one, "pid")), text(one, "session")) for one in occurrences}
        chosen, rest = _thinned(sessions, named)
        for key, line in sorted(chosen, key=lambda one: number(one[1], "open")):
            self._made.sessions.append(self._session(key, line))
        self._link(occurrences)
        self._bound(lines)
        self._made.seen = max(_seen(lines), len(sessions))
        unnoted = sum(int(number(line, "unnoted")) for line in lines)
        found = len(named & sessions.keys())
        self._made.note = _note(self._made.seen, len(self._made.sessions), found, rest, unnoted)
        return self._made

    # -- sessions and lanes ----------------------------------------------------------------------------

    def _session(self, key: Key, line: Json) -> Session:
        unit = self._unit(key[0], line)
        opened, closed = number(line, "open"), _optional(line.get("close"))
        lane = self._lane(key[0], line, unit)
        if unit is not None:
            block = self._made.blocks.setdefault(unit, Block(lane, self._made.lanes[lane].name, opened, opened))
            block.begins, block.ends = min(block.begins, opened), max(block.ends, closed or opened)
        return Session(
            key,
            lane,
            unit,
            opened,
            closed,
            text(line, "end"),
            mapping(line.get("opened")),
            mapping(line.get("closed")),
            [_mark(one) for one in items(line, "marks")],
            [_interval(one) for one in items(line, "tx")],
            [_interval(one) for one in items(line, "connection")],
            int(number(line, "left_out")),
        )

    def _unit(self, pid: int, line: Json) -> Key | None:
        number_of = line.get("unit")
        return None if number_of is None else (pid, str(number_of))

    def _lane(self, pid: int, line: Json, unit: Key | None) -> int:
        if unit is not None:
            wanted = ("unit of work", self._names.get(unit) or text(line, "unit_name") or "unit")
        else:
            task, thread = text(line, "task"), text(line, "thread") or "thread"
            kind, name = ("task", task) if task else ("thread", thread)
            if task and _GIVEN_BY_ASYNCIO.fullmatch(task):
                kind, name = "tasks", "asyncio tasks"
            wanted = (kind, f"{name}, process {pid}" if self._several else name)
        if wanted not in self._lanes:
            self._lanes[wanted] = len(self._made.lanes)
            self._made.lanes.append(Lane(*wanted))
        return self._lanes[wanted]

    # -- findings --------------------------------------------------------------------------------------

    def _link(self, occurrences: list[Json]) -> None:
        places = {one.key: n for n, one in enumerate(self._made.sessions)}
        times: list[list[float | None]] = [[None] * len(items(one, "evidence")) for one in self._findings]
        count: dict[int, int] = {}
        for line in occurrences:
            index = self._by_print.get(_key(line, line.get("covered") is True))
            pid = int(number(line, "pid"))
            session = places.get((pid, text(line, "session")))
            if index is None or session is None:
                continue
            count[index] = count.get(index, 0) + 1
            self._pin(index, session)
            if count[index] <= MOST_LINKS:
                self._linked(index, session, line, places)
            if count[index] == 1:
                times[index] = self._evidence_times(index, pid, number(line, "t"), places)
        self._made.times = times

    def _pin(self, finding: int, session: int) -> None:
        pinned = self._made.sessions[session].findings
        if finding not in pinned:
            pinned.append(finding)

    def _linked(self, index: int, session: int, line: Json, places: dict[Key, int]) -> None:
        one, pid, when = self._made.sessions[session], int(number(line, "pid")), number(line, "t")
        evidence = [item for item in map(mapping, items(self._findings[index], "evidence")) if item is not None]
        unit = self._unit(pid, line)
        if unit is not None and unit not in self._made.blocks:
            lane = self._lane(pid, line, unit)
            self._made.blocks[unit] = Block(lane, self._made.lanes[lane].name, when, when)
        lane = self._lane(pid, line, unit)
        if one.closed is not None and when > one.closed and line.get("late") is True:
            self._made.links.append(Link("touch", index, session, when, lane, unit))
            return
        about = text(mapping(self._findings[index].get("session")) or {}, "id")  # the first one's, in the evidence
        if len(_actors(evidence, about)) > 1:
            self._made.links.append(Link("both", index, session, when, lane, unit))
            return
        named = dict.fromkeys(text(item, "session") for item in evidence)
        others = [places.get((pid, label)) for label in named if label != one.label]
        other = next((found for found in others if found is not None), None)
        if other is not None and one.label in named:
            self._pin(index, other)
            self._made.links.append(Link("pair", index, session, when, one.lane, one.unit, other))

    def _evidence_times(self, index: int, pid: int, when: float, places: dict[Key, int]) -> list[float | None]:
        """When each piece of evidence was: the first is the finding itself, the others by their place."""
        finding = self._findings[index]
        about = text(mapping(finding.get("session")) or {}, "id")
        found: list[float | None] = []
        for n, item in enumerate(items(finding, "evidence")):
            piece = mapping(item) or {}
            session = places.get((pid, text(piece, "session") or about))
            moment = None if session is None else _moment(self._made.sessions[session], piece, when)
            found.append(when if n == 0 and moment is None else moment)
        return found

    def _bound(self, lines: list[Json]) -> None:
        made = self._made
        for line in lines:
            unit = self._unit(int(number(line, "pid")), line)
            block = made.blocks.get(unit) if line.get("kind") == "unit" and unit is not None else None
            if block is not None:
                block.ends = max(block.ends, number(line, "end"))
        times = [time for one in made.sessions for time in _times(one)] + [link.time for link in made.links]
        made.begins = min(times)
        made.ends = max(times + [block.ends for block in made.blocks.values()])


# -- one line ------------------------------------------------------------------------------------------


def text(line: Json, name: str) -> str:
    """A string of a line; empty where there is none."""
    value = line.get(name)
    return value if isinstance(value, str) else ""


def number(line: Json, name: str) -> float:
    """A number of a line; 0 where there is none."""
    return _optional(line.get(name)) or 0


def items(line: Json, name: str) -> Sequence[object]:
    """A list of a line; empty where there is none."""
    value = line.get(name)
    return value if isinstance(value, list | tuple) else ()


def mapping(value: object) -> Json | None:
    """An object of JSON; None for anything else."""
    return value if isinstance(value, dict) else None


def _key(line: Json, covered: bool) -> tuple[str, float, bool]:
    """What tells a finding from others, as `Finding.key` does."""
    return text(line, "fingerprint"), number(line, "line"), covered


def _is_covered(finding: Json) -> bool:
    return finding.get("allowed") is not None or bool(finding.get("known"))


def _optional(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _interval(value: object) -> Interval:
    begins, ends = value if isinstance(value, list) and len(value) == 2 else (0.0, 0.0)
    return _optional(begins) or 0.0, _optional(ends)


def _mark(value: object) -> Mark:
    """``[kind, first, last, count, path, line]``."""
    row = [*value, *[None] * 6] if isinstance(value, list) else [None] * 6
    kind, first, last, count, path, line = row[:6]
    begins = _optional(first) or 0.0
    place = (path, int(_optional(line) or 0)) if isinstance(path, str) else None
    return Mark(str(kind), begins, _optional(last) or begins, int(_optional(count) or 1), place)


def _times(one: Session) -> list[float]:
    marks = [time for mark in one.marks for time in (mark.first, mark.last)]
    ends = [time for interval in (*one.transactions, *one.held) for time in interval if time is not None]
    return [one.opened, *([one.closed] if one.closed is not None else []), *marks, *ends]


def _actors(evidence: Iterable[Json], session: str) -> set[tuple[str, str]]:
    """Who was at work in a session, as the evidence names them."""
    return {
        (text(item, "thread"), text(item, "task"))
        for item in evidence
        if text(item, "session") == session and text(item, "label") not in _NOT_AT_WORK
    }


def _moment(one: Session, piece: Json, when: float) -> float | None:
    """When a piece of evidence was: the newest mark of its line, else the session's opening or close."""
    place = (text(piece, "path"), int(number(piece, "line")))
    marks = [mark.last for mark in one.marks if mark.place == place and mark.first <= when]
    label = text(piece, "label")
    if label in ("opened", "made", "obtained"):
        return one.opened
    if label in ("closed", "detached") and one.closed is not None:
        return one.closed
    return marks[-1] if marks else None


def _thinned(sessions: dict[Key, Json], named: set[Key]) -> tuple[list[tuple[Key, Json]], int]:
    """Every session with a finding, and of the rest as many as a report can hold; how many of those."""
    rest = [one for one in sessions.items() if one[0] not in named]
    every = -(-len(rest) // MOST_REST) or 1
    kept = rest[::every]
    return [(key, line) for key, line in sessions.items() if key in named] + kept, len(kept)


def _seen(lines: Iterable[Json]) -> int:
    """How many sessions all processes watched."""
    newest: dict[int, int] = {}
    for line in lines:
        pid = int(number(line, "pid"))
        newest[pid] = max(newest.get(pid, 0), int(number(line, "seen")))
    return sum(newest.values())


def _note(seen: int, drawn: int, found: int, rest: int, unnoted: int) -> str:
    """What of the run is in the recording, in a sentence."""
    sample = f"a sample of the rest ({rest:,})" if rest else "none of the rest"
    said = f"{_plural(drawn, 'session')} of {seen:,}: all {found:,} with a finding, and {sample}."
    if drawn >= seen:
        said = (
            f"{'The only session' if drawn == 1 else f'All {drawn:,} sessions'} of the run, {found:,} with a finding."
        )
    return said + (f" {_plural(unnoted, 'more occurrence')} of findings were not recorded." if unnoted else "")


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
