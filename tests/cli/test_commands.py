"""``rules``, ``explain``, ``config``, ``report``, the help, and what starting the command costs."""

from __future__ import annotations

import json
import sys

import pytest

from sessionwatch import rules
from sessionwatch.command.cli import split_program
from tests.cli.programs import Place

LOSE = "import shop\nshop.lose(shop.make_engine())\n"


def test_rules(place: Place) -> None:
    """``rules`` lists every rule with its level in each mode, as a table and as JSON."""
    table = place.sessionwatch("rules").out.splitlines()
    listed = json.loads(place.sessionwatch("rules", "--format", "json").out)
    assert table[0].split() == ["rule", "severity", "log", "strict", "telemetry", "summary"]
    assert [line.split()[0] for line in table[1:]] == [rule.slug for rule in rules.ALL]
    assert [item["rule"] for item in listed] == [rule.slug for rule in rules.ALL]
    touch = next(item for item in listed if item["rule"] == "detached-touch")
    assert (touch["log"], touch["strict"], touch["telemetry"]) == ("off", "raise", "off")


@pytest.mark.parametrize("slug", [rule.slug for rule in rules.ALL])
def test_explain(place: Place, slug: str) -> None:
    """``explain`` prints the page of a rule."""
    outcome = place.sessionwatch("explain", slug)
    assert outcome.status == 0
    assert outcome.out.startswith(f"# {slug}\n")
    assert "## What it reports" in outcome.out


def test_config_tells_where_values_come_from(place: Place) -> None:
    """Each value of ``config`` has its origin: the default, the file, the environment."""
    path = place.write("pyproject.toml", '[tool.sessionwatch]\nmode = "strict"\nrules = {session-leak = "off"}\n')
    env = {"SESSIONWATCH_RULES": "detached-touch=log"}
    values = json.loads(place.sessionwatch("config", "--format", "json", env=env).out)
    assert values["mode"] == {"value": "strict", "from": str(path)}
    assert values["rules.session-leak"] == {"value": "off", "from": str(path)}
    assert values["rules.detached-touch"] == {"value": "log", "from": "environment"}
    assert values["rules.lost-writes"] == {"value": "raise", "from": "default of mode strict"}
    assert values["output"] == {"value": None, "from": "default"}
    text = place.sessionwatch("config", env=env).out.splitlines()
    assert [line.split()[:2] for line in text[1:]] == [[name, shown(item["value"])] for name, item in values.items()]


def shown(value: object) -> str:
    return "-" if value in (None, []) else str(value)


def test_report_of_a_file(place: Place) -> None:
    """``report`` shows a file of findings as ``run`` would have shown them."""
    place.write("job.py", LOSE)
    text = place.sessionwatch("run", "job.py").err
    place.run("job.py")
    outcome = place.sessionwatch("report", "findings.jsonl")
    assert (outcome.status, outcome.out) == (0, text)


def test_report_of_an_empty_file(place: Place) -> None:
    """An empty file has no findings, and nothing is said about processes that nobody asked."""
    place.write("empty.jsonl", "")
    assert place.sessionwatch("report", "empty.jsonl").out == "sessionwatch: no findings\n"


def test_report_of_lines_from_a_later_version(place: Place) -> None:
    """A file of another schema is refused by its number."""
    place.write("job.py", LOSE)
    (finding,) = place.run("job.py")[1]
    place.write("later.jsonl", json.dumps({**finding, "schema": 3}) + "\n")
    place.write("other.jsonl", '{"name": 1}\n')
    assert "later.jsonl:1 has schema 3; this version reads 2" in place.sessionwatch("report", "later.jsonl").err
    assert "other.jsonl:1 is not a finding" in place.sessionwatch("report", "other.jsonl").err


def test_help_and_version(place: Place) -> None:
    """The help names every command and shows how to run a program; ``--version`` prints one line."""
    text = place.sessionwatch("--help").out
    assert all(f"\n    {name} " in text for name in ("run", "demo", "rules", "explain", "config", "report"))
    assert "sessionwatch run -- uvicorn shop:app" in text
    assert "exit status:" in place.sessionwatch("run", "--help").out
    assert place.sessionwatch("--version").out.startswith("sessionwatch ")


def test_without_a_command(place: Place) -> None:
    """The command alone shows its help, and is a mistake to a script that calls it."""
    outcome = place.sessionwatch()
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == place.sessionwatch("--help").out


def test_start_is_light(place: Place) -> None:
    """``run`` does not import SQLAlchemy, asyncio, rich, wrapt or OpenTelemetry into its own process."""
    place.write("job.py", "")
    text = place.python("-X", "importtime", "-m", "sessionwatch", "run", "--", "true").err
    imported = {line.rpartition("|")[2].strip() for line in text.splitlines() if line.startswith("import time:")}
    assert "sessionwatch.command.run" in imported
    for name in ("sqlalchemy", "asyncio", "rich", "wrapt", "opentelemetry", "greenlet", "click", "logging"):
        assert name not in imported


def test_broken_pipe(place: Place) -> None:
    """A reader that stops early, such as ``head``, gets no traceback."""
    command = f"{sys.executable} -m sessionwatch explain lost-writes | true"
    assert place.execute("sh", "-c", command).err == ""


@pytest.mark.parametrize(
    ("arguments", "own", "kind", "program"),
    [
        (["job.py", "--fail"], [], "script", ["job.py", "--fail"]),
        (["--mode", "strict", "job.py"], ["--mode", "strict"], "script", ["job.py"]),
        (["--mode=strict", "--fail", "-m", "job", "-m"], ["--mode=strict", "--fail"], "module", ["job", "-m"]),
        (["--fail", "--", "job", "--", "x"], ["--fail"], "command", ["job", "--", "x"]),
        (["-", "x"], [], "script", ["-", "x"]),
        (["--output", "-m", "job.py"], ["--output", "-m"], "script", ["job.py"]),
        ([], [], "script", []),
    ],
)
def test_where_the_program_begins(arguments: list[str], own: list[str], kind: str, program: list[str]) -> None:
    """Our options end where the program's name stands; what follows is never read as ours."""
    assert split_program(arguments, {"--mode", "--output"}) == (own, kind, program)
