"""The format ``html``: one file without a network, drawn by a script inside of it.

Everything that comes from the program is data in it: a block of JSON that no browser runs, from which the script
makes text nodes. A policy in the file allows its own script and style, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from .causes import causes, changes
from .edits import diff, edit
from .html_data import Data, dumped
from .timeline import Json, items

if TYPE_CHECKING:
    from .report import Report

_SCRIPTS = (
    "1_data.js",
    "2_glyphs.js",
    "3_axis.js",
    "4_layout.js",
    "5_picture.js",
    "6_bars.js",
    "7_list.js",
    "8_filters.js",
    "9_page.js",
)
_MOST_EDITS = 200  # causes: each takes reading and parsing a file
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&"}


def render(report: Report) -> str:
    """The whole report."""
    found = _found(report)
    failures = [line.removeprefix("sessionwatch: ") for line in report.failures()]
    facts = [*failures, *items(report.about, "facts")]
    about = {**report.about, "facts": facts, "incomplete": bool(failures)}
    return page(found, about, report.recording, report.rank)


def _found(report: Report) -> list[Json]:
    """The findings as they are written, with the place that has to change, and the edit where that is certain."""
    found: dict[int, dict[str, object]] = {}
    for seen in report.seen:
        site = changes(seen.finding)
        change = site.as_json() if site is not None else None
        found[id(seen.finding)] = {**seen.record(), "change": change}
    for cause in causes(report.seen)[:_MOST_EDITS]:
        made = edit(cause.first)
        if made is not None:
            found[id(cause.first)]["diff"] = diff([made])
    return list(found.values())


def page(
    findings: Sequence[Json], about: Json, recording: Iterable[Json] | None = None, rank: Sequence[str] = ()
) -> str:
    """The whole report as the text of one HTML file.

    Args:
        findings: merged ones, as they are written to JSON Lines. Besides that, ``change`` may be the place that has to
            change, and ``diff`` a unified diff of the edit where that is certain.
        about: ``command``, ``began``, ``seconds``, ``facts`` (a list of strings) of the run; any may be missing.
        recording: the lines of the recording, where one was made.
        rank: the rules' slugs, most important first.
    """
    data = Data(findings, recording, rank)
    root = data.root(about)
    faults = sum(one["severity"] == "fault" for one in data.causes)
    title = f"{faults} faults, {len(data.causes) - faults} pieces of advice: sessionwatch report"
    script = '"use strict";(() => {\n' + "\n".join(map(_asset, _SCRIPTS)) + "\n})();"
    style = _asset("style.css")
    filled = {
        "title": html.escape(title),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": dumped(root).translate(_ESCAPES),
    }
    return re.sub(r"\{([a-z_]+)\}", lambda found: filled[found[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("html_page", name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
