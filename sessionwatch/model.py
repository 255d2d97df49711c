"""What the rest of the package talks about: places, evidence, sessions, events, findings, errors.

Standard library only. Nothing in here knows SQLAlchemy, so rules, messages and outputs can be used
and tested without a database.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from .places import Called as Called
from .places import Mark as Mark
from .places import RawSite as RawSite
from .places import Site as Site
from .places import by_instruction as by_instruction
from .places import called_by as called_by
from .places import exportable as exportable
from .places import function_of as function_of
from .places import is_test
from .places import line_of as line_of
from .places import project_path as project_path
from .places import project_root as project_root
from .places import shown_path as shown_path
from .places import test_files as test_files
from .places import with_callers as with_callers
from .portable import Portable
from .shown import as_html, pretty

Mode = Literal["log", "strict", "telemetry", "off"]
Level = Literal["off", "log", "raise"]
Severity = Literal["fault", "advice"]

MODES: tuple[Mode, ...] = ("log", "strict", "telemetry")  # in which something is watched; "off" is none of them
LEVELS: tuple[Level, ...] = ("off", "log", "raise")
SCHEMA = 2
_WORD = re.compile(r"(?<![\w.(/`'\"-])[a-z]{2,}(?![\w.(/`'\"-])")  # of plain English, not a name


class SessionwatchError(Portable):
    """Base of every error that sessionwatch raises on purpose."""


class ConfigError(SessionwatchError):
    """A setting, rule or mode that does not exist, or a value that it does not take."""


class FindingError(SessionwatchError):
    """A finding of a rule that is set to ``raise``; ``finding`` holds it.

    ``str(error)`` is the whole story, as `sessionwatch.output.messages` renders it.
    """

    def __init__(self, finding: Finding, story: str = "") -> None:
        super().__init__(story or f"{finding.rule}: {finding.message}")
        self.finding = finding

    _repr_pretty_, _repr_html_ = pretty, as_html


@dataclass(frozen=True, slots=True)
class Evidence:
    """One labelled fact of a finding: ``touched``, ``written``, ``closed``, ``opened``, ….

    ``site`` is None where the history is missing; ``note`` then says why.
    """

    label: str
    site: Site | None
    thread: str | None = None
    task: str | None = None
    session: str | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        site = self.site
        return {
            "label": self.label,
            "path": site.shown_path if site else None,
            "line": site.line if site else None,
            "function": site.function if site else None,
            "thread": self.thread,
            "task": self.task,
            "session": self.session,
            "note": self.note or None,
        }


@dataclass(slots=True)
class Finding:
    """What a rule found; see ``schema.json`` for the form that it is written in.

    ``message`` is the headline without the rule's slug. ``count`` grows while the same is found again: the
    same fingerprint at the same line. No value of a column is ever part of a finding.

    ``chain``: the user's frames from the place where it happened outwards, which begin with plumbing where that only
    passes calls on; ``site`` is then the first one outside of it. Empty where the frames are not known.
    """

    rule: str
    severity: Severity
    subject: str
    message: str
    site: Site | None
    evidence: tuple[Evidence, ...]
    fix: str
    session: dict[str, Any] | None = None
    level: Level = "log"
    mode: Mode = "log"
    unit: str | None = None
    count: int = 1
    trace_id: str | None = None
    span_id: str | None = None
    pid: int = field(default_factory=os.getpid)
    time: float = field(default_factory=time.time)  # seconds since the epoch
    allowed: str | None = None  # the reason, where an allowance covers it
    known: bool = False  # whether the baseline has it
    chain: tuple[Site, ...] = ()
    changes: Site | None = None  # what has to change, where that is not ``site``
    raised: bool = False  # whether the program was told by an exception
    # where the count grows and no subscriber is called
    when_grown: Callable[[Finding], None] | None = field(default=None, compare=False, repr=False)
    # its fingerprint, once it was asked for: the project's root is known only while something is installed
    known_by: str | None = field(default=None, init=False, compare=False, repr=False)
    caused_by: str | None = field(default=None, init=False, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without the subscriber to its growth, which belongs to this process."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "when_grown"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.when_grown = None
        for name, value in state.items():
            setattr(self, name, value)

    _repr_pretty_, _repr_html_ = pretty, as_html

    @property
    def path(self) -> str | None:
        return self.site.shown_path if self.site else None

    @property
    def line(self) -> int | None:
        return self.site.line if self.site else None

    @property
    def function(self) -> str | None:
        return self.site.function if self.site else None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits: rule, subject, place, the nearest caller in another file, and unit.

        No line number, so that it survives edits above the place. Files are seen from the project's root, so that it
        does not matter where the program was started. What is not known is empty.
        """
        if self.known_by is None:
            parts = (self.rule, self.subject, _name(self.site), _name(self.caller), str(self.unit or ""))
            self.known_by = _digest(*parts, length=16)
        return self.known_by

    @property
    def old_fingerprint(self) -> str:
        """As it was up to schema 1: without caller and unit, and without plumbing."""
        return _digest(self.rule, self.subject, _name(self.chain[0] if self.chain else self.site), length=16)

    @property
    def caller(self) -> Site | None:
        """The nearest caller in another file of the user's code, tests left out."""
        site = self.site
        outer = self.chain[self.chain.index(site) + 1 :] if site in self.chain else ()
        for frame in outer:
            if site is not None and frame.path != site.path and not is_test(frame.path):
                return frame
        return None

    @property
    def cause(self) -> str:
        """12 hexadecimal digits: rule, what has to change, and the kind of fix. Findings of one cause end together."""
        if self.caused_by is None:
            kind = " ".join(_WORD.findall(self.fix))
            self.caused_by = _digest(self.rule, _name(self.changes or self.site), kind, length=12)
        return self.caused_by

    @property
    def covered(self) -> bool:
        """Whether an allowance or the baseline covers it."""
        return self.known or self.allowed is not None

    @property
    def key(self) -> tuple[str, int, int, bool]:
        """What is told only once: a fingerprint and a line, by itself where something covers it."""
        statement = self.site.statement if self.site else 0
        return self.fingerprint, self.line or 0, statement, self.covered

    def attributes(self) -> dict[str, str | int]:
        """What telemetry says of it besides its story: strings and numbers only."""
        attributes: dict[str, str | int] = {
            "sessionwatch.rule": self.rule,
            "sessionwatch.severity": self.severity,
            "sessionwatch.subject": exportable(self.subject),
            "sessionwatch.fingerprint": self.fingerprint,
            "sessionwatch.count": self.count,
        }
        if self.severity == "fault":
            attributes["error.type"] = self.rule
        if self.unit is not None:
            attributes["sessionwatch.unit"] = exportable(self.unit)
        if self.session is not None:
            attributes["sessionwatch.session.id"] = exportable(self.session["id"])
        if self.chain:
            attributes["code.stacktrace"] = exportable(_stacktrace(self.chain))
        return attributes | (self.site.attributes() if self.site is not None else {})

    def as_json(self) -> dict[str, Any]:
        stamp = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="microseconds")
        return {
            "rule": self.rule,
            "severity": self.severity,
            "subject": self.subject,
            "message": self.message,
            "path": self.path,
            "line": self.line,
            "function": self.function,
            "evidence": [item.as_json() for item in self.evidence],
            "session": self.session,
            "fix": self.fix,
            "fingerprint": self.fingerprint,
            "count": self.count,
            "mode": self.mode,
            "level": self.level,
            "unit": self.unit,
            "chain": [frame.as_json() for frame in self.chain],
            "cause": self.cause,
            "known": self.known,
            "allowed": self.allowed,
            "units": [self.unit] if self.unit is not None else [],
            "units_total": int(self.unit is not None),
            "tests": [],
            "tests_total": 0,
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "pid": self.pid,
            "time": stamp.replace("+00:00", "Z"),
            "schema": SCHEMA,
        }


