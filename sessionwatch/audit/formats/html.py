"""The format ``html``: one page without a network and without a script. All text is escaped."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..changes import Changes
    from ..result import Audit, Entry, FileCount

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; --certain: #b3261e; --likely: #8a6100 }
@media (prefers-color-scheme: dark) { :root { --certain: #ff8a80; --likely: #e6b450 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line) }
th { text-align: left; font-weight: 600 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
code, .path { font-family: ui-monospace, monospace; font-size: .92em } .certain { color: var(--certain) }
.likely { color: var(--likely) } .dim { color: var(--dim) } section { margin-top: 2rem } li { margin: .3rem 0 }
"""
_COLUMNS = ("certain", "likely", "opened", "operations", "sync in async", "query()")


def render(audit: Audit, changes: Changes | None, colour: bool) -> str:
    """The whole page. ``colour`` changes nothing."""
    totals = audit.totals()
    title = f"{totals['anti_patterns']} anti-patterns in {totals['files_with_sessions']} files"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}: sessionwatch audit</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
        f"<p>{escape(_summary(totals))}</p>",
        _changes(changes) if changes is not None else "",
        _patterns(audit),
        _files(audit),
        *(_entries(path, list(group)) for path, group in groupby(audit.entries, key=lambda entry: entry.path)),
        _unparsed(audit),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _summary(totals: dict[str, int]) -> str:
    return (
        f"{totals['certain']} certain, {totals['likely']} likely, {totals['allowed']} allowed; "
        f"{totals['operations']} operations in {totals['openings']} sessions opened; {totals['files']} files read"
    )


def _row(cells: list[str], name: str = "td") -> str:
    inner = "".join(f"<{name}{'' if number == 0 else ' class=n'}>{cell}</{name}>" for number, cell in enumerate(cells))
    return f"<tr>{inner}</tr>"


def _patterns(audit: Audit) -> str:
    rows = [
        _row([escape(name), str(counts["certain"]), str(counts["likely"])])
        for name, counts in audit.by_pattern().items()
    ]
    return f"<table>{_row(['anti-pattern', 'certain', 'likely'], 'th')}{''.join(rows)}</table>" if rows else ""


def _files(audit: Audit) -> str:
    rows = "".join(_file(audit, each) for each in audit.files)
    return f"<section><h2>Files</h2><table>{_row(['file', *_COLUMNS], 'th')}{rows}</table></section>"


def _file(audit: Audit, count: FileCount) -> str:
    work = audit.work(count.path)
    certain = sum(each.confidence == "certain" for each in work)
    figures = [
        certain,
        len(work) - certain,
        count.openings,
        count.operations,
        count.sync_in_async,
        count.legacy_queries,
    ]
    path = f'<span class="path">{escape(count.path)}</span>'
    linked = f'<a href="#{escape(_anchor(count.path))}">{path}</a>' if work else path
    return _row([linked, *(str(each or "") for each in figures)])


def _anchor(path: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in path)


def _entries(path: str, entries: list[Entry]) -> str:
    items = "".join(_entry(each) for each in entries)
    heading = f'<h2 id="{escape(_anchor(path))}" class="path">{escape(path)}</h2>'
    return f"<section>{heading}<ul>{items}</ul></section>"


def _entry(entry: Entry) -> str:
    seen = {None: "", True: ", seen by the run", False: ", not seen by the run"}[entry.seen]
    allowed = f' <span class="dim">allowed: {escape(entry.allowed)}</span>' if entry.allowed is not None else ""
    kind = f'<b class="{entry.confidence}">{escape(entry.rule)}</b>'
    where = (
        f'<span class="dim">line {entry.line} in <code>{escape(entry.function)}</code>, {entry.confidence}{seen}</span>'
    )
    return f"<li>{kind} {where}<br>{escape(entry.message)}{allowed}</li>"


def _changes(changes: Changes) -> str:
    told = f"Since {changes.earlier}: {len(changes.gone)} gone, {len(changes.new)} new, {changes.stayed} left."
    items = [("gone", each) for each in changes.gone] + [("new", each) for each in changes.new]
    rows = "".join(f"<li>{what}: {escape(each.rule)} {escape(each.path)}:{each.line}</li>" for what, each in items)
    return f"<section><h2>Changes</h2><p>{escape(told)}</p><ul>{rows}</ul></section>"


def _unparsed(audit: Audit) -> str:
    rows = "".join(f"<li><code>{escape(each.path)}</code>: {escape(each.error)}</li>" for each in audit.unparsed)
    return f"<section><h2>Not read</h2><ul>{rows}</ul></section>" if rows else ""
