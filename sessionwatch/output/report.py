"""What a format is given: the findings of a store, and what is known of the run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from .escape import visible

if TYPE_CHECKING:
    from .records import Note
    from .store import Seen


_NARROWEST, _WIDEST = 60, 100  # columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report that is to be rendered.

    ``notes``: what watched processes said about themselves, None where nobody listened. ``unused``: name allowances
    that covered nothing. ``colour``: the report goes to a terminal that shows colours. ``recording``: what sessions
    did, as lines of JSON, None where nothing was recorded. ``about``: ``command``, ``began``, ``seconds``, ``facts``
    (a list of strings) of the run; any may be missing.
    """

    seen: Sequence[Seen]  # in the order in which they were first met, allowed ones too
    notes: Sequence[Note] | None = None
    unused: bool = False
    verbose: bool = False  # show what is left out otherwise
    width: int = _WIDEST  # columns
    through: Sequence[str] = ()  # the setting, as it is
    file: str | None = None  # that the findings were read from
    told: bool = False  # what raised has told its story already
    to_patch: str = "the same with --format patch"  # what to run for the certain edits, where there is no file
    to_know: str = "sessionwatch baseline update FINDINGS.jsonl"
    absent: Sequence[Mapping[str, str | None]] = ()  # entries of the baseline that nothing of this run matches
    colour: bool = False
    recording: Sequence[dict[str, object]] | None = None
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def rank(self) -> list[str]:
        """The rules' slugs, most important first: lost data before the others."""
        from .. import rules

        return [rule.slug for rule in sorted(rules.ALL, key=lambda rule: not rule.loses_data)]

    @property
    def shown(self) -> list[Seen]:
        """The findings that nothing covers."""
        return [item for item in self.seen if not item.finding.covered]

    def failures(self) -> list[str]:
        """What kept processes from being watched, one line an error."""
        return failures(self.notes or ())

    def totals(self) -> str:
        """How many findings, of which rules, how many allowed: one line."""
        shown = self.shown
        allowed = sum(item.count for item in self.seen if item.finding.allowed is not None)
        known = sum(item.count for item in self.seen if item.finding.known and item.finding.allowed is None)
        tail = "".join(f", {count} {word}" for count, word in ((known, "known"), (allowed, "allowed")) if count)
        if not shown:
            if self.failures():
                return f"sessionwatch: incomplete, because not everything could be watched{tail}"
            nowhere = " (no process imported sqlalchemy.orm)" if self.notes == [] else ""
            return f"sessionwatch: no findings{tail}{nowhere}"
        found = Counter(visible(item.finding.rule) for item in shown)
        rules = ", ".join(f"{number} {rule}" for rule, number in found.most_common())
        times = sum(item.count for item in shown)
        again = f", {times} times in all" if times > len(shown) else ""
        return f"sessionwatch: {plural(len(shown), 'finding')} ({rules}){again}{tail}"


def failures(notes: Iterable[Note]) -> list[str]:
    """What kept processes from being watched, one line an error."""
    errors = Counter(visible(str(note.get("error"))) for note in notes if note.get("event") == "failed")
    lines = [f"sessionwatch: {plural(count, 'process', 'es')} not watched: {error}" for error, count in errors.items()]
    lost = dict.fromkeys(visible(str(note.get("error"))) for note in notes if note.get("event") == "lost")
    return lines + [f"sessionwatch: findings could not be written: {error}" for error in lost]


def wants_colour(stream: IO[str] | None, environ: Mapping[str, str] | None = None) -> bool:
    """Whether ``stream`` is a terminal; ``NO_COLOR`` and ``FORCE_COLOR`` have the last word."""
    environ = os.environ if environ is None else environ
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return stream is not None and stream.isatty() and environ.get("TERM") != "dumb"


def width_of(stream: IO[str] | None) -> int:
    """How many columns a report has: those of a terminal, but at most 100, and 100 elsewhere."""
    try:
        if stream is not None and stream.isatty():
            return max(_NARROWEST, min(_WIDEST, os.get_terminal_size(stream.fileno()).columns or _WIDEST))
    except (OSError, ValueError):
        pass
    return _WIDEST


def plural(number: int, noun: str, ending: str = "s") -> str:
    """``1 finding``, ``2 findings``."""
    return f"{number} {noun}{'' if number == 1 else ending}"
