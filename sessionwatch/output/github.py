"""The format ``github``: workflow commands, which annotate the lines of a pull request, and a job summary.

The summary goes to the file that ``GITHUB_STEP_SUMMARY`` names; where it names none, only the commands are made.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from .causes import Cause, causes
from .escape import visible, visible_lines

if TYPE_CHECKING:
    from .report import Report

_COMMANDS = {"fault": "error", "advice": "warning"}
_MOST = 50  # annotations; GitHub shows 10 of each kind per step


def render(report: Report) -> str:
    """A command per cause that is new; the summary is written besides."""
    found = causes(item for item in report.seen if not item.finding.covered)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with contextlib.suppress(OSError), open(summary, "a", encoding="utf-8") as file:
            file.write(markdown(report, found))
    return "".join(f"{_command(cause)}\n" for cause in found[:_MOST]) + f"{report.totals()}\n"


def markdown(report: Report, found: list[Cause]) -> str:
    """The summary of the job."""
    lines = ["### sessionwatch", "", _markdown(report.totals().removeprefix("sessionwatch: ")), ""]
    if found:
        lines += ["| | rule | place | what happened | fix | times |", "|---|---|---|---|---|---:|"]
    for cause in found:
        finding = cause.first
        place = f"`{finding.path}:{finding.line}`" if finding.path else "unknown"
        more = f" and {len(cause.places) - 1} more" if len(cause.places) > 1 else ""
        cells = [cause.letter, finding.rule, f"{place}{more}", finding.message, finding.fix, str(cause.times)]
        lines.append("| " + " | ".join(_markdown(visible_lines(cell)) for cell in cells) + " |")
    return "\n".join(lines) + "\n\n"


def _command(cause: Cause) -> str:
    finding = cause.first
    properties = {"title": f"sessionwatch: {finding.rule}"}
    if finding.path is not None:
        properties = {"file": finding.path, "line": str(finding.line), **properties}
    callers = [f"{frame.shown_path}:{frame.line} in {frame.function}" for frame in finding.chain[1:4]]
    text = (
        visible(finding.message)
        + (f"\ncalled from {' < '.join(callers)}" if callers else "")
        + f"\nfix: {visible_lines(finding.fix)}"
    )
    listed = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items())
    return f"::{_COMMANDS[finding.severity]} {listed}::{_escaped(text)}"


def _escaped(text: str, more: str = "") -> str:
    for char in "%\r\n" + more:
        text = text.replace(char, f"%{ord(char):02X}")
    return text


def _markdown(text: str) -> str:
    """One cell: nothing in it is markup of its own, but for code that is written as such."""
    for char, shown in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\n", "<br>")):
        text = text.replace(char, shown)
    return text
