"""What the rest of the package talks about: places, evidence, sessions, events, findings, errors.

Standard library only. Nothing in here knows SQLAlchemy, so rules, messages and outputs can be used
and tested without a database.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from types import CodeType
from typing import Any, Literal, NamedTuple, TypeVar

from .portable import Portable

Mode = Literal["log", "strict", "telemetry", "off"]
Level = Literal["off", "log", "raise"]
Severity = Literal["fault", "advice"]

MODES: tuple[Mode, ...] = ("log", "strict", "telemetry")  # in which something is watched; "off" is none of them
LEVELS: tuple[Level, ...] = ("off", "log", "raise")
SCHEMA = 1

_T = TypeVar("_T")
_REMEMBERED = 4096  # instructions
_TYPED = ("<stdin>", "<console>")  # files of an interactive interpreter: each statement is line 1 of a new one
_numbers = itertools.count(1)
_COMPREHENSION = re.compile(r"\.?<(?:listcomp|setcomp|dictcomp|genexpr)>")
_root: str | None = None  # the project's, while something is installed


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


class RawSite(NamedTuple):
    """A place in the program, as cheap to take as possible: the line is looked up only when asked for."""

    code: CodeType
    lasti: int  # offset of the instruction in ``code``, in bytes; -1 where unknown

    def resolve(self) -> Site:
        function = function_of(self.code)
        path = self.code.co_filename
        return Site(path, line_of(self.code, self.lasti), function, _statement(self.code, -1) if path in _TYPED else 0)


class Mark(NamedTuple):
    """A place and who was there."""

    site: RawSite | None
    thread: str
    task: str | None


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a source file. ``line`` counts from 1; ``function`` is the qualified name.

    ``statement`` tells apart what was typed into an interactive interpreter, where lines can't; 0 elsewhere.
    """

    path: str
    line: int
    function: str
    statement: int = field(default=0, repr=False, compare=False)

    @property
    def shown_path(self) -> str:
        """The path relative to the working directory where it lies below it, else absolute."""
        return shown_path(self.path)

    @property
    def project_path(self) -> str:
        """The path relative to the project's root where it lies below it, else as it is shown."""
        return project_path(self.path)

    def attributes(self) -> dict[str, str | int]:
        """By OpenTelemetry's names, https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/."""
        return {
            "code.file.path": exportable(self.path),
            "code.line.number": self.line,
            "code.function.name": exportable(self.function),
        }


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
    same fingerprint (rule, subject, file, function) at the same line. No value of a column is ever part of
    a finding.
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
    raised: bool = False  # whether the program was told by an exception
    # where the count grows and no subscriber is called
    when_grown: Callable[[Finding], None] | None = field(default=None, compare=False, repr=False)
    # its fingerprint, once it was asked for: the project's root is known only while something is installed
    known_by: str | None = field(default=None, init=False, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without the subscriber to its growth, which belongs to this process."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "when_grown"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.when_grown = None
        for name, value in state.items():
            setattr(self, name, value)

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
        """16 hexadecimal digits; no line number, so that it survives edits above the place.

        Its file is seen from the project's root, so that it does not matter where the program was started.
        """
        if self.known_by is None:
            path = self.site.project_path.replace(os.sep, "/") if self.site else ""
            parts = (self.rule, self.subject, path, self.function or "")
            self.known_by = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self.known_by

    @property
    def key(self) -> tuple[str, int, int, bool]:
        """What is told only once: a fingerprint and a line, by itself where an allowance covers it."""
        statement = self.site.statement if self.site else 0
        return self.fingerprint, self.line or 0, statement, self.allowed is not None

    def attributes(self) -> dict[str, str | int]:
        """What telemetry says of it besides its story: strings and numbers only."""
        attributes: dict[str, str | int] = {
            "sessionwatch.rule": self.rule,
            "sessionwatch.severity": self.severity,
            "sessionwatch.subject": exportable(self.subject),
            "sessionwatch.fingerprint": self.fingerprint,
            "sessionwatch.count": self.count,
        }
        if self.unit is not None:
            attributes["sessionwatch.unit"] = exportable(self.unit)
        if self.session is not None:
            attributes["sessionwatch.session.id"] = exportable(self.session["id"])
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
            "allowed": self.allowed,
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "pid": self.pid,
            "time": stamp.replace("+00:00", "Z"),
            "schema": SCHEMA,
        }


