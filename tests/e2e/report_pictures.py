"""The HTML report of the demonstration, as pictures: ``python -m tests.e2e.report_pictures FOLDER``.

Runs the faulty half of ``sessionwatch demo`` under ``sessionwatch run --format html`` and photographs the page.
``nox -s report`` makes docs/report-light.png and docs/report-dark.png, and docs/report-finding.png.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from sessionwatch import demo
from tests.tools import tool

WIDE, HIGH = 1400, 1480
OPENED = "detached-access"


def report(folder: Path) -> Path:
    """The page of a real run, on SQLite."""
    target = folder / "report.html"
    shop = folder / "shop.db"
    env = {name: value for name, value in os.environ.items() if not name.startswith("SESSIONWATCH_")}
    env |= {"DATABASE_URL": f"sqlite:///{shop}", "ASYNC_DATABASE_URL": f"sqlite+aiosqlite:///{shop}"}
    command = [sys.executable, "-m", "sessionwatch", "run", "--format", "html", "--output", str(target)]
    subprocess.run([*command, "-m", "faulty.main"], cwd=demo.FOLDER, env=env, check=True, stdout=subprocess.DEVNULL)
    return target


def photograph(page: Any, target: Path) -> None:
    """As much of the page as there is, from its top."""
    high = page.evaluate("document.body.scrollHeight")
    page.set_viewport_size({"width": WIDE, "height": min(HIGH, high)})
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=str(target))


def main(folder: Path) -> None:
    """Make the pictures."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as started:
        path = report(Path(name))
        browser = started.chromium.launch(executable_path=tool("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": WIDE, "height": HIGH})
            page.goto(path.as_uri())
            photograph(page, folder / f"report-{scheme}.png")
        page = browser.new_page(viewport={"width": WIDE, "height": HIGH})
        page.goto(path.as_uri())
        page.locator(".cause", has_text=OPENED).locator(".row").click()
        photograph(page, folder / "report-finding.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
