"""Draws the dashboard over a Prometheus server: ``python -m dashboards.picture URL BUNDLE PICTURE [SECONDS]``.

The panels are Grafana's own UI components in a headless Chromium; no Grafana server is involved. ``BUNDLE`` is
the folder that ``npm run build`` in ``dashboards/render`` makes. ``nox -s picture`` does all of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .queries import CHOICES, FILE, filled, panels

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120.0  # seconds for the browser
COLUMN, ROW, GAP = 64, 30, 8  # pixels of the grid, as in render.tsx
# Seconds: a picture of five minutes shows what a dashboard shows of hours.
STEP, WINDOW = 2, 16  # of lines, and of their rates
BARS = 10  # the step of bars; each bar counts what happened since the one before


@dataclass(frozen=True)
class Panel:
    """A panel as it stands on the page."""

    title: str
    text: str  # all that can be read of it, also the title
    empty: bool  # "No data"
    cut: list[str]  # what of the legend has no room, and is to be scrolled for


@dataclass(frozen=True)
class Page:
    """What was drawn."""

    rows: list[str]  # their headings
    panels: list[Panel]
    links: list[str]  # of the first row of each table, with Grafana's variables for the data source and the time

    @property
    def empty(self) -> list[str]:
        """The titles of the panels without data."""
        return [panel.title for panel in self.panels if panel.empty]


def answers(server: str, start: int, end: int, job: str = ".*") -> dict[str, Any]:
    """What Prometheus says to every query of the dashboard, as the page takes it."""
    results = {}
    for panel in panels():
        step, window = (BARS, BARS + STEP) if "interval" in panel else (STEP, WINDOW)
        values = {"job": job, "instance": ".*", "__range": f"{end - start}s", **CHOICES}
        values |= {"__interval": f"{step}s", "__rate_interval": f"{window}s"}
        times = {"start": str(start), "end": str(end), "step": str(step)}
        for target in panel["targets"]:
            query = {"query": filled(target["expr"], values)}
            path, when = ("query", {"time": str(end)}) if target["instant"] else ("query_range", times)
            series = ask(server, path, query | when)
            results[f"{panel['id']}/{target['refId']}"] = {"step": step, "series": series}
    return {"from": start, "to": end, "results": results}


def ask(server: str, path: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
    """The series of one answer of Prometheus's HTTP API; HTTPError where it refuses the query."""
    with urllib.request.urlopen(f"{server}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
        series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return series


def draw(data: dict[str, Any], bundle: Path, picture: Path) -> Page:
    """Write the picture of these answers; RuntimeError where the page fails, or does not come to its end."""
    board = json.loads(FILE.read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = shutil.copytree(bundle, Path(name, "page"))
        (folder / "data.js").write_text(f"const board = {json.dumps(board)}, answers = {json.dumps(data)};")
        size = _size(board)
        command = [*_browser(), f"--window-size={size[0]},{size[1]}", f"--user-data-dir={name}/profile"]
        command += [f"--screenshot={picture.resolve()}", "--dump-dom", (folder / "page.html").as_uri()]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    found = re.search('<script type="text/plain" id="seen">(.*?)</script>', ended.stdout)
    if found is None:
        raise RuntimeError(f"the page did not come to its end:\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}")
    seen = json.loads(urllib.parse.unquote(found[1]))
    if seen["errors"] or seen["size"] != size:
        raise RuntimeError("\n".join(seen["errors"]) or f"the page is {seen['size']}, the picture {size}")
    return Page(seen["rows"], [Panel(**panel) for panel in seen["panels"]], seen["links"])


def _size(board: dict[str, Any]) -> list[int]:
    """The width and height of the board in pixels."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    return [24 * COLUMN + GAP, bottom * ROW + 2 * GAP]


def _browser() -> list[str]:
    """The command of a browser without a window, whose time runs as fast as it can."""
    path = next(path for name in BROWSERS if (path := shutil.which(name)))
    command = [path, "--headless", "--hide-scrollbars", "--disable-gpu", "--virtual-time-budget=20000"]
    return [*command, "--no-sandbox"] if os.geteuid() == 0 else command


if __name__ == "__main__":
    server, bundle, picture, *seconds = sys.argv[1:]
    now = int(time.time())
    for title in draw(answers(server, now - int(*seconds or ["300"]), now), Path(bundle), Path(picture)).empty:
        print(f"no data: {title}", file=sys.stderr)
