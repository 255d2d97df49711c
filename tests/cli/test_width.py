"""Reports on a terminal are as wide as it is."""

from __future__ import annotations

import os
import re
import sys
import termios

import pytest

from tests.cli.programs import Place

COLUMNS = 72
LOSE = "import shop\nshop.lose(shop.make_engine())\n"


def on_a_terminal(place: Place, *argv: str) -> list[str]:
    """The lines that a process writes to a terminal of 72 columns."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (40, COLUMNS))
    streams = {"stdout": theirs, "stderr": theirs}
    with place.start(sys.executable, "-m", *argv, env={"NO_COLOR": "1"}, **streams) as process:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:  # the other end is closed
            pass
        assert process.wait() == 0, text.decode()
    os.close(ours)
    return text.decode().splitlines()


@pytest.mark.parametrize(
    "argv", ["sessionwatch run job.py", "sessionwatch report found.jsonl", "pytest -p no:cacheprovider"]
)
def test_a_report_is_as_wide_as_its_terminal(place: Place, argv: str) -> None:
    """run, report and pytest break what is longer at the terminal's width; without a terminal it is longer."""
    place.write("job.py", LOSE)
    place.write("test_it.py", f"def test_it():\n    {LOSE.replace(chr(10), '; ', 1)}")
    place.write("pytest.ini", "[pytest]\nsessionwatch = log\npythonpath = .\n")
    if argv.startswith("sessionwatch report"):
        place.sessionwatch("run", "--format", "json", "--output", "found.jsonl", "job.py")
    lines = on_a_terminal(place, *argv.split())
    lines = lines[next(place for place, line in enumerate(lines) if re.match("sessionwatch: 1 fault", line)) :]
    widths = [len(line) for line in lines if not line.startswith("=")]
    assert widths[2] == COLUMNS, lines  # the heading of a cause ends at the edge
    assert max(widths) == COLUMNS
