"""The report of a run: text for people, JSON Lines for tools, and the exit status that ``--fail`` asks for."""

from __future__ import annotations

import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sessionwatch.output import formats, records, report
from sessionwatch.output.store import Store
from tests.cli.programs import LOST_LINE, Place

SCHEMA = json.loads((resources.files("sessionwatch") / "schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

LOSE = "import shop\nengine = shop.make_engine()\nshop.lose(engine)\n"
KEEP = "import shop\nshop.keep(shop.make_engine())\n"
ALLOWED = """
import sessionwatch, shop
engine = shop.make_engine()
with sessionwatch.allow("lost-writes", reason="a dry run"):
    shop.lose(engine)
    shop.lose(engine)
"""


@pytest.fixture
def job(place: Place) -> Place:
    """``job.py`` loses one order."""
    place.write("job.py", LOSE)
    return place


def test_text_on_stderr(job: Place) -> None:
    """The story of a finding goes to stderr after the program's own words, with the totals in the last line."""
    job.write("job.py", LOSE + "print('out'); import sys; print('err', file=sys.stderr)")
    outcome = job.sessionwatch("run", "job.py")
    assert (outcome.status, outcome.out) == (0, "out\n")
    lines = outcome.err.splitlines()
    assert lines[0] == "err"
    assert lines[1] == "sessionwatch: 1 fault"
    assert re.fullmatch(r"A  FAULT  lost-writes  Order +1 place", lines[3])
    assert lines[4] == "   1 Order object was written, but the session was closed without a commit"
    assert re.fullmatch(rf" +{LOST_LINE} \| session\.close\(\)  # LOST +shop\.py", lines[5])
    assert re.match(rf"     closed +shop\.py:{LOST_LINE} in lose", lines[6])
    assert "     called from  job.py:3 in <module>" in lines
    assert lines[-2:] == ["more: sessionwatch explain lost-writes", f"next: start with A, at shop.py:{LOST_LINE - 1}"]


def test_same_finding_is_counted(job: Place) -> None:
    """A finding that happened again is shown once, with how often and in how many processes."""
    again = "for _ in range(2):\n    shop.lose(engine)\n"
    child = "import subprocess, sys\nif sys.argv[1:]: subprocess.call([sys.executable, 'job.py'])"
    job.write("job.py", f"{LOSE}{again}{child}")
    text = job.sessionwatch("run", "job.py", "child").err
    assert text.count("closed without a commit") == 1
    assert "1 place, 2 processes, 6 times\n" in text


TWO = """
import os, shop
engine = shop.make_engine()
def main():
    for _ in range(3):
        session = shop.Session(engine)
        session.add(shop.Order())
        session.flush()
        session.close()
    session = shop.Session(engine)
    session.add(shop.Order())
    session.flush()
    session.close()
    os._exit(0)
main()
"""


def test_lines_of_one_function_are_told_apart(job: Place) -> None:
    """Two mistakes in one function are two findings at two places, each counted by itself whatever ends the program."""
    job.write("job.py", TWO)
    text = job.sessionwatch("run", "job.py").err
    assert text.startswith("sessionwatch: 1 fault: one edit ends all two findings\n")
    assert "2 places, 4 times\n" in text
    assert "closed       job.py:9 in main" in text
    assert "also  job.py:13\n" in text
    assert [(line["line"], line["count"]) for line in job.run("job.py")[1]] == [(9, 1), (13, 1), (9, 3)]


def test_no_finding(place: Place) -> None:
    """Where there is nothing to say, that is said in one line."""
    place.write("job.py", KEEP)
    outcome = place.sessionwatch("run", "--fail", "job.py")
    assert (outcome.status, outcome.err) == (0, "sessionwatch: no findings\n")


def test_text_in_a_file(job: Place) -> None:
    """``--output`` takes the report, in place of what the file held, and leaves stderr to the program."""
    job.write("report.txt", "old\n" * 1000)
    outcome = job.sessionwatch("run", "--output", "report.txt", "job.py")
    assert (outcome.status, outcome.err) == (0, "")
    text = (job.path / "report.txt").read_text()
    assert text.startswith("sessionwatch: 1 fault\n")
    assert "old" not in text


def test_json_lines_are_valid(job: Place) -> None:
    """Every line is valid against the schema; the last one of a repeated finding has its count."""
    job.write("job.py", LOSE + "shop.lose(engine)\nsession = shop.Session(engine)\nsession.add(shop.Order())\n")
    outcome, findings = job.run("job.py")
    assert (outcome.status, outcome.err) == (0, "")
    for finding in findings:
        VALIDATOR.validate(finding)
    lost = [finding for finding in findings if finding["function"] == "lose"]
    assert [finding["count"] for finding in lost] == [1, 2]
    assert lost[0] == {**lost[1], "count": 1}


QUERIES = """
import os, shop, sys
from sqlalchemy import select
engine = shop.make_engine()
for _ in range(20):
    shop.keep(engine)

def ask():
    with shop.Session(engine) as session:
        for order in session.scalars(select(shop.Order)).all():
            session.expire(order)
            order.status
"""


@pytest.mark.parametrize("end", ["", "os._exit(0)", "os.abort()"])
def test_final_number_of_queries(job: Place, end: str) -> None:
    """A finding of ``n-plus-one`` is written with the number of queries then, and at last with that of all of them."""
    job.write("job.py", f"{QUERIES}ask()\n{end}")
    told = "Order.status was refreshed for one Order at a time, by a query each"
    findings = job.run("job.py")[1]
    assert [(finding["message"], finding["count"]) for finding in findings] == [(told, 5), (told, 20)]
    text = job.sessionwatch("run", "job.py").err
    assert f"   job.py:12 in ask: {told}\n" in text
    assert "1 place, 20 times\n" in text


def test_final_number_of_queries_of_several_processes(job: Place) -> None:
    """It is added up in the text, as counts are; what a child inherits is not."""
    job.write("job.py", f"{QUERIES}ask()\nask()\nif not (child := os.fork()):\n    ask()\n    os._exit(0)\nos.wait()\n")
    findings = {finding["pid"]: finding["count"] for finding in job.run("job.py")[1]}
    assert sorted(findings.values()) == [20, 40]
    text = job.sessionwatch("run", "job.py").err
    assert "1 place, 2 processes, 60 times\n" in text


def test_final_number_of_queries_is_that_of_the_programs_own_installation(job: Place) -> None:
    """What was counted before, in and after an installation of the program's is added up."""
    own = "import sessionwatch\nwith sessionwatch.watching(log=False) as watch:\n    ask(); ask()\n"
    job.write("job.py", f"{QUERIES}ask()\n{own}print(watch.status()['findings'])\nask()\n")
    outcome, findings = job.run("job.py")
    assert outcome.out == "{'n-plus-one': 40}\n"
    assert [finding["count"] for finding in findings] == [5, 80]


@pytest.mark.parametrize(
    "change",
    [
        {"rule": None}, {"count": 0}, {"fingerprint": "abc"}, {"unknown": 1}, {"time": "2026-11-20"}, {"schema": 3},
        {"evidence": [{"label": "closed"}]}, {"session": {"id": "S1"}}, {"line": 0}, {"severity": "warning"},
    ],
)  # fmt: skip
def test_schema_is_strict(job: Place, change: dict[str, Any]) -> None:
    """The schema refuses a line with a wrong, missing or unknown field."""
    finding = job.run("job.py")[1][0]
    VALIDATOR.validate(finding)
    assert not VALIDATOR.is_valid({**finding, **change})
    assert not VALIDATOR.is_valid({name: value for name, value in finding.items() if name != "allowed"})


def test_json_on_stderr(job: Place) -> None:
    """Without ``--output`` the lines follow what the program wrote to stderr."""
    outcome = job.sessionwatch("run", "--format=json", "job.py")
    assert [json.loads(line)["rule"] for line in outcome.err.splitlines()] == ["lost-writes"]


def test_json_into_a_pipe(job: Place) -> None:
    """``--output`` may be something else than a file, such as a descriptor that the caller has opened."""
    reader, writer = os.pipe()
    outcome = job.sessionwatch("run", "--format=json", f"--output=/dev/fd/{writer}", "job.py", pass_fds=[writer])
    os.close(writer)
    with open(reader) as stream:
        assert [json.loads(line)["rule"] for line in stream] == ["lost-writes"]
    assert (outcome.status, outcome.err) == (0, "")


def test_json_follows_the_output_file_from_another_folder(job: Place) -> None:
    """A program that changes its folder before it imports SQLAlchemy writes to the file that was named."""
    job.write("job.py", "import os, sys; sys.path.insert(0, os.getcwd()); os.chdir('/')\n" + LOSE)
    _, findings = job.run("job.py")
    assert [finding["path"] for finding in findings] == [str(job.path / "shop.py")[1:]]


@pytest.mark.parametrize(
    ("source", "status"), [(LOSE, 1), (KEEP, 0), (ALLOWED, 0), (LOSE + "raise SystemExit(3)", 3), ("", 0)]
)
def test_fail(place: Place, source: str, status: int) -> None:
    """``--fail`` turns 0 into 1 where a finding is not allowed, and leaves any other exit status alone."""
    place.write("job.py", source)
    assert place.sessionwatch("run", "--fail", "job.py").status == status
    assert place.sessionwatch("run", "job.py").status == (3 if status == 3 else 0)


def test_fail_says_why(job: Place) -> None:
    """Where the report is in a file, one line on stderr tells what ``--fail`` has found."""
    outcome = job.sessionwatch("run", "--fail", "--output", "report.txt", "job.py")
    assert (outcome.status, outcome.err) == (1, "sessionwatch: 1 finding (1 lost-writes); see report.txt\n")


UNWATCHED = [
    ("output = '/nonexistent/x'", "ConfigError: output /nonexistent/x can't be written: No such file or directory"),
    (
        "baseline = '/dev/null'",
        "ConfigError: baseline /dev/null can't be read: it is not a regular file",
    ),
]


@pytest.mark.parametrize(("setting", "error"), UNWATCHED, ids=["output", "baseline"])
def test_fail_where_nothing_was_watched(job: Place, setting: str, error: str) -> None:
    """``--fail`` turns 0 into 2 where a process could not be watched, and says why whatever the format."""
    job.write("pyproject.toml", f"[tool.sessionwatch]\n{setting}\n")
    told = f"sessionwatch: 1 process not watched: {error}"
    last = "sessionwatch: incomplete, because not everything could be watched"
    for options, lines in [
        (["--fail"], [told, last]),
        (["--fail", "--format", "json"], [told]),
        (["--fail", "--output", "report"], [told, f"{last}; see report"]),
        (["--fail", "--format", "json", "--output", "report"], [told, f"{last}; see report"]),
    ]:
        outcome = job.sessionwatch("run", *options, "job.py")
        assert (outcome.status, outcome.err.splitlines()) == (2, lines)
    assert job.sessionwatch("run", "job.py").status == 0
    job.write("job.py", LOSE + "raise SystemExit(3)")
    assert job.sessionwatch("run", "--fail", "job.py").status == 3


def test_fail_where_another_process_was_not_watched(job: Place) -> None:
    """A finding comes before a process that could not be watched."""
    job.write("child.py", LOSE)
    child = "subprocess.call([sys.executable, 'child.py'], env={**os.environ, 'SESSIONWATCH_MODE': 'loud'})"
    for own, status in ((KEEP, 2), (LOSE, 1)):
        job.write("job.py", f"import os, subprocess, sys\n{own}{child}\n")
        outcome = job.sessionwatch("run", "--fail", "job.py")
        assert outcome.status == status
        assert "sessionwatch: 1 process not watched: ConfigError: unknown mode 'loud' (environment)" in outcome.err


def test_baseline_covers(job: Place) -> None:
    """A finding in the baseline is counted as known, and ``--fail`` lets it pass."""
    fingerprint = job.run("job.py")[1][0]["fingerprint"]
    job.write("baseline.json", json.dumps({"findings": [{"fingerprint": fingerprint, "caller": ""}]}))
    outcome = job.sessionwatch("run", "--fail", "job.py", env={"SESSIONWATCH_BASELINE": "baseline.json"})
    assert (outcome.status, outcome.err) == (0, "sessionwatch: no findings, 1 known\n")


def test_allowed_findings_are_only_counted(place: Place) -> None:
    """What an allowance covers has no story, and is in the totals."""
    place.write("job.py", ALLOWED + "shop.lose(engine)")
    text = place.sessionwatch("run", "job.py").err
    assert text.count("closed without a commit") == 1
    assert text.startswith("sessionwatch: 1 fault, 2 allowed\n")


def test_unused_allowances(place: Place) -> None:
    """``--unused-allows`` names the allowances that covered nothing in any process, and no other one."""
    job = """
        import os, shop, sessionwatch
        engine = shop.make_engine()
        with sessionwatch.allow("session-leak", reason="never needed"):
            shop.keep(engine)
        with sessionwatch.allow("lost-writes", reason="needed in the child"):
            if not (child := os.fork()):
                shop.lose(engine)
                os._exit(0)
            os.waitpid(child, 0)
        shop.keep(engine)  # sessionwatch: allow lost-writes -- for no reason
    """
    place.write("job.py", job)
    text = place.sessionwatch("run", "--unused-allows", "job.py").err
    assert text.splitlines() == [
        "sessionwatch: allowances that matched nothing:",
        "  job.py:4: allow session-leak -- never needed",
        "  job.py:11: allow lost-writes -- for no reason",
        "",
        "sessionwatch: no findings, 1 allowed",
    ]
    assert "never needed" not in place.sessionwatch("run", "job.py").err


@pytest.mark.parametrize("options", [["--mode", "strict"], ["--rules", "lost-writes=raise"]])
def test_strict_raises_in_the_program(job: Place, options: list[str]) -> None:
    """A rule that is set to ``raise`` raises in the program, and is reported too."""
    outcome = job.sessionwatch("run", *options, "job.py")
    assert outcome.status == 1
    assert "FindingError: lost-writes: 1 Order object was written" in outcome.err
    assert "\nsessionwatch: 1 fault\n" in f"\n{outcome.err}"


def test_rules_and_environment_are_merged(job: Place) -> None:
    """``--rules`` comes before the environment, a rule at a time."""
    off = job.sessionwatch("run", "--fail", "job.py", env={"SESSIONWATCH_RULES": "lost-writes=off"})
    on = ["run", "--fail", "--rules", "lost-writes=log,session-leak=off", "--rules", "detached-touch=log", "job.py"]
    assert off.status == 0
    assert job.sessionwatch(*on, env={"SESSIONWATCH_RULES": "lost-writes=off"}).status == 1


def test_configured_output_is_written_too(job: Place) -> None:
    """Findings also go to the ``output`` of the configuration, after what is in it already."""
    job.write("pyproject.toml", '[tool.sessionwatch]\noutput = "all.jsonl"\n')
    for runs in (1, 2):
        outcome = job.sessionwatch("run", "job.py")
        assert "FAULT  lost-writes" in outcome.err
        assert [finding["rule"] for finding in job.findings("all.jsonl")] == ["lost-writes"] * runs


@pytest.mark.parametrize(
    "call", ["install()", "install(mode='strict')", "install(mode='telemetry')", "install(output='own.jsonl')"]
)
@pytest.mark.parametrize("first", ["", "import sqlalchemy.orm\n"])
def test_program_that_installs_by_itself(job: Place, first: str, call: str) -> None:
    """A program that installs sessionwatch by itself gets what it asked for, and is reported about as well."""
    job.write("job.py", f"{first}import sessionwatch\nwatch = sessionwatch.{call}\n{LOSE}print(watch.findings)\n")
    expected = job.python("job.py")
    own = job.findings("own.jsonl") if "own.jsonl" in call else None
    job.write("own.jsonl", "")
    outcome = job.sessionwatch("run", "--output", "report.txt", "job.py")
    assert (outcome.status, outcome.err) == (expected.status, expected.err)
    assert outcome.out.count("Finding(") == expected.out.count("Finding(") == ("strict" not in call)
    assert (job.path / "report.txt").read_text().startswith("sessionwatch: 1 fault\n")
    if own is not None:
        assert [finding["fingerprint"] for finding in job.findings("own.jsonl")] == [own[0]["fingerprint"]]


def test_program_that_watches_a_block(job: Place) -> None:
    """What happens before, in and after a ``watching()`` block of the program's is reported."""
    block = "import sessionwatch\nwith sessionwatch.watching(log=False) as watch:\n    shop.lose(engine)\n"
    job.write("job.py", LOSE + block + "assert len(watch.findings) == 1\nshop.lose(engine)\n")
    assert [finding["count"] for finding in job.run("job.py")[1]] == [1, 3]


def test_pytest_plugin_in_the_program(job: Place) -> None:
    """Tests that run under the plugin, in strict mode, fail as they would, and are reported about too."""
    job.write("pytest.ini", "[pytest]\nsessionwatch = strict\n")
    job.write("test_job.py", "import shop\ndef test(): shop.lose(shop.make_engine())\n")
    arguments = ["-m", "pytest", "-p", "sessionwatch.pytest_plugin", "-p", "no:cacheprovider"]
    outcome = job.sessionwatch("run", *arguments, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert outcome.status == 1
    assert "FAILED test_job.py::test - lost-writes: 1 Order object was written" in outcome.out
    assert "\nsessionwatch: 1 fault\n" in f"\n{outcome.err}"


def test_pytest_plugin_as_it_is_installed(job: Place) -> None:
    """pytest imports an installed plugin, and all of its package, out of our sight: there is one installation still."""
    job.write("pytest.ini", "[pytest]\nsessionwatch = strict\n")
    job.write("early.py", "import pytest\npytest.register_assert_rewrite('sessionwatch')\n")
    job.write("test_job.py", "import shop\ndef test(): shop.lose(shop.make_engine())\n")
    arguments = ["-m", "pytest", "-p", "early", "-p", "sessionwatch.pytest_plugin", "-p", "no:cacheprovider"]
    outcome = job.sessionwatch("run", *arguments, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert outcome.status == 1
    story = "lost-writes: 1 Order object was written, but the session was closed without a commit"
    assert f"\nE       sessionwatch.model.FindingError: {story}\n" in outcome.out
    assert outcome.err.startswith("sessionwatch: 1 fault\n")
    assert f"\n   {story.partition(': ')[2]}\n" in outcome.err
    assert "\nsessionwatch: 1 fault\n" in f"\n{outcome.err}"


def test_no_log_records(job: Place) -> None:
    """The report stands in for the log: the program's own logging has no record of ours."""
    job.write("job.py", "import logging; logging.basicConfig(level=0, format='%(name)s')\n" + LOSE)
    outcome = job.sessionwatch("run", "--output", "report.txt", "job.py")
    assert "sessionwatch" not in outcome.err


def test_interpreter_that_cannot_be_watched(place: Place) -> None:
    """A process in which sessionwatch can't be installed runs on, and the report says that it was not watched."""
    place.write("wrapt.py", "raise ImportError('this wrapt is broken')")
    place.write("job.py", LOSE + "print('done')")
    outcome = place.sessionwatch("run", "job.py", env={"PYTHONPATH": f"{place.env['PYTHONPATH']}{os.pathsep}."})
    assert (outcome.status, outcome.out) == (0, "done\n")
    assert outcome.err.splitlines() == [
        "sessionwatch: 1 process not watched: ImportError: this wrapt is broken",
        "sessionwatch: incomplete, because not everything could be watched",
    ]


def test_closed_stderr(job: Place) -> None:
    """A report that nobody can read changes nothing."""
    command = ["sh", "-c", '"$@" 2>&-', "sh", os.sys.executable, "-m", "sessionwatch", "run", "job.py"]  # type: ignore[attr-defined]
    outcome = job.execute(*command)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")


def test_nothing_is_left_behind(job: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The private folder is gone after the run, also after one that ended by a signal."""
    folder = tmp_path_factory.mktemp("tmp")
    job.sessionwatch("run", "job.py", env={"TMPDIR": str(folder)})
    job.write("job.py", LOSE + "import os; os.abort()")
    job.sessionwatch("run", "job.py", env={"TMPDIR": str(folder)})
    assert list(folder.iterdir()) == []


# -- the text by itself -----------------------------------------------------------------------------


def record(pid: int = 1, count: int = 1, **fields: Any) -> dict[str, Any]:
    plain = {"rule": "lost-writes", "message": "it was lost", "fingerprint": "0" * 16, "path": "a.py", "line": 3}
    return {**plain, "function": "f", "pid": pid, "count": count, "fix": "commit", "schema": 1, **fields}


def shown(lines: list[Any], form: str = "text") -> str:
    """A report of lines that were written."""
    return formats.find(form)(report.Report(seen=list(Store.of(lines))))


def test_counts_are_merged() -> None:
    """The last line of a process counts, processes are added, and the allowed ones stay apart."""
    lines = [record(1), record(2), record(1, 5), record(2, 3), record(1, allowed="why")]
    assert [(seen.count, seen.finding.allowed) for seen in Store.of(lines)] == [(8, None), (1, "why")]
    lines = [record(1), record(1, line=9), record(1, 2), record(2, 3, line=9)]
    assert [(seen.finding.line, seen.count) for seen in Store.of(lines)] == [(3, 2), (9, 4)]


def test_grouped_by_cause() -> None:
    """What one change ends stands together, with its places."""
    lines = [
        record(fingerprint="1", message="first"),
        record(fingerprint="2", message="elsewhere", line=9),
        record(fingerprint="3", message="leak", rule="session-leak"),
        record(fingerprint="4", message="same place"),
    ]
    text = shown(lines)
    words = ["2 faults: two edits end all four findings", "A  FAULT  lost-writes", "2 places", "first"]
    words += ["also  a.py:9", "B  FAULT  session-leak", "1 place", "leak\n"]
    assert sorted(words, key=text.index) == words


def test_as_finding_is_the_inverse_of_as_json(job: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read from a line writes the same line again."""
    monkeypatch.chdir(job.path)
    for line in job.run("job.py")[1]:
        assert records.as_finding(line).as_json() == line


def test_a_finding_that_was_read_keeps_its_fingerprint() -> None:
    """Its file may have been seen from another folder, or on another machine."""
    line = {"rule": "lost-writes", "message": "it was lost", "fingerprint": "0" * 16, "path": "a.py", "pid": 1}
    assert records.as_finding(line).fingerprint == "0" * 16  # type: ignore[arg-type]


def test_a_number_of_a_process_may_be_used_again() -> None:
    """A container's program is process 1 at each start: what a later one met is added."""
    runs = [
        [record(1, 1, time=f"2026-11-2{day}T12:00:00Z"), record(1, 3, time=f"2026-11-2{day}T12:00:00Z")] for day in "01"
    ]
    (seen,) = Store.of(runs[0] + runs[1])
    assert (seen.count, seen.processes) == (6, 1)


def test_files_of_several_machines(job: Place) -> None:
    """``report`` takes several files; the same process number in two of them is two processes."""
    for name, count in (("a.jsonl", 2), ("b.jsonl", 3)):
        job.write(name, json.dumps(record(7, count)) + "\n")
    outcome = job.sessionwatch("report", "a.jsonl", "b.jsonl", "--format", "json")
    assert [json.loads(line)["count"] for line in outcome.out.splitlines()] == [5]
    assert "2 processes, 5 times" in job.sessionwatch("report", "a.jsonl", "b.jsonl").out


def test_report_into_a_file(job: Place) -> None:
    """``report --output`` leaves stdout empty, and a file that can't be written is a mistake in one line."""
    job.sessionwatch("run", "--format", "json", "--output", "found.jsonl", "job.py")
    outcome = job.sessionwatch("report", "found.jsonl", "--output", "report.txt")
    assert (outcome.status, outcome.out) == (0, "")
    assert "closed without a commit" in (job.path / "report.txt").read_text()
    outcome = job.sessionwatch("report", "found.jsonl", "--output", "no/folder/x")
    assert (outcome.status, outcome.err) == (
        2,
        "sessionwatch: error: can't write no/folder/x: No such file or directory\n",
    )


@pytest.mark.parametrize("command", [["run"], ["report"]])
def test_unknown_format(job: Place, command: list[str]) -> None:
    """A format that does not exist is refused before anything runs, with the nearest one."""
    job.write("findings.jsonl", "")
    outcome = job.sessionwatch(*command, "--format", "jsn", *(["job.py"] if command == ["run"] else ["findings.jsonl"]))
    assert outcome.status == 2
    assert "unknown format 'jsn'" in outcome.err
    assert "Did you mean 'json'?" in outcome.err


@pytest.mark.parametrize("name", formats.NAMES)
def test_every_format_takes_every_finding(job: Place, name: str) -> None:
    """Each format of the table renders no finding, one, and one of which hardly anything is known."""
    for lines in ([], job.run("job.py")[1], [record(path=None, line=None, function=None)]):
        assert isinstance(shown(lines, name), str)


@pytest.mark.parametrize(
    ("environ", "tty", "wanted"),
    [
        ({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False), ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)  # fmt: skip
def test_wants_colour(environ: dict[str, str], tty: bool, wanted: bool, tmp_path: Path) -> None:
    """NO_COLOR comes before FORCE_COLOR, and both before the kind of stream."""
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal, open(tmp_path / "file", "w") as file:
        assert report.wants_colour(terminal if tty else file, environ) is wanted
    os.close(ours)
