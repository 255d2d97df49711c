"""How a test's failure tells of findings: the whole story once, and a line where pytest repeats it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from ..model import FindingError
from ..output.escape import visible
from ..output.messages import headline, render

if TYPE_CHECKING:
    from ..model import Finding

_MARK = "sessionwatch"  # of an exception: its findings; of a report: `Marks`, which xdist sends along
_NAMED = 3  # tests

Marks = list[list[str]]  # an identity, the headline and the place of each finding


def story(findings: Sequence[Finding], where: str) -> str:
    """The text of a failure."""
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    kinds = ", ".join(dict.fromkeys(finding.rule for finding in findings))
    alike: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        rows = tuple((item.label, item.site, item.note) for item in finding.evidence)
        alike.setdefault((finding.rule, finding.path, finding.line, finding.fix, rows), []).append(finding)
    return "\n\n".join([f"sessionwatch: {count} {where}: {visible(kinds)}", *map(_once, alike.values())])


def _once(alike: Sequence[Finding]) -> str:
    """The story of findings that differ in their subject alone, such as the attributes that one serializer reads."""
    first, *others = alike
    subjects = dict.fromkeys(visible(finding.subject) for finding in others)
    return render(first) + (f"\n  the same of {', '.join(subjects)}" if others else "")


def fail(findings: Sequence[Finding], where: str) -> NoReturn:
    """Fail the test that runs."""
    error = pytest.fail.Exception(story(findings, where), pytrace=False)
    setattr(error, _MARK, findings)
    raise error


def marks_of(findings: Iterable[Finding]) -> Marks:
    """What is kept of findings in a report."""
    return [
        [f"{item.fingerprint} {item.line} {item.message}", headline(item), visible(_place(item))] for item in findings
    ]


def _place(finding: Finding) -> str:
    return f"{finding.path}:{finding.line} in {finding.function}" if finding.path else "place unknown"


def properties(finding: Finding) -> list[tuple[str, object]]:
    """What the JUnit file has of a finding: what and where, its cause, and who called."""
    chain = " < ".join(f"{frame.shown_path}:{frame.line} in {frame.function}" for frame in finding.chain)
    found: list[tuple[str, object]] = [
        ("sessionwatch", f"{finding.rule} at {finding.path}:{finding.line}"),
        ("sessionwatch.cause", finding.cause),
    ]
    return [*found, ("sessionwatch.chain", visible(chain))] if chain else found


def mark(report: pytest.TestReport, error: BaseException) -> None:
    """Note in a report of which findings it tells; where pytest repeats it in a line, that one begins with the rule."""
    findings = [error.finding] if isinstance(error, FindingError) else getattr(error, _MARK, None)
    if not findings:
        return
    marks = marks_of(findings)
    setattr(report, _MARK, marks)
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = _line(marks)


def _line(marks: Marks) -> str:
    """``rule: what happened``, and how many more there are."""
    return marks[0][1] + (f" (and {len(marks) - 1} more)" if len(marks) > 1 else "")


@dataclass(frozen=True)
class _Crash:
    """What pytest asks a failure for where it names it in a line."""

    path: str
    lineno: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.lineno}: {self.message}"


class _Text:
    """A failure without a traceback, as pytest shows failures."""

    def __init__(self, text: str, crash: object) -> None:
        self._text = text
        self.reprcrash = crash

    def __str__(self) -> str:
        return self._text

    def toterminal(self, tw: Any) -> None:
        for text in self._text.split("\n"):
            tw.line(text)


def late_report(nodeid: str, location: tuple[str, int | None, str], text: str, marks: Marks) -> pytest.TestReport:
    """A report of what was found after its test had made its own."""
    shown: Any = _Text(text, _Crash(location[0], (location[1] or 0) + 1, _line(marks)))
    report = pytest.TestReport(nodeid, location, {}, "failed", shown, "teardown")
    setattr(report, _MARK, marks)
    return report


def tell_once(reports: Iterable[Any]) -> None:
    """Of failures that tell of the same findings, only the first one keeps its story; it names the others' tests."""
    first: dict[str, Any] = {}
    others: dict[int, list[str]] = {}
    for report in reports:
        marks: Marks = getattr(report, _MARK, [])
        known = [first[identity] for identity, _, _ in marks if identity in first]
        if marks and len(known) == len(marks):
            others.setdefault(id(known[0]), []).append(report.nodeid)
            report.longrepr = _again(report.longrepr, marks, known[0].nodeid)
        else:
            for identity, _, _ in marks:
                first.setdefault(identity, report)
    for report in {id(report): report for report in first.values()}.values():
        names = others.get(id(report), [])
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            report.sections.append(("sessionwatch", f"the same failed {', '.join(names[:_NAMED])}{more}"))


def _again(longrepr: Any, marks: Marks, nodeid: str) -> _Text:
    """A failure whose story stands with another test."""
    first = str(longrepr).partition("\n")[0]
    lines = [first] if first.startswith("sessionwatch: ") else []
    lines += [text for _, told, place in marks for text in (told, f"  {place}")]
    entries = getattr(getattr(longrepr, "reprtraceback", None), "reprentries", [])
    called = getattr(entries[0], "reprfileloc", None) if len(entries) > 1 else None
    if called is not None:
        lines.append(f"  called at {called.path}:{called.lineno}")
    return _Text("\n".join([*lines, f"  the story: {nodeid}"]), getattr(longrepr, "reprcrash", None))