# -- ownership -------------------------------------------------------------------------------------


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

    ``least``: the smallest number that makes sense.
    """

    default: bool | int | float | str
    help: str
    choices: tuple[str, ...] = ()
    defaults: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    least: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is worth an event; the rules set them, by their settings. Durations are in seconds."""

    loads: int = 0  # queries for one parent at a time from one line; with 0 they are only counted
    open: float = 30.0  # of a transaction
    idle: float = 5.0  # in which nothing is done in one


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule: its name, its page, its defaults and its check.

    ``check`` receives an event of one of the types in ``events`` and the rule's settings, and yields
    findings. It never logs and never raises on purpose. ``safe_point`` says in a few words where a finding
    is raised. No message has a count of occurrences in it: `Finding.count` grows, and reports show it.
    ``limits``: those of the given ones changed that follow from its settings and level, whether it is on or not.

    What has to be hooked for it follows from ``events``.
    """

    slug: str
    severity: Severity
    summary: str
    page: str
    on_in: frozenset[Mode]
    events: tuple[type, ...]
    check: Callable[[Any, dict[str, Any]], Iterator[Finding]]
    settings: dict[str, Setting] = field(default_factory=dict)
    parts: tuple[type, ...] = ()  # of its events, without which it has nothing to say
    safe_point: str = ""  # where the program is told by an exception, at ``raise``
    limits: Callable[[Limits, dict[str, Any], Level], Limits] | None = None
    loses_data: bool = False  # what it finds has lost or spoilt data: reports show it first

    def level_in(self, mode: Mode) -> Level:
        if mode not in self.on_in:
            return "off"
        return "raise" if mode == "strict" and self.severity == "fault" else "log"


# -- helpers ----------------------------------------------------------------------------------------


def by_instruction(function: Callable[[CodeType, int], _T]) -> Callable[[CodeType, int], _T]:
    """Remember what a function says of an instruction. By the code's identity: those of two files may be equal."""
    known: dict[tuple[int, int], tuple[CodeType, _T]] = {}  # keeps the code, and so its id()

    @functools.wraps(function)
    def remembered(code: CodeType, lasti: int) -> _T:
        found = known.get((id(code), lasti))
        if found is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            found = known[id(code), lasti] = code, function(code, lasti)
        return found[1]

    return remembered


def function_of(code: CodeType) -> str:
    """The qualified name of the function that ``code`` is of, from the innermost function around it.

    A comprehension is a part of what is around it, as most are since Python 3.12 (PEP 709); so is a generator
    expression, and a lambda within a function. One that is in no function is named as it is.
    """
    name = code.co_qualname
    if name.endswith(">"):
        name = _COMPREHENSION.sub("", name).lstrip(".").replace(".<locals>.<lambda>", "").removesuffix(".<locals>")
    return name.rpartition("<locals>.")[2] or "<module>"


@by_instruction
def line_of(code: CodeType, lasti: int) -> int:
    """The line of an instruction; the function's first line where the offset is unknown."""
    if lasti >= 0:
        for start, end, line in code.co_lines():
            if start <= lasti < end and line is not None:
                return line
    return code.co_firstlineno


@by_instruction
def _statement(code: CodeType, _: int) -> int:
    """The number of a statement that was typed; the same one while its code is remembered."""
    return next(_numbers)


def exportable(value: object) -> str:
    """``value`` as a string that every exporter can encode: a file name may hold bytes that are no text."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def shown_path(path: str) -> str:
    """``path`` relative to the working directory where it lies below it, else absolute."""
    if path.startswith("<"):
        return path
    absolute = os.path.abspath(path)
    try:
        return _below(os.getcwd(), absolute) or absolute
    except OSError:  # the working directory was removed
        return absolute


def project_path(path: str) -> str:
    """``path`` relative to the project's root where it lies below it, else as `shown_path` has it."""
    if _root is None or path.startswith("<"):
        return shown_path(path)
    return _below(_root, os.path.abspath(path)) or shown_path(path)


def _below(folder: str, path: str) -> str | None:
    return os.path.relpath(path, folder) if path.startswith(folder.rstrip(os.sep) + os.sep) else None


@contextlib.contextmanager
def project_root(folder: str) -> Iterator[None]:
    """For the length of a block, fingerprints and the baseline name files as they are seen from ``folder``."""
    global _root
    before, _root = _root, os.path.abspath(folder)
    try:
        yield
    finally:
        _root = before
