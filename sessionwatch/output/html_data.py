"""What the HTML report's script is given: findings by cause, places once each, and the picture in milliseconds."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from .sources import Sources
from .timeline import Json, Link, Session, items, mapping, number, text, timeline

UNRECORDED = (
    "Nothing was recorded: the time line is made by sessionwatch run --format html and"
    " pytest --sessionwatch-report html:FILE, not from findings alone."
)
_AROUND = 3  # lines before and after a finding's place
_SUBJECTS = re.compile(r", | and ")
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # control, format (bidirectional too), surrogates, separators
_ESCAPED = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u....|.)")  # of JSON; two of a pair together
_MOST_NAMED = 20


def dumped(value: object) -> str:
    """JSON in which each character that does not show is text: the six characters ``\\u202e`` instead of one.

    Tabs and ends of lines stay. What is written is ASCII.
    """
    return _ESCAPED.sub(_shown, json.dumps(value, ensure_ascii=True, separators=(",", ":")))


def _shown(found: re.Match[str]) -> str:
    return _seen(found[0])


@functools.lru_cache(maxsize=4096)
def _seen(escape: str) -> str:
    char = str(json.loads(f'"{escape}"'))
    if char in "\t\n" or unicodedata.category(char) not in _HIDDEN:
        return escape
    return char.encode("unicode_escape", "surrogatepass").decode("ascii").replace("\\", "\\\\")


class Data:
    """Collects the parts; ``root`` is what is written into the file."""

    def __init__(self, findings: Sequence[Json], recording: Iterable[Json] | None, rank: Sequence[str] = ()) -> None:
        self._findings = findings
        self._rank = {slug: place for place, slug in enumerate(rank)}
        self._line = timeline(recording, findings) if recording is not None else None
        self._unrecorded = UNRECORDED if recording is None else "No session was opened."
        self._sources = Sources(self._began())
        self._sites: dict[tuple[str, int, str], int] = {}
        self._lines: dict[str, dict[int, str]] = {}
        self._sessions = {one.key: n for n, one in enumerate(self._line.sessions)} if self._line else {}
        self.causes = self._causes()

    def root(self, about: Json) -> dict[str, object]:
        """All of it, as plain data."""
        findings = [self._finding(n, one) for n, one in enumerate(self._findings)]
        self._name(findings)
        return {
            "run": self._run(about),
            "findings": findings,
            "causes": self.causes,
            "picture": self._picture(),
            "sites": [list(site) for site in self._sites],
            "lines": self._lines,
            "changed": self._sources.changed,
        }

    def _began(self) -> float | None:
        """When the run began, or the first finding was made, in seconds since the epoch."""
        if self._line is not None:
            return self._line.begins
        stamps = [moment for one in self._findings if (moment := _moment(text(one, "time"))) is not None]
        return min(stamps, default=None)

    # -- findings and causes ---------------------------------------------------------------------------

    def _causes(self) -> list[dict[str, object]]:
        groups: dict[str, list[int]] = {}
        for index, one in enumerate(self._findings):
            key = text(one, "cause") or f"{text(one, 'rule')}\0{text(one, 'path')}\0{text(one, 'fix')}"
            groups.setdefault(key, []).append(index)
        ordered = sorted(groups.values(), key=self._importance)
        return [self._cause(n, group) for n, group in enumerate(ordered)]

    def _importance(self, group: list[int]) -> tuple[object, ...]:
        ones = [self._findings[index] for index in group]
        allowed = all(one.get("allowed") is not None for one in ones)
        known = all(bool(one.get("known")) for one in ones)
        rank = self._rank.get(text(ones[0], "rule"), len(self._rank))
        return allowed, text(ones[0], "severity") != "fault", known, rank, -sum(number(one, "count") for one in ones)

    def _cause(self, place: int, group: list[int]) -> dict[str, object]:
        group.sort(key=lambda index: _standing(self._findings[index]))
        first = self._findings[group[0]]
        change = mapping(first.get("change")) or first
        self._line_of(text(change, "path"), int(number(change, "line")))
        what, code = _fix(text(first, "fix"))
        return {
            "id": letters(place),
            "rule": text(first, "rule"),
            "severity": _severity(first),
            "title": text(first, "message"),
            "place": self._site(change),
            "fix": what,
            "code": code,
            "findings": group,
            "diff": _lines_of_diff(text(first, "diff")) or None,
        }

    def _name(self, findings: list[dict[str, object]]) -> None:
        """Letters and numbers for this report, and links that last: by fingerprint."""
        used: set[str] = set()
        for place, cause in enumerate(self.causes):
            for n, index in enumerate(cause["findings"] if isinstance(cause["findings"], list) else (), 1):
                finding = findings[index]
                anchor = str(finding["fp"])
                if anchor in used:
                    anchor = f"{anchor}-{number(self._findings[index], 'line'):.0f}"
                while anchor in used:
                    anchor += "x"
                used.add(anchor)
                finding |= {"id": f"{cause['id']}{n}", "c": place, "anchor": anchor}

    def _finding(self, index: int, one: Json) -> dict[str, object]:
        site = self._site(one)
        path, line = text(one, "path"), int(number(one, "line"))
        for near in range(line - _AROUND, line + _AROUND + 1):
            self._line_of(path, near)
        subject, unit = text(one, "subject"), one.get("unit")
        units, tests = _names(one, "units", unit), _names(one, "tests")
        chain = [self._site(frame) for frame in map(mapping, items(one, "chain")) if frame is not None]
        subjects = [part for part in _SUBJECTS.split(subject) if part]
        return {
            "rule": text(one, "rule"),
            "severity": _severity(one),
            "subject": subject,
            "subjects": subjects,
            "models": list(dict.fromkeys(part.partition(".")[0] for part in subjects)),
            "message": text(one, "message"),
            "site": site,
            "evidence": self._evidence(index, one),
            "chain": chain or [site],
            "unit": unit if isinstance(unit, str) else None,
            "units": units,
            "unitsTotal": max(int(number(one, "units_total")), len(units)),
            "tests": tests,
            "testsTotal": max(int(number(one, "tests_total")), len(tests)),
            "known": bool(one.get("known")),
            "allowed": one.get("allowed") if isinstance(one.get("allowed"), str) else None,
            "count": int(number(one, "count")) or 1,
            "fix": text(one, "fix"),
            "paste": _fix(text(one, "fix"))[1],
            "fp": text(one, "fingerprint"),
        }

    def _evidence(self, index: int, one: Json) -> list[list[object]]:
        times = self._line.times[index] if self._line is not None else []
        about = text(mapping(one.get("session")) or {}, "id")
        pid, rows = int(number(one, "pid")), []
        for n, item in enumerate(items(one, "evidence")):
            piece = mapping(item) or {}
            site = self._site(piece)
            if site >= 0:
                self._line_of(text(piece, "path"), int(number(piece, "line")))
            task, thread = text(piece, "task"), text(piece, "thread")
            who = f"task {task}" if task else f"thread {thread}" if thread else None
            when = times[n] if n < len(times) else None
            session = text(piece, "session")
            known = self._sessions.get((pid, session or about))
            rows.append([text(piece, "label"), site, who, session or None, self._ms(when), piece.get("note"), known])
        return rows

    def _site(self, one: Json) -> int:
        path = text(one, "path")
        if not path:
            return -1
        site = (path, int(number(one, "line")), text(one, "function"))
        return self._sites.setdefault(site, len(self._sites))

    def _line_of(self, path: str, line: int) -> None:
        if not path:
            return
        known = self._lines.setdefault(path, {})
        if line not in known and (found := self._sources.line(path, line)) is not None:
            known[line] = found

    # -- the run and the picture -----------------------------------------------------------------------

    def _run(self, about: Json) -> dict[str, object]:
        head: list[list[object]] = []
        if text(about, "app"):
            head.append([text(about, "app"), False])
        if text(about, "command"):
            head.append([text(about, "command"), True])
        began = self._began()
        if began is not None:
            stamp = datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M UTC")
            seconds = self._line.ends - self._line.begins if self._line is not None else number(about, "seconds")
            head.append([f"{stamp}, {_duration(seconds)}" if seconds else stamp, False])
        facts = [fact for fact in items(about, "facts") if isinstance(fact, str)]
        if self._line is not None:
            facts.insert(0, f"{self._line.seen:,} session{'' if self._line.seen == 1 else 's'} watched")
        incomplete = about.get("incomplete") is True
        return {"about": head, "facts": facts, "unrecorded": self._unrecorded, "incomplete": incomplete}

    def _ms(self, when: float | None) -> float | None:
        return None if when is None or self._line is None else round((when - self._line.begins) * 1000, 3)

    def _picture(self) -> dict[str, object] | None:
        made = self._line
        if made is None:
            return None
        blocks = {key: place for place, key in enumerate(made.blocks)}
        return {
            "span": [0, self._ms(made.ends)],
            "note": made.note,
            "lanes": [{"kind": lane.kind, "name": lane.name} for lane in made.lanes],
            "blocks": [
                {"lane": one.lane, "name": one.name, "t": [self._ms(one.begins), self._ms(one.ends)]}
                for one in made.blocks.values()
            ],
            "sessions": [self._session(one, blocks) for one in made.sessions],
            "links": [self._linked(one, blocks) for one in made.links],
        }

    def _session(self, one: Session, blocks: dict[tuple[int, str], int]) -> dict[str, object]:
        return {
            "id": one.label,
            "lane": one.lane,
            "block": blocks[one.unit] if one.unit is not None else None,
            "t": [self._ms(one.opened), self._ms(one.closed)],
            "end": one.end,
            "at": self._site(one.opened_at or {}),
            "marks": [[mark.kind, self._ms(mark.first), self._ms(mark.last), mark.count] for mark in one.marks],
            "tx": [[self._ms(begins), self._ms(ends)] for begins, ends in one.transactions],
            "held": [[self._ms(begins), self._ms(ends)] for begins, ends in one.held],
            "more": one.left_out,
            "f": one.findings,
        }

    def _linked(self, one: Link, blocks: dict[tuple[int, str], int]) -> dict[str, object]:
        return {
            "kind": one.kind,
            "f": one.finding,
            "s": one.session,
            "s2": one.other,
            "t": self._ms(one.time),
            "lane": one.lane,
            "block": blocks.get(one.unit) if one.unit is not None else None,
        }


def letters(place: int) -> str:
    """A to Z, AA, AB, …"""
    name = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        name = chr(65 + rest) + name
    return name


def _standing(one: Json) -> tuple[bool, bool, float]:
    """What is new comes first, then what was seen most."""
    return one.get("allowed") is not None, bool(one.get("known")), -number(one, "count")


def _severity(one: Json) -> str:
    return "advice" if text(one, "severity") == "advice" else "fault"


def _names(one: Json, name: str, first: object = None) -> list[str]:
    found = [item for item in (first, *items(one, name)) if isinstance(item, str) and item]
    return list(dict.fromkeys(found))[: _MOST_NAMED + 1]


def _fix(fix: str) -> tuple[str, str]:
    """What to do in a few words, and the code of it, if the fix has any."""
    line = fix.partition("\n")[0]
    words, colon, rest = line.partition(": ")
    quoted = re.search(r"`([^`]+)`", fix)
    if quoted is None and not (colon and re.search(r"[().=]", rest)):
        return line.rstrip(":;,"), ""
    code = quoted[1] if quoted is not None else rest.partition(", or ")[0].rstrip(";,")
    return (words if colon and "`" not in words else line.replace("`", "")).rstrip(":;,"), code


def _lines_of_diff(diff: str) -> list[list[str]]:
    """Sign and text of each line of a unified diff, without its heads."""
    lines = [line for line in diff.splitlines() if not line.startswith(("--- a/", "+++ b/", "@@ ", "\\"))]
    return [[line[:1], line[1:]] for line in lines]


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _moment(stamp: str) -> float | None:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return None
