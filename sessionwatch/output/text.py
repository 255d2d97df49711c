"""The format ``text``: findings for people, one block per cause, and what to do next."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from . import messages
from .causes import Cause, causes, shared
from .edits import edit
from .escape import visible
from .report import Report, plural
from .sources import Sources

if TYPE_CHECKING:
    from ..model import Finding
    from .records import Note
    from .store import Seen

_BOLD, _RED, _YELLOW, _DIM = "1", "31", "33", "2"
_KNOWN = 3  # so many causes that are known are shown; more are only counted
_NAMED = 4  # subjects and places that are named
_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_MANY = 20  # findings, from which on a baseline is worth a word


def render(report: Report) -> str:
    """The whole report."""
    painted = ("\033[",)
    lines = (line if line.startswith(painted) else visible(line) for line in _Text(report).lines())
    return "\n".join(lines) + "\n"


class _Text:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.width = report.width
        self.found = [item for item in report.seen if item.finding.allowed is None]
        self.causes = causes(self.found)
        self.edits = {cause.letter: edit(cause.first) for cause in self.causes}
        self.sources = Sources(min((item.finding.time for item in self.found), default=None))

    def lines(self) -> Iterator[str]:
        told = any(cause.new for cause in self.causes) or (self.report.verbose and self.causes)
        if told:
            yield self._paint(self._verdict(), _BOLD)
            yield ""
            yield from self._blocks()
            yield from self._plumbing()
            yield from self._more()
            yield from self._next()
        yield from self.report.failures()
        if self.report.unused:
            yield from _unused(self.report.seen, self.report.notes or ())
        if not told:
            yield self._paint(self.report.totals(), _BOLD)

    def _paint(self, text: str, *codes: str) -> str:
        return f"\033[{';'.join(codes)}m{text}\033[0m" if self.report.colour and codes else text

    # -- the first line -------------------------------------------------------------------------------

    def _verdict(self) -> str:
        """``4 faults and 2 pieces of advice: six edits end all nine findings (6 new, 3 known)``."""
        faults = sum(cause.first.severity == "fault" for cause in self.causes)
        advice = len(self.causes) - faults
        parts = [plural(faults, "fault")] if faults else []
        parts += [f"{advice} piece{'' if advice == 1 else 's'} of advice"] if advice else []
        known = sum(item.finding.known for item in self.found)
        new = f" ({len(self.found) - known} new, {known} known)" if known else ""
        one = len(self.found) == 1
        ends = "" if one else f": {_word(len(self.causes), 'edit')} end all {_word(len(self.found), 'finding')}"
        if len(self.causes) == 1 and not one:
            ends = ends.replace(" end all", " ends all")
        allowed = sum(item.count for item in self.report.seen if item.finding.allowed is not None)
        return f"sessionwatch: {' and '.join(parts)}{ends}{new}{f', {allowed} allowed' if allowed else ''}"

    # -- the causes -----------------------------------------------------------------------------------

    def _blocks(self) -> Iterator[str]:
        known = [cause for cause in self.causes if not cause.new]
        shown = self.causes if self.report.verbose or len(known) <= _KNOWN else [c for c in self.causes if c.new]
        letters = max((len(cause.letter) for cause in shown), default=0)
        for cause in shown:
            yield from self._block(cause, letters)
            yield ""
        if len(shown) < len(self.causes):
            findings = sum(len(cause.seen) for cause in known)
            yield f"known: {plural(len(known), 'cause')} with {plural(findings, 'finding')}; -v shows them"
            yield ""

    def _block(self, cause: Cause, letters: int) -> Iterator[str]:
        yield self._heading(cause, letters)
        finding = cause.first
        full = self.report.verbose or (cause.new and finding.severity == "fault")
        yield from self._told(finding) if full and not self._raised(finding) else self._short(finding)
        others = [f"{path}:{line}" for path, line in cause.places if (path, line) != (finding.path, finding.line)]
        if others:
            yield from self._field("also", ", ".join(_some(others, self.report.verbose)))
        yield from self._fix(cause)

    def _raised(self, finding: Finding) -> bool:
        """Whether its story was told where it was raised."""
        return self.report.told and finding.level == "raise"

    def _heading(self, cause: Cause, letters: int) -> str:
        finding = cause.first
        fault = finding.severity == "fault"
        left = f"{cause.letter:<{letters}}  {'FAULT ' if fault else 'advice'} {visible(finding.rule)}"
        counts = [
            plural(len(cause.places), "place"),
            *([plural(cause.units, "unit")] if cause.units else []),
            *([plural(cause.tests, "test")] if cause.tests else []),
            *([f"{cause.processes} processes"] if cause.processes > 1 else []),
            *([f"{cause.times} times"] if cause.times > 1 else []),
        ]
        right = ", ".join(counts) + (f"   {cause.new} new" if cause.new < len(cause.seen) and cause.new else "")
        right += "   known" if not cause.new else ""
        room = self.width - len(left) - len(right) - 4
        subjects = _fitting([visible(subject) for subject in cause.subjects], max(room, 12))
        gap = max(2, self.width - len(left) - 2 - len(subjects) - len(right))
        colour = (_BOLD, _RED if fault else _YELLOW)
        return f"{self._paint(left, *colour)}  {subjects}{' ' * gap}{right}"

    def _told(self, finding: Finding) -> Iterator[str]:
        """The whole story: headline, source line, evidence, callers."""
        yield from self._wrapped(finding.message, "   ", "   ")
        yield from self._source(finding)
        yield from messages.rows(finding, "     ", self.width, 0 if self.report.verbose else 3)

    def _short(self, finding: Finding) -> Iterator[str]:
        place = f"{finding.path}:{finding.line} in {finding.function}" if finding.path else "place unknown"
        yield from self._wrapped(f"{place}: {finding.message}", "   ", "   ")

    def _source(self, finding: Finding) -> Iterator[str]:
        """The line itself, and where it is; the place alone where the file is not there, or has changed."""
        if finding.path is None:
            return
        line = self.sources.line(finding.path, finding.line) if finding.line else None
        if line is None or not line.strip():
            yield from self._wrapped(f"{finding.path}:{finding.line} in {finding.function}", "     ", "     ")
            return
        left = f"{finding.line:>7} | {line.strip()}"
        room = self.width - len(finding.path) - 2
        yield f"{_cut(left, room):<{room}}  {finding.path}" if room >= 40 else _cut(left, self.width)

    def _fix(self, cause: Cause) -> Iterator[str]:
        place = cause.changes
        here = place is None or (place.shown_path, place.line) == (cause.first.path, cause.first.line)
        where = "" if here or place is None else f"{place.shown_path}:{place.line}, "
        first, *rest = cause.first.fix.splitlines() or [""]
        certain = " (certain)" if self.edits[cause.letter] is not None else ""
        yield from self._field("fix", f"{where}{first}{certain}")
        for line in rest:
            yield from self._wrapped(line, "         ", "         ")

    def _field(self, name: str, text: str) -> Iterator[str]:
        yield from self._wrapped(text, f"   {name:<4}  ", "         ")

    def _wrapped(self, text: str, first: str, rest: str) -> Iterator[str]:
        yield from textwrap.wrap(
            text,
            self.width,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )

    # -- the end --------------------------------------------------------------------------------------

    def _plumbing(self) -> Iterator[str]:
        """Word for word what to paste, where many callers share one place."""
        found = list(shared(self.found))
        if not found:
            return
        for item in found:
            yield from self._wrapped(
                f"{item.site.shown_path}:{item.site.line} in {item.site.function} has {item.callers} callers. To have"
                " findings point to them, add to pyproject.toml, below [tool.sessionwatch]:",
                "",
                "",
            )
        files = [*self.report.through, *(item.site.project_path.replace("\\", "/") for item in found)]
        quoted = ", ".join(f'"{file}"' for file in dict.fromkeys(files))
        yield f"  through = [{quoted}]"
        yield ""

    def _more(self) -> Iterator[str]:
        slugs = dict.fromkeys(cause.first.rule for cause in self.causes if not self._raised(cause.first))
        if not slugs:
            return
        yield from self._wrapped(f"more: sessionwatch explain {' | '.join(slugs)}", "", "      ")

    def _next(self) -> Iterator[str]:
        certain = [letter for letter, change in self.edits.items() if change is not None]
        by_hand = [letter for letter, change in self.edits.items() if change is None]
        file = self.report.file
        if certain:
            how = f"sessionwatch report {file} --format patch" if file else self.report.to_patch
            hand = f"; {_listed(by_hand)} by hand" if by_hand else ""
            edits = plural(len(certain), "certain edit")
            yield from self._wrapped(f"next: {how}   ({edits}: {_listed(certain, ', ')}{hand})", "", "      ")
            return
        new = [cause for cause in self.causes if cause.new]
        if new and len(self.found) >= _MANY and not any(item.finding.known for item in self.found):
            how = f"sessionwatch baseline update {file}" if file else self.report.to_know
            yield from self._wrapped(
                f"next: start with {new[0].letter}; so that only new ones count: {how}", "", "      "
            )
        elif new:
            place = new[0].changes
            where = f", at {place.shown_path}:{place.line}" if place is not None else ""
            yield f"next: start with {new[0].letter}{where}"


def _word(number: int, noun: str) -> str:
    word = _NUMBERS[number] if number < len(_NUMBERS) else str(number)
    return f"{word} {noun}{'' if number == 1 else 's'}"


def _listed(parts: Sequence[str], glue: str = ", ") -> str:
    if len(parts) > 12:
        return f"{len(parts)} causes"
    if glue != ", " or len(parts) < 2:
        return glue.join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _fitting(names: Sequence[str], room: int) -> str:
    """As many names as there is room for, and how many more there are."""
    for count in range(len(names), 0, -1):
        left = len(names) - count
        text = ", ".join(names[:count]) + (f" and {left} more" if left else "")
        if len(text) <= room:
            return text
    return _cut(names[0], room) if names else ""


def _some(names: Sequence[str], all_of_them: bool) -> list[str]:
    if all_of_them or len(names) <= _NAMED:
        return list(names)
    return [*names[:_NAMED], f"and {len(names) - _NAMED} more (-v)"]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _unused(seen: Sequence[Seen], notes: Iterable[Note]) -> list[str]:
    """Allowances that covered nothing in any process (each one knows only its own findings)."""
    used = {(item.finding.rule, item.finding.allowed) for item in seen if item.finding.allowed is not None}
    unused = {
        item["text"]: None  # a dictionary keeps the order
        for note in notes
        for item in note.get("unused", ())
        if not any((rule, item["reason"]) in used for rule in item["rules"])
    }
    return ["sessionwatch: allowances that matched nothing:", *(f"  {item}" for item in unused), ""] if unused else []
