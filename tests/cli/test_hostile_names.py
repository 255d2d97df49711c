"""Names come from programs, and from files that anybody may have written: none acts on a terminal or a job's log."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

from sessionwatch.model import Evidence, Finding, FindingError, Site
from sessionwatch.output import messages, sinks, text
from sessionwatch.output.escape import visible, visible_lines
from sessionwatch.output.report import Report
from sessionwatch.output.store import Store
from tests.cli.programs import Place

HOSTILE = (
    "\x1b[31mred\x07\r\n::error file=a.py::gone\n  ::stop-commands::x\n##[error]no\n"
    "##vso[task.complete]\u202egnp\u2028\ud800\x9b2J"
)
COMMANDS = re.compile(r"^\s*::|##\[|##vso\[")


def hostile() -> Finding:
    """A finding all of whose names are."""
    site = Site(HOSTILE, 3, HOSTILE)
    evidence = Evidence(HOSTILE, site, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    alone = Evidence(HOSTILE, None, note=HOSTILE)
    found = Finding(HOSTILE, "fault", HOSTILE, HOSTILE, site, (evidence, alone), HOSTILE, {"id": HOSTILE}, unit=HOSTILE)
    found.known_by = "0123456789abcdef"
    return found


def assert_harmless(shown: str) -> None:
    """Every line shows as it is, and none is a command."""
    shown.encode()
    for line in shown.split("\n"):
        assert visible(line) == line
        assert not COMMANDS.search(line)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Order", "Order"),
        ("Größe 订单 🚢", "Größe 订单 🚢"),
        ("a\tb\nc", r"a\tb\nc"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
        ("  ::error::x", r"  \x3a:error::x"),
        ("a::b", "a::b"),
        ("##[error]x", r"\x23#[error]x"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_what_is_shown(name: str, shown: str) -> None:
    """What does not show is written out; what does, in any script, stays; it is the same when it is done twice."""
    assert visible(name) == shown
    assert visible(shown) == shown


def test_lines_stay_lines() -> None:
    """A message of several lines keeps them."""
    assert visible_lines("a\n::b\x07") == "a\n\\x3a:b\\x07"


def test_a_story() -> None:
    """The story, which goes to the log, to exceptions and to pytest, is harmless in each line."""
    assert_harmless(messages.render(hostile()))
    assert_harmless(str(FindingError(hostile(), messages.render(hostile()))))


def test_colours_are_ours_alone() -> None:
    """On a terminal there are the escapes that we write, and no others."""
    shown = messages.render(hostile(), colour=True)
    assert set(re.findall(r"\x1b\[\d*m", shown)) == {"\x1b[1m", "\x1b[31m", "\x1b[2m", "\x1b[0m"}
    assert_harmless(re.sub(r"\x1b\[\d*m", "", shown))


def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A record of the log is harmless, whatever formats it."""
    with caplog.at_level(logging.WARNING, "sessionwatch"):
        sinks.log(hostile(), True)
    assert_harmless(caplog.records[0].getMessage())


def test_the_report() -> None:
    """So is the text report, with what processes said of themselves and allowances that matched nothing."""
    unused = [{"rules": [], "reason": HOSTILE, "text": HOSTILE}]
    notes: list[Any] = [{"event": "failed", "error": HOSTILE}, {"event": "lost", "error": HOSTILE}, {"unused": unused}]
    store = Store()
    store.meet(hostile(), 0)
    assert_harmless(text.render(Report(seen=list(store), notes=notes, unused=True)))


def test_a_file_of_findings(place: Place) -> None:
    """`report` shows a file that somebody else has written, and so does the table of a baseline."""
    record = {**hostile().as_json(), "pid": 1}
    place.write("found.jsonl", json.dumps(record) + "\n")
    outcome = place.sessionwatch("report", "found.jsonl")
    assert outcome.status == 0, outcome.err
    assert_harmless(outcome.out)
    entry = dict.fromkeys(("fingerprint", "rule", "subject", "path", "function"), HOSTILE)
    place.write("known.json", json.dumps({"schema": 1, "findings": [entry]}))
    assert_harmless(place.sessionwatch("baseline", "show", "--baseline", "known.json").out)
    assert_harmless(place.sessionwatch("report", HOSTILE.replace("\ud800", "")).err)


def test_a_program_with_such_names(place: Place) -> None:
    """From a real program to the report."""
    place.write(
        "job.py",
        """
        import threading, shop
        Evil = type("::error::\\x1b[31mEvil\\n::x", (shop.Base,), {
            "__tablename__": "evil", "__annotations__": {"id": shop.Mapped[int]},
            "id": shop.mapped_column(primary_key=True)})
        def lose(engine):
            session = shop.Session(engine)
            session.add(Evil())
            session.flush()
            session.close()
        engine = shop.make_engine("sqlite:///evil.db")
        thread = threading.Thread(target=lose, args=(engine,), name="\\x1b]0;title\\x07\\n::error::thread")
        thread.start()
        thread.join()
        """,
    )
    outcome = place.sessionwatch("run", "job.py")
    assert "sessionwatch: 1 fault" in outcome.err
    assert_harmless(outcome.err)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nothing", "is not a line of JSON"),
        ("[" * 100_000, "is not a line of JSON"),
        ("[1]", "is not a line of JSON"),
        ("{}", "is not a finding of sessionwatch"),
        ({"schema": 99}, "has schema 99"),
        ({"pid": "x"}, 'pid is "x"'),
        ({"pid": None}, "pid is null"),
        ({"pid": True}, "pid is true"),
        ({"rule": []}, "rule is []"),
        ({"message": {}}, "message is {}"),
        ({"fingerprint": 7}, "fingerprint is 7"),
        ({"subject": None}, "subject is null"),
        ({"line": "3"}, 'line is "3"'),
        ({"path": 3}, "path is 3"),
        ({"count": "many"}, 'count is "many"'),
        ({"count": 1.5}, "count is 1.5"),
        ({"evidence": "none"}, 'evidence is "none"'),
        ({"evidence": [3]}, "evidence has 3"),
        ({"evidence": [{"path": "x"}]}, "evidence without a label"),
        ({"evidence": [{"label": None}]}, "evidence: label is null"),
        ({"time": "yesterday"}, 'time is "yesterday"'),
        ({"allowed": 1}, "allowed is 1"),
        ({"fix": ["x"]}, 'fix is ["x"]'),
        ({"session": "S1"}, 'session is "S1"'),
        ({"unit": {"a": "b" * 100}}, "unit is {"),
    ],
)
@pytest.mark.parametrize("form", ["text", "html"])
def test_a_line_that_is_wrong(place: Place, line: Any, why: str, form: str) -> None:
    """A line that is no finding is an error that names the file, the line and what is wrong, not a traceback."""
    from sessionwatch.command.cli import main

    good = {**hostile().as_json(), "pid": 1}
    wrong = line if isinstance(line, str) else json.dumps({**good, **line})
    path = place.write("found.jsonl", f"{json.dumps(good)}\n{wrong}\n")
    errors: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: errors.append(" ".join(map(str, words))))
        assert main(["report", str(path), "--format", form]) == 2
    assert len(errors) == 1
    assert errors[0].startswith(f"sessionwatch: error: {path}:2 ")
    assert why in errors[0]
