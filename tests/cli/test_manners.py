"""The command teaches: helps with examples, nearest names, every key of the configuration."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import sessionwatch
from sessionwatch import config, rules
from sessionwatch.command.cli import main
from sessionwatch.command.keys import keys
from sessionwatch.watch import installation

COMMANDS = ("run", "demo", "rules", "explain", "config", "check", "report", "baseline", "audit")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no ``pyproject.toml`` and no variable configures us."""
    for name in os.environ:
        if name.startswith("SESSIONWATCH_") and name != "SESSIONWATCH_TESTING":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    return status, *capsys.readouterr()


# -- helps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_has_examples_and_says_what_the_command_is_for(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Two lines at least that can be typed, in front of or behind the options."""
    status, out, _ = told(capsys, command, "--help")
    assert status == 0
    typed = [line for line in out.splitlines() if re.match(rf"  (\w+=\S+ )?sessionwatch {command}\b", line)]
    assert len(typed) >= 2, out
    assert re.search(r"^[A-Z][^\n]+", out.partition("\n\n")[2], re.MULTILINE)
    assert all(len(line) <= 120 for line in out.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_the_examples_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No example names an option that the command does not have."""
    out = told(capsys, command, "--help")[1]
    known = set(re.findall(r"(?<![\w-])--[a-z-]+", out.partition("\noptions:\n")[2].partition("\n\n")[0]))
    for line in re.findall(rf"^  sessionwatch ({command} .*)$", out, re.MULTILINE):
        ours = re.split(r" {3,}| \| | -- | -m |\w+\.py", line)[0]
        assert {part for part in shlex.split(ours) if part.startswith("--")} <= known


# -- nearest names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reprot", "x"], "unknown command 'reprot': choose one of run, demo, rules, explain, config, check, report, "),
        (["reprot", "x"], "Did you mean 'report'?"),
        (["report", "--formt", "json", "x"], "unrecognized arguments: --formt. Did you mean '--format'?"),
        (["run", "--ouput=x", "job.py"], "unrecognized arguments: --ouput=x. Did you mean '--output'?"),
        (["baseline", "shwo"], "unknown action 'shwo': choose one of update, show, prune. Did you mean 'show'?"),
        (
            ["audit", "--format", "jso", "."],
            "unknown format 'jso': choose one of text, json, sarif, html. Did",
        ),
        (["demo", "--databaseurl", "x"], "unrecognized arguments: --databaseurl x. Did you mean '--database-url'?"),
        (["explain", "lost-write"], "unknown rule 'lost-write'. Did you mean 'lost-writes'?"),
        (["config", "--format", "markdown"], "config --format markdown needs --all"),
    ],
)
def test_the_nearest_name(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command, an action, an option and a choice that do not exist: what was probably meant is named."""
    status, out, err = told(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("sessionwatch: error: ")


STRANGE = "no setting is read from the environment variable SESSIONWATCH_MOD. Did you mean 'SESSIONWATCH_MODE'?"


def test_a_strange_variable_is_told_by_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr, so that the output stays what it is."""
    monkeypatch.setenv("SESSIONWATCH_MOD", "strict")
    status, out, err = told(capsys, "rules", "--format", "json")
    assert (status, err) == (0, f"sessionwatch: {STRANGE}\n")
    assert json.loads(out)


def test_a_strange_variable_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the program installs."""
    monkeypatch.setenv("SESSIONWATCH_MOD", "strict")
    monkeypatch.setattr(installation, "_warned", set())
    with caplog.at_level(logging.WARNING, "sessionwatch"):
        for _ in range(2):
            with sessionwatch.watching():
                pass
    assert [record.getMessage() for record in caplog.records] == [STRANGE]


def test_variables_that_are_ours_are_not_strange() -> None:
    """Those that are documented, those of our own tests, and every one in a program that `run` has started."""
    ours = [*config.ENVIRONMENT.values(), "SESSIONWATCH_TESTING", "SESSIONWATCH_TEST_POSTGRES_URL", "PATH"]
    assert config.strange_variables(dict.fromkeys(ours, "x")) == []
    assert config.strange_variables({"SESSIONWATCH_MOD": "x"}) == [STRANGE]
    assert config.strange_variables({"SESSIONWATCH_MOD": "x", "SESSIONWATCH_RUN": "{}"}) == []


# -- every key ----------------------------------------------------------------------------------------


def test_every_key_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """``config --all`` has what ``pyproject.toml`` takes, each rule and each setting, in its three formats."""
    settings = [*config.GENERAL, *(f"{rule.slug}.{name}" for rule in rules.ALL for name in rule.settings)]
    names = [*config.ENVIRONMENT, *(f"rules.{rule.slug}" for rule in rules.ALL), *(f"settings.{s}" for s in settings)]
    listed = json.loads(told(capsys, "config", "--all", "--format", "json")[1])
    assert sorted(item["name"] for item in listed) == sorted(names)
    assert all(item["help"] and item["takes"] and item["variable"] in config.ENVIRONMENT.values() for item in listed)
    text = told(capsys, "config", "--all")[1].splitlines()
    assert [line.partition(" = ")[0] for line in text if not line.startswith(" ")] == [item["name"] for item in listed]
    assert all(len(line) <= 100 for line in text)
    table = told(capsys, "config", "--all", "--format", "markdown")[1].splitlines()
    assert [line.split("`")[1] for line in table[2:]] == [item["name"] for item in listed]


def test_defaults_are_those_that_apply(tmp_path: Path) -> None:
    """In each mode, what ``config --all`` calls the default is what applies where nothing is set."""
    for mode in ("log", "strict", "telemetry"):
        loaded = config.load(rules.ALL, keywords={"mode": mode}, environ={}, start=tmp_path)
        for key in keys():
            kind, _, name = key.name.partition(".")
            if name:
                found = loaded.levels[name] if kind == "rules" else loaded.settings[name]  # type: ignore[index]
                assert found == key.defaults.get(mode, key.default), key
    assert config.load(rules.ALL, environ={}, start=tmp_path).mode == next(keys()).default


def test_each_example_sets_its_key(tmp_path: Path) -> None:
    """Each variable, as it is shown, is understood, and gives another value than the default."""
    bare = config.load(rules.ALL, environ={}, start=tmp_path)
    for key in keys():
        loaded = config.load(rules.ALL, environ={key.variable: key.example}, start=tmp_path)
        kind, _, name = key.name.partition(".")
        if kind == "rules" and name:
            assert loaded.levels[name] == "off"
        elif kind == "settings" and name:
            assert loaded.settings[name] != bare.settings[name]
        else:
            assert loaded != bare


def test_the_file_of_the_help_can_be_pasted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What the help of ``config`` shows of ``pyproject.toml`` is TOML that sets what it says."""
    shown = told(capsys, "config", "--help")[1].partition("in pyproject.toml:\n")[2].partition("\n\n")[0]
    text = "\n".join(line.strip() for line in shown.splitlines())
    assert tomllib.loads(text)
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    loaded = config.load(rules.ALL, environ={}, start=tmp_path)
    assert (loaded.levels["n-plus-one"], loaded.settings["long-session.seconds"]) == ("off", 10)
