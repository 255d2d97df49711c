"""The format ``html``: what stands in the file, without a browser. What the page does is in `test_html_page`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sessionwatch.output.html import page
from sessionwatch.output.html_data import Data, dumped, letters
from sessionwatch.output.sources import Sources
from sessionwatch.output.timeline import timeline
from tests.output.sample import BEGAN, HOSTILE, finding, hostile, occurrence, session, shop


def data_of(text: str) -> dict[str, Any]:
    """What the page's script is given."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


# -- one file, and nothing of the program is code in it -------------------------------------------------


def test_loads_nothing() -> None:
    """The file names no other file, and its policy forbids to load one."""
    text = page(*shop()[:1], {})
    markup = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert re.findall(r"(?:src|href|action)=(\S+)", markup) == ['"#causes">To']
    assert not re.search(r"url\(|@import", text.partition("<style>")[2].partition("</style>")[0])
    assert "default-src 'none'" in text
    assert "unsafe-inline" not in text


def test_is_inert_whatever_names_say() -> None:
    """No string of a finding or a recording gets into the file as markup, or with a character that does not show."""
    findings, recorded = hostile()
    text = page(findings, {"command": HOSTILE, "facts": [HOSTILE]}, recorded)
    assert text.count("<script") == 2
    assert "<img" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2028]", text)
    assert "\\x1b[31m" in data_of(text)["findings"][0]["message"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\tb\n", "a\tb\n"),
        ("\x1b", "\\x1b"),
        ("\u202eevil", "\\u202eevil"),
        ("\udc80", "\\udc80"),
        ("Größe", "Größe"),
        ("\U0001f40d", "\U0001f40d"),
        ("\U000e0041", "\\U000e0041"),
        ("\\x1b\r", "\\x1b\\r"),
        ('a"<b', 'a"<b'),
    ],
)
def test_shows_what_does_not_show(given: str, shown: str) -> None:
    """Control and format characters and lone surrogates are written as escapes; letters and tabs stay."""
    assert json.loads(dumped({given: [given]})) == {shown: [shown]}


def test_takes_any_object(tmp_path: Path) -> None:
    """A line with fields missing, or of the wrong type, makes a report, too."""
    odd = {"rule": 3, "evidence": "none", "chain": [None, 4], "count": "many", "session": [], "units": {"a": 1}}
    assert data_of(page([odd, {}], {}, [{"kind": "session", "marks": [7]}, {"kind": "finding"}]))["findings"]


# -- causes -------------------------------------------------------------------------------------------


def test_orders_causes() -> None:
    """Faults come before advice, new before known, then the rules' rank; what is allowed comes last."""
    made = Data([*shop()[0], finding(7, rule="session-leak", count=60)], None, ["cross-task", "lost-writes"])
    assert [cause["rule"] for cause in made.causes] == [
        "cross-task",
        "lost-writes",
        "session-leak",
        "detached-access",
        "n-plus-one",
        "lost-writes",
    ]


def test_names_what_has_to_change() -> None:
    """Where it is known, a cause shows the place that has to change, and the edit where that is certain."""
    change = {"path": "shop/repo.py", "line": 9, "function": "get"}
    diff = "--- a/shop/repo.py\n+++ b/shop/repo.py\n@@ -9 +9 @@\n-old\n+new\n"
    data = data_of(page([finding(1, change=change, diff=diff)], {}))
    assert data["sites"][data["causes"][0]["place"]] == ["shop/repo.py", 9, "get"]
    assert data["causes"][0]["diff"] == [["-", "old"], ["+", "new"]]


def test_groups_by_cause() -> None:
    """Findings of one cause are one row, the most frequent first, with letters and numbers of their own."""
    data = data_of(page(shop()[0], {}, rank=["lost-writes"]))
    assert [data["findings"][index]["id"] for index in data["causes"][0]["findings"]] == ["A1", "A2"]
    assert data["causes"][0]["title"].startswith("1 Order objects were written")


def test_links_last() -> None:
    """The link of a finding is its fingerprint; two of one fingerprint are told apart by their lines."""
    data = data_of(page([finding(1), finding(1, line=50)], {}))
    assert [one["anchor"] for one in data["findings"]] == [f"{1:016x}", f"{1:016x}-50"]


def test_letters_go_on() -> None:
    """After Z comes AA."""
    assert [letters(n) for n in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]


@pytest.mark.parametrize(
    ("fix", "words", "code"),
    [
        ("close it: `with Session() as session:`", "close it", "with Session() as session:"),
        ("load it with the query: .options(x(A.b))", "load it with the query", ".options(x(A.b))"),
        ("make the change before the session closes", "make the change before the session closes", ""),
    ],
)
def test_tells_the_fix_from_its_code(fix: str, words: str, code: str) -> None:
    """The column says what to do in words, and under it the code to paste."""
    cause = data_of(page([finding(1, fix=fix)], {}))["causes"][0]
    assert (cause["fix"], cause["code"]) == (words, code)