def _digest(*parts: str, length: int) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:length]


def _name(site: Site | None) -> str:
    return site.name if site is not None else "\0"


def _stacktrace(chain: tuple[Site, ...]) -> str:
    """As Python shows one, the innermost frame last."""
    return "\n".join(f'  File "{site.path}", line {site.line}, in {site.function}' for site in reversed(chain))


# -- ownership -------------------------------------------------------------------------------------


LOADED_VALUES = "(loaded values)"  # among a rule's settings: whether reads of detached ones are reported
UNPICKLED = "it was unpickled or copied; no session has held this one"  # what is missing of an `Ownership`


@dataclass(frozen=True, slots=True, eq=False)
class Ownership:
    """Who owned an instance. Sites are None where the history is missing; ``missing`` says why.

    ``state`` is one of ``"transient"``, ``"pending"``, ``"persistent"``, ``"deleted"``,
    ``"detached"`` (https://docs.sqlalchemy.org/en/20/orm/session_state_management.html).
    """

    state: str
    session: str | None
    opened: Site | None = None
    closed: Site | None = None
    loaded: Site | None = None
    expunged: Site | None = None
    expired: Site | None = None
    closed_how: str | None = None
    expired_how: str | None = None
    thread: str | None = None
    task: str | None = None
    closed_thread: str | None = None
    closed_task: str | None = None
    unit: str | None = None
    kind: str | None = None  # "sync" or "async"
    duration: float | None = None  # of the session, in seconds
    statements: int | None = None  # that the session ran
    missing: str | None = None


