"""The format ``text``: a table by file, most work left first, then each anti-pattern at its line."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..changes import Changes
    from ..result import Audit, Entry, FileCount

_BOLD, _RED, _YELLOW, _DIM, _RESET = "\033[1m", "\033[31m", "\033[33m", "\033[2m", "\033[0m"
_WIDTH = 100
_COLUMNS = ("certain", "likely", "opened", "operations", "sync in async", "query()", "file")


def render(audit: Audit, changes: Changes | None, colour: bool) -> str:
    """The whole audit, at most 100 columns wide where paths allow it."""
    lines = [*_table(audit, colour), *_entries(audit, colour), *_by_pattern(audit)]
    lines += [f"not read: {each.path}: {each.error}" for each in audit.unparsed]
    lines += _changes(changes) if changes is not None else []
    return "\n".join([*lines, *_totals(audit, colour)]) + "\n"


def _painted(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{_RESET}" if colour and text.strip() else text


def _table(audit: Audit, colour: bool) -> list[str]:
    if not audit.files:
        return []
    widths = [max(len(name), 6) for name in _COLUMNS[:-1]]
    heading = "  ".join(f"{name:>{width}}" for name, width in zip(_COLUMNS, widths, strict=False))
    lines = [_painted(f"{heading}  {_COLUMNS[-1]}", _BOLD, colour)]
    for each in audit.files:
        cells = [str(number or "-").rjust(width) for number, width in zip(_figures(audit, each), widths, strict=True)]
        cells[0], cells[1] = _painted(cells[0], _RED, colour), _painted(cells[1], _YELLOW, colour)
        lines.append("  ".join([*cells, each.path]))
    return [*lines, ""]


def _figures(audit: Audit, count: FileCount) -> list[int]:
    work = audit.work(count.path)
    certain = sum(each.confidence == "certain" for each in work)
    return [
        certain,
        len(work) - certain,
        count.openings,
        count.operations,
        count.sync_in_async,
        count.legacy_queries,
    ]


def _entries(audit: Audit, colour: bool) -> list[str]:
    lines = []
    for path, group in groupby(audit.entries, key=lambda entry: entry.path):
        lines.append(_painted(path, _BOLD, colour))
        for entry in group:
            lines += _entry(entry, colour)
        lines.append("")
    return lines


def _entry(entry: Entry, colour: bool) -> list[str]:
    code = _RED if entry.confidence == "certain" else _YELLOW
    kind = _painted(entry.rule, code, colour and entry.counts)
    head = f"  {entry.line:>5}  {kind} ({entry.confidence}) in {entry.function}"
    if entry.seen is not None:
        head += ", seen by the run" if entry.seen else ", not seen by the run"
    lines = [head, *_wrapped(entry.message)]
    return [*lines, f"         allowed: {entry.allowed}"] if entry.allowed is not None else lines


def _wrapped(text: str) -> list[str]:
    lines, line = [], "        "
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = "        "
        line += " " + word
    return [*lines, line]


def _by_pattern(audit: Audit) -> list[str]:
    found = audit.by_pattern()
    width = max(map(len, found), default=0)
    lines = [
        f"  {name:<{width}}  {counts['certain']:>4} certain  {counts['likely']:>4} likely"
        for name, counts in found.items()
    ]
    return ["left to do:", *lines, ""] if lines else []


def _changes(changes: Changes) -> list[str]:
    lines = [f"since {changes.earlier}: {len(changes.gone)} gone, {len(changes.new)} new, {changes.stayed} left"]
    lines += [f"  gone  {each.path}:{each.line} {each.rule} in {each.function}" for each in changes.gone]
    lines += [f"  new   {each.path}:{each.line} {each.rule} in {each.function}" for each in changes.new]
    moved = {
        "operations": changes.operations,
        "sync in async": changes.sync_in_async,
        "query()": changes.legacy_queries,
    }
    told = ", ".join(f"{name} {number:+d}" for name, number in moved.items() if number)
    return [*lines, *([f"  {told}"] if told else []), ""]


def _totals(audit: Audit, colour: bool) -> list[str]:
    totals = audit.totals()
    found = (
        f"{totals['anti_patterns']} anti-patterns ({totals['certain']} certain, {totals['likely']} likely"
        + (f", {totals['allowed']} allowed" if totals["allowed"] else "")
        + f"), {totals['operations']} operations in {totals['openings']} sessions opened, "
        f"in {totals['files_with_sessions']} of {totals['files']} files"
    )
    return [_painted(found, _BOLD, colour)]