# -- source lines ---------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the program's, as old as the run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    path = tmp_path / "shop" / "views1.py"
    path.write_text("".join(f"line {n}\n" for n in range(1, 60)))
    os.utime(path, (BEGAN - 60, BEGAN - 60))
    return path


def test_shows_the_lines_around(source: Path) -> None:
    """A finding has three lines before and after its place."""
    lines = data_of(page([finding(1)], {}))["lines"]["shop/views1.py"]
    assert lines == {str(n): f"line {n}" for n in range(38, 45)}


def test_leaves_out_what_has_changed(source: Path) -> None:
    """Lines of a file that was written after the run began are left out, and the report says so."""
    os.utime(source, (BEGAN + 60, BEGAN + 60))
    data = data_of(page([finding(1)], {}))
    assert data["changed"] == ["shop/views1.py"]
    assert data["lines"]["shop/views1.py"] == {}


@pytest.mark.parametrize("name", ["secrets.txt", "key.pem", "../.netrc"])
def test_reads_python_only(name: str, tmp_path: Path) -> None:
    """A file of findings from elsewhere brings nothing but Python source into a report."""
    (tmp_path / "secrets.txt").write_text("secret\n")
    assert Sources(root=str(tmp_path)).line(name, 1) is None


# -- the picture ----------------------------------------------------------------------------------------


def test_says_that_nothing_was_recorded() -> None:
    """From findings alone there is no picture, and the report says how to get one."""
    data = data_of(page(shop()[0], {}))
    assert data["picture"] is None
    assert "sessionwatch run --format html" in data["run"]["unrecorded"]


def test_lanes() -> None:
    """Sessions stand on a lane per unit, else per thread; tasks that asyncio named share one."""
    made = timeline(shop()[1], shop()[0])
    assert made is not None
    assert [(lane.kind, lane.name) for lane in made.lanes] == [
        ("unit of work", "GET /orders/{id}"),
        ("thread", "stock-sync"),
        ("tasks", "asyncio tasks"),
        ("unit of work", "send_mail"),
        ("unit of work", "mark_sent"),
    ]


def test_links() -> None:
    """What came after the close is a touch, on the lane where it happened; two at work are both."""
    findings, recorded = shop()
    made = timeline(recorded, findings)
    assert made is not None
    links = {findings[link.finding]["rule"]: (link.kind, made.lanes[link.lane].name) for link in made.links}
    assert links == {"detached-access": ("touch", "send_mail"), "cross-task": ("both", "mark_sent")}


def test_evidence_has_times() -> None:
    """Each piece of evidence that the recording knows has its moment: the touch, the close, the load, the opening."""
    findings, recorded = shop()
    made = timeline(recorded, findings)
    assert made is not None
    assert [round(moment - BEGAN, 3) for moment in made.times[2] if moment is not None] == [0.22, 0.16, 0.122, 0.12]


def test_says_what_is_left_out() -> None:
    """The note names how many sessions were watched, and what of them is drawn."""
    made = timeline(shop()[1], shop()[0])
    assert made is not None
    assert made.note == "7 sessions of 40: all 5 with a finding, and a sample of the rest (2)."


def test_says_that_all_is_drawn() -> None:
    """A short run is drawn as a whole; where there were too many occurrences, their number is told."""
    made = timeline([session(1, 0, 0.1), {"kind": "totals", "seen": 1, "pid": 4711, "unnoted": 7}], [])
    assert made is not None
    assert made.note == (
        "The only session of the run, 0 with a finding. 7 more occurrences of findings were not recorded."
    )


def test_keeps_all_with_a_finding() -> None:
    """Of ten thousand sessions a sample stays, but every one with a finding."""
    recorded = [session(number, number / 100, number / 100 + 0.005) for number in range(1, 10_001)]
    recorded += [occurrence(number, number / 100 + 0.006) for number in range(1, 500)]
    made = timeline(recorded, [finding(number) for number in range(1, 501)])
    assert made is not None
    assert len(made.sessions) < 4_000
    assert sum(bool(one.findings) for one in made.sessions) == 499


def test_processes_are_told_apart() -> None:
    """Sessions of one label in two processes are two, on lanes of their own."""
    one = session(1, 0, 0.1, unit=None)
    made = timeline([one, one | {"pid": 4712}], [])
    assert made is not None
    assert [lane.name for lane in made.lanes] == ["MainThread, process 4711", "MainThread, process 4712"]