# -- rules ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """An option of a rule. ``default`` gives its type too; ``defaults`` holds those of modes that have their own.

    ``least`` and ``most``: the smallest and the largest number that make sense.
    """

    default: bool | int | float | str
    help: str
    choices: tuple[str, ...] = ()
    defaults: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    least: int | None = None
    most: int | None = None

    @property
    def takes(self) -> str:
        """What may be set: ``int of at least 1``, or the choices."""
        wanted = " or ".join(self.choices) if self.choices else type(self.default).__name__
        wanted += f" of at least {self.least}" if self.least is not None else ""
        return wanted + (f" and at most {self.most}" if self.most is not None else "")


class Options(dict[str, bool | int | float | str]):
    """The settings of one rule, by their names."""

    def number(self, name: str) -> float:
        """A setting that is a number, with the unit that its rule says."""
        value = self[name]
        assert not isinstance(value, str)
        return value


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is worth an event; the rules set them, by their settings. Durations are in seconds."""

    loads: int = 0  # queries for one parent at a time from one line; with 0 they are only counted
    open: float = 30.0  # of a transaction
    idle: float = 5.0  # in which nothing is done in one
    blocked: float = 0.0  # of a statement that holds up an event loop


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule: its name, its page, its defaults and its check.

    ``check`` receives an event of one of the types in ``events`` and the rule's settings, and yields
    findings. It never logs and never raises on purpose. ``safe_point`` says in a few words where a finding
    is raised. No message has a count of occurrences in it: `Finding.count` grows, and reports show it.
    ``limits``: those of the given ones changed that follow from its settings and level, whether it is on or not.

    ``changes``: the labels of the evidence that has to change, the first one that is there; without any of them that is
    the place of the finding. ``timed``: whether it happens depends on time, so that a baseline leaves it out.

    What has to be hooked for it follows from ``events``.
    """

    slug: str
    severity: Severity
    summary: str
    page: str
    on_in: frozenset[Mode]
    events: tuple[type, ...]
    check: Callable[[Any, Options], Iterator[Finding]]
    settings: dict[str, Setting] = field(default_factory=dict)
    parts: tuple[type, ...] = ()  # of its events, without which it has nothing to say
    safe_point: str = ""  # where the program is told by an exception, at ``raise``
    limits: Callable[[Limits, Options, Level], Limits] | None = None
    loses_data: bool = False  # what it finds has lost or spoilt data: reports show it first
    changes: tuple[str, ...] = ()
    timed: bool = False

    def level_in(self, mode: Mode) -> Level:
        if mode not in self.on_in:
            return "off"
        return "raise" if mode == "strict" and self.severity == "fault" else "log"
