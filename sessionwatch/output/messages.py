"""Finding -> text: headline, evidence newest first, one fix that can be pasted."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from ..model import Evidence, Finding, Mark
from ..shown import told_by
from .escape import visible

_BOLD, _RED, _YELLOW, _DIM, _RESET = "\033[1m", "\033[31m", "\033[33m", "\033[2m", "\033[0m"


def headline(finding: Finding, colour: bool = False) -> str:
    """``slug: what happened``, in one line."""
    slug = visible(finding.rule)
    if colour:
        slug = f"{_BOLD}{_RED if finding.severity == 'fault' else _YELLOW}{slug}{_RESET}"
    return f"{slug}: {visible(finding.message)}"


def render(finding: Finding, colour: bool = False) -> str:
    """The whole story, several lines, without a newline at its end."""
    evidence = finding.evidence
    if finding.unit and finding.unit != finding.subject:
        evidence = (*evidence, Evidence("during", None, note=finding.unit))
    lines = [headline(finding, colour), *_table((*evidence, *_called_from(finding, 3)), colour)]
    lines.extend(_indented("fix: ", finding.fix))
    if finding.allowed:
        lines.append(f"  allowed: {visible(finding.allowed)}")
    lines.append(f"  more: sessionwatch explain {visible(finding.rule)}")
    return "\n".join(lines)


told_by(render)


def rows(finding: Finding, indent: str, width: int, most: int) -> list[str]:
    """Evidence and callers, in lines of at most ``width`` columns; ``most``: callers to name, 0 for all of them."""
    callers = _called_from(finding, most)
    if finding.unit and finding.unit != finding.subject:
        note = " < ".join([*(item.note for item in callers), finding.unit])
        callers = [Evidence("called from", None, note=note)]
    evidence = (*finding.evidence, *callers)
    lines = [indent + line[2:] for line in _table(evidence)]
    return lines if all(len(line) <= width for line in lines) else _narrow(evidence, indent, width)


def _narrow(evidence: Sequence[Evidence], indent: str, width: int) -> list[str]:
    """Without a column of its own for the details."""
    widest = max(len(item.label) for item in evidence)
    found = []
    for item in evidence:
        detail = _detail(item)
        found += textwrap.wrap(
            f"{_place(item)} ({detail})" if detail else _place(item),
            width,
            initial_indent=f"{indent}{item.label:<{widest}}  ",
            subsequent_indent=" " * (len(indent) + widest + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return found


def _called_from(finding: Finding, most: int) -> list[Evidence]:
    """The user's frames outside of the place."""
    chain = finding.chain
    outer = chain[chain.index(finding.site) + 1 :] if finding.site in chain else ()
    if most and len(outer) > 1 and outer[-1].function == "<module>":
        outer = outer[:-1]
    shown = outer[:most] if most else outer
    parts = [f"{frame.shown_path}:{frame.line} in {frame.function}" for frame in shown]
    if len(shown) < len(outer):
        parts.append(f"{len(outer) - len(shown)} more")
    if not chain and finding.mode == "telemetry" and finding.site is not None:
        parts.append("not known in mode telemetry")
    return [Evidence("called from", None, note=" < ".join(parts))] if parts else []


def holders(held: Sequence[tuple[str, Iterable[Evidence]]], checked_out: int) -> str:
    """Who holds the connections of a pool that has none left, several lines, the oldest transaction first.

    ``held``: a line on each of them, and what is known of them.
    """
    shown = f"{checked_out} connection{'' if checked_out == 1 else 's'} checked out"
    lines = [f"sessionwatch: the pool had {shown}, {len(held)} of them by sessions in a transaction"]
    for who, evidence in held:
        lines.append(f"  {who}")
        lines.extend("  " + line for line in _table(evidence))
    return "\n".join(lines)


def _table(evidence: Iterable[Evidence], colour: bool = False) -> list[str]:
    lines = []
    rows = [(visible(item.label), visible(_place(item)), visible(_detail(item))) for item in evidence]
    widest = max((len(label) for label, _, _ in rows), default=0)
    detailed = max((len(place) for _, place, detail in rows if detail), default=0)
    for label, place, detail in rows:
        line = f"  {label:<{widest}}  {place}"
        if detail:
            line = f"{line:<{widest + 4 + detailed}}     {_DIM if colour else ''}{detail}{_RESET if colour else ''}"
        lines.append(line)
    return lines


def place(mark: Mark) -> str:
    """``file:line in function`` of a mark."""
    return _place(Evidence("", mark.site.resolve() if mark.site is not None else None))


def _indented(label: str, text: str) -> list[str]:
    first, *rest = [visible(line) for line in text.split("\n")]
    return [f"  {label}{first}", *(f"  {' ' * len(label)}{line}" for line in rest)]


def _place(item: Evidence) -> str:
    if item.site is None:
        return item.note or "place unknown"
    return f"{item.site.shown_path}:{item.site.line} in {item.site.function}"


def _detail(item: Evidence) -> str:
    parts = []
    if item.session:
        parts.append(f"session {item.session}")
    if item.note and item.site is not None:
        glue = " " if item.note.endswith(" here") or item.note.startswith("by ") else ", "
        parts = [f"{parts[0]}{glue}{item.note}" if parts else item.note]
    if item.task:
        parts.append(f"task {item.task}")
    elif item.thread and item.thread != "MainThread":
        parts.append(f"thread {item.thread}")
    return ", ".join(parts)
