"""The formats that show what sessions did, from whole programs: one process and many, killed and forked ones."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.cli.programs import LOST_LINE, Place

LOSE = "import shop\nengine = shop.make_engine()\nshop.lose(engine)\n"


def page_data(place: Place, name: str = "report.html") -> dict[str, Any]:
    """What a page's script is given."""
    found = re.search(r'id="data">(.*?)</script>', (place.path / name).read_text(), re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def run(place: Place, *argv: object, form: str = "html", name: str = "report.html") -> dict[str, Any]:
    outcome = place.sessionwatch("run", "--format", form, "--output", name, *argv)
    assert outcome.err == ""
    return page_data(place, name) if form == "html" else json.loads((place.path / name).read_text())


def test_html(place: Place) -> None:
    """The page of a run has the finding with its source line, and the session that it is of, lost."""
    place.write("job.py", LOSE)
    data = run(place, "job.py")
    (finding,) = data["findings"]
    assert data["lines"]["shop.py"][str(LOST_LINE)] == "    session.close()  # LOST"
    (session,) = data["picture"]["sessions"]
    assert (session["end"], session["f"], finding["rule"]) == ("lost", [0], "lost-writes")
    assert [mark[0] for mark in session["marks"]] == ["flush"]
    assert data["run"]["about"][0] == ["sessionwatch run job.py", True]


def test_arguments_are_not_shown(place: Place) -> None:
    """What a program was started with may be secret: the page names the program only."""
    place.write("job.py", LOSE)
    run(place, "job.py", "--password", "s3cret")
    assert "s3cret" not in (place.path / "report.html").read_text()


def test_trace(place: Place) -> None:
    """The trace of a run has the session as a slice, and the finding in it."""
    place.write("job.py", LOSE)
    events = run(place, "job.py", form="trace", name="trace.json")["traceEvents"]
    assert [event["name"] for event in events if event.get("cat") == "session"] == ["S1 lost"]
    assert [event["name"] for event in events if event.get("cat") == "finding"] == ["lost-writes"]


def test_children(place: Place) -> None:
    """Sessions of child processes, forked or started, are in the picture on lanes of their own."""
    place.write("child.py", LOSE)
    place.write(
        "job.py",
        LOSE + "import os, subprocess, sys\n"
        "subprocess.run([sys.executable, 'child.py'], check=True)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    shop.lose(engine)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n",
    )
    data = run(place, "job.py")
    assert [session["end"] for session in data["picture"]["sessions"]] == ["lost"] * 3
    assert len({lane["name"] for lane in data["picture"]["lanes"]}) == 3
    assert sum(finding["count"] for finding in data["findings"]) == 3


def test_killed(place: Place) -> None:
    """What was recorded before a process was killed is there."""
    place.write("job.py", LOSE + "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    data = run(place, "job.py")
    assert [session["end"] for session in data["picture"]["sessions"]] == ["lost"]


def test_open_at_the_end(place: Place) -> None:
    """A session that is open when the program ends has no end in the picture."""
    place.write("job.py", "import shop\nsession = shop.Session(shop.make_engine())\nsession.connection()\n")
    data = run(place, "job.py")
    (session,) = data["picture"]["sessions"]
    assert (session["end"], session["t"][1]) == ("leaked", None)


def test_program_with_its_own_installation(place: Place) -> None:
    """A program that installs sessionwatch itself is recorded all the same."""
    place.write("job.py", "import sessionwatch\nsessionwatch.install(log=False)\n" + LOSE)
    assert [session["end"] for session in run(place, "job.py")["picture"]["sessions"]] == ["lost"]


def test_no_session(place: Place) -> None:
    """A program that opens no session makes a page that says so."""
    place.write("job.py", "import sqlalchemy.orm\n")
    data = run(place, "job.py")
    assert (data["picture"], data["run"]["unrecorded"]) == (None, "No session was opened.")


def test_other_formats_record_nothing(place: Place) -> None:
    """The text's run makes no recording."""
    place.write(
        "job.py", LOSE + "from sessionwatch.watch.installation import current\nprint(current().audience.recording)\n"
    )
    assert place.sessionwatch("run", "job.py").out == "None\n"


def test_several_reports(place: Place) -> None:
    """One run makes as many reports as are asked for, beside the text on stderr."""
    place.write("job.py", LOSE)
    outcome = place.sessionwatch("run", "--report", "html:report.html", "--report", "json:found.jsonl", "job.py")
    assert "lost-writes" in outcome.err
    assert page_data(place)["picture"] is not None
    assert len(place.findings("found.jsonl")) == 1


@pytest.mark.parametrize("wrong", ["html", "htm:report.html", "html:nowhere/report.html"])
def test_report_that_cant_be_made(place: Place, wrong: str) -> None:
    """A mistake in --report is told before the program starts."""
    place.write("job.py", "print('started')")
    outcome = place.sessionwatch("run", "--report", wrong, "job.py")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("sessionwatch: error: ")


def test_from_findings_alone(place: Place) -> None:
    """`sessionwatch report` makes the page of a file of findings, without a picture, and says how to get one."""
    place.write("job.py", LOSE)
    place.run("job.py")
    outcome = place.sessionwatch("report", "findings.jsonl", "--format", "html", "--output", "report.html")
    assert outcome.status == 0
    data = page_data(place)
    assert data["picture"] is None
    assert data["findings"][0]["rule"] == "lost-writes"
