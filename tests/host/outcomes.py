"""The outcomes of two runs of the same tests, and what differs between them. Standard library only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PHASES = ("collect", "setup", "call", "teardown")
ABSENT = "did not run"


class BadRunError(Exception):
    """A run whose outcomes cannot be compared: it broke off, or nothing ran."""


@dataclass(frozen=True)
class Change:
    """A test whose outcome differs. ``flaky`` says that it differs between two bare runs as well."""

    test: str
    before: str
    after: str
    text: str = ""
    flaky: bool = False

    def __str__(self) -> str:
        return f"{self.test}\n    before: {self.before}\n    after:  {self.after}"


@dataclass
class Run:
    """One run: for each test its phases, each with its outcome and the reason for it."""

    tests: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # of the tests that failed: the traceback
    warnings: Counter[str] = field(default_factory=Counter)
    processes: list[dict[str, Any]] = field(default_factory=list)
    status: int | None = None  # pytest's exit status; None where it broke off

    def outcome(self, test: str) -> str:
        """The outcome in words, phase by phase, with reasons."""
        phases = self.tests.get(test)
        if phases is None:
            return ABSENT
        return ", ".join(in_words(phase, *phases[phase]) for phase in sorted(phases, key=order)) or "passed"

    def decided(self, test: str) -> object:
        """What must be the same in two runs: the outcome of each phase, and the message of a failure.

        Not the reason of a skip: where several requirements are not met, SQLAlchemy names any of them.
        """
        phases = self.tests.get(test)
        if phases is None:
            return ABSENT
        return {phase: (outcome, detail if "failed" in outcome else "") for phase, (outcome, detail) in phases.items()}

    def totals(self) -> Counter[str]:
        """The number of tests by their worst phase, and errors outside of the call as ``error``."""
        return Counter(worst(phases) for phases in self.tests.values())

    def told(self) -> str:
        return told(self.totals())

    @property
    def watched(self) -> tuple[int, int]:
        """How many calls of tests ran under a watch, and how many there were."""
        return sum(p.get("watched", 0) for p in self.processes), sum(p.get("tests", 0) for p in self.processes)

    def check(self, what: str) -> None:
        """Raise BadRunError unless pytest came to its end and something ran."""
        if self.status is None:
            raise BadRunError(f"{what} broke off before its end")
        if self.status not in (0, 1):
            raise BadRunError(f"{what} ended with pytest's exit status {self.status}")
        if not self.tests:
            raise BadRunError(f"{what} ran no test")


def order(phase: str) -> int:
    return PHASES.index(phase) if phase in PHASES else len(PHASES)


def in_words(phase: str, outcome: str, detail: str) -> str:
    where = "" if phase == "call" else f" in {phase}"
    return f"{outcome}{where}: {detail}" if detail else f"{outcome}{where}"


def told(counts: Counter[str]) -> str:
    """Counts in words, the largest first: ``12 passed, 3 skipped``."""
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())


def worst(phases: dict[str, tuple[str, str]]) -> str:
    for phase, (outcome, _) in phases.items():
        if "failed" in outcome.split("+"):
            return "failed" if phase == "call" else "error"
    outcomes = {name for outcome, _ in phases.values() for name in outcome.split("+")}
    return next((name for name in ("xpassed", "xfailed", "skipped") if name in outcomes), "passed")


def read(path: Path) -> Run:
    """The run that the recorder wrote to ``path``; a torn last line counts as a run that broke off."""
    return assemble(lines(path.read_text(encoding="utf-8")))


def lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def assemble(records: Iterable[dict[str, Any]]) -> Run:
    run = Run()
    for record in records:
        match record["kind"]:
            case "test":
                add(run, record)
            case "warning":
                run.warnings[f"{record['category']}: {record['message']}"] += 1
            case "process":
                run.processes.append(record)
            case "end":
                run.status = record["status"]
    return run


def add(run: Run, record: dict[str, Any]) -> None:
    """Enter one report. Set-up and teardown are kept only where they did not pass.

    A test that ran more than once under one id keeps all of its outcomes, joined by ``+``.
    """
    phases = run.tests.setdefault(record["id"], {})
    if record["outcome"] != "passed" or record["phase"] == "call":
        before, detail = phases.get(record["phase"], ("", ""))
        outcomes = sorted([*filter(None, before.split("+")), record["outcome"]])
        phases[record["phase"]] = ("+".join(outcomes), detail or record["detail"])
    if record.get("text"):
        run.texts[record["id"]] = record["text"]


def compare(before: Run, after: Run) -> list[Change]:
    """Every test whose outcome differs, also those that ran in one of the two only, in a stable order."""
    tests = sorted(before.tests.keys() | after.tests.keys())
    return [
        Change(test, before.outcome(test), after.outcome(test), after.texts.get(test, ""))
        for test in tests
        if before.decided(test) != after.decided(test)
    ]


def settle(changes: list[Change], before: Run, again: Run) -> list[Change]:
    """The same changes; those whose bare outcome was another one in a second bare run are marked as flaky."""
    return [
        Change(c.test, c.before, c.after, c.text, flaky=before.decided(c.test) != again.decided(c.test))
        for c in changes
    ]


def new_warnings(before: Run, after: Run) -> Counter[str]:
    """The kinds of warnings that only the second run had."""
    return Counter({text: n for text, n in after.warnings.items() if text not in before.warnings})


def findings(paths: Iterable[Path]) -> Counter[str]:
    """How many different findings each rule had, from files of JSON Lines; a repeated one counts once."""
    records = [record for path in paths for record in lines(path.read_text(encoding="utf-8"))]
    return Counter(rule for rule, _ in {(record["rule"], record["fingerprint"]) for record in records})
