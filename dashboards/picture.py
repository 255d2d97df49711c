"""Draws the dashboard over a Prometheus server: ``python -m dashboards.picture URL BUNDLE PICTURE [SECONDS]``.

The panels are Grafana's own UI components in a headless Chromium; no Grafana server is involved. ``BUNDLE`` is
the folder that ``npm run build`` in ``dashboards/render`` makes. ``nox -s picture`` does all of it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from .queries import FILE, filled, panels

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE = "http://dashboard.invalid/"
# Seconds: a picture of five minutes shows what a dashboard shows of hours.
STEP, WINDOW = 2, 16  # of lines, and of their rates
BARS = 10  # the step of bars; each bar counts what happened since the one before


def answers(server: str, start: int, end: int) -> dict[str, Any]:
    """What Prometheus says to every query of the dashboard, as the page takes it."""
    results = {}
    for panel in panels():
        step, window = (BARS, BARS + STEP) if "interval" in panel else (STEP, WINDOW)
        values = {"job": ".*", "instance": ".*", "__rate_interval": f"{window}s", "__range": f"{end - start}s"}
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


def draw(data: dict[str, Any], bundle: Path, picture: Path) -> list[str]:
    """Write the picture of these answers; returns the titles of the panels that have no data."""
    from playwright.sync_api import sync_playwright

    browser = next(path for name in BROWSERS if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=browser, args=options)
        page = chromium.new_page(viewport={"width": 1560, "height": 2400})
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.route(PAGE, lambda route: route.fulfill(content_type="text/html", body="<!doctype html><body></body>"))
        page.goto(PAGE)  # a page with an address: Grafana's components ask for its local storage
        page.add_style_tag(path=bundle / "render.css")
        page.add_script_tag(path=bundle / "render.js")
        if not failures:
            page.evaluate("([board, data]) => window.draw(board, data)", [json.loads(FILE.read_text()), data])
            page.wait_for_function("document.fonts.ready.then(() => document.querySelector('#board') !== null)")
            page.wait_for_timeout(1500)  # plots are drawn in animation frames, and bars grow for a second
        if failures:
            raise SystemExit("\n".join(failures))
        page.locator("#board").screenshot(path=picture)
        empty = page.locator("section:has(.no-data)").all_inner_texts()
        chromium.close()
    return [text.partition("\n")[0] for text in empty]


if __name__ == "__main__":
    server, bundle, picture, *seconds = sys.argv[1:]
    now = int(time.time())
    for title in draw(answers(server, now - int(*seconds or ["300"]), now), Path(bundle), Path(picture)):
        print(f"no data: {title}", file=sys.stderr)
