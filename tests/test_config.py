"""Configuration: keywords > environment > ``[tool.sessionwatch]`` > defaults, and each value knows its origin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import sessionwatch
from sessionwatch import ConfigError, config, rules
from sessionwatch.model import MODES, Level, Mode

ROOT = Path(__file__).resolve().parents[1]


def load(start: Path, environ: Mapping[str, str] | None = None, **keywords: Any) -> config.Config:
    return config.load(rules.ALL, keywords=keywords, environ=environ or {}, start=start)


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pyproject.toml"
    path.write_text(text)
    return path


# -- defaults -----------------------------------------------------------------------------------------


def test_defaults(tmp_path: Path) -> None:
    """Without any source the mode is log, and every value says that it is a default."""
    found = load(tmp_path)
    assert (found.mode, found.output, found.baseline, found.source) == ("log", None, None, ())
    assert {origin for name, origin in found.origins.items() if not name.startswith("rules.")} == {"default"}
    assert {found.origins[f"rules.{rule.slug}"] for rule in rules.ALL} == {"default of mode log"}


LEVELS: dict[Mode, dict[str, Level]] = {  # the columns L / S / T of the rules
    "log": {
        "detached-access": "log",
        "detached-touch": "off",
        "detached-write": "log",
        "lost-writes": "log",
        "session-leak": "log",
        "use-after-close": "log",
    },
    "strict": dict.fromkeys(
        ["detached-access", "detached-touch", "detached-write", "lost-writes", "session-leak", "use-after-close"],
        "raise",
    ),
    "telemetry": {
        "detached-access": "log",
        "detached-touch": "off",
        "detached-write": "off",
        "lost-writes": "log",
        "session-leak": "log",
        "use-after-close": "log",
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_levels_of_each_mode(mode: Mode, tmp_path: Path) -> None:
    """Each mode turns on the rules of its column, and only strict raises."""
    levels = load(tmp_path, mode=mode).levels
    assert {slug: levels[slug] for slug in LEVELS[mode]} == LEVELS[mode]
    assert set(levels) == {rule.slug for rule in rules.ALL}


# -- pyproject.toml -----------------------------------------------------------------------------------


def test_pyproject(tmp_path: Path) -> None:
    """``[tool.sessionwatch]`` gives every setting, and the file is named as its origin."""
    path = write(
        tmp_path,
        '[tool.sessionwatch]\nmode = "strict"\noutput = "found.jsonl"\nbaseline = "known.json"\nsource = ["src"]\n'
        '[tool.sessionwatch.rules]\ndetached-touch = "off"\n'
        '[tool.sessionwatch.settings]\n"use-after-close.after" = "any"\n',
    )
    found = load(tmp_path)
    assert found.mode == "strict"
    assert found.levels["detached-touch"] == "off"
    assert found.settings["use-after-close.after"] == "any"
    assert (found.output, found.baseline) == (str(tmp_path / "found.jsonl"), str(tmp_path / "known.json"))
    assert found.source == (str(tmp_path / "src"),)
    names = ("mode", "output", "baseline", "source", "rules.detached-touch", "settings.use-after-close.after")
    assert {found.origins[name] for name in names} == {str(path)}


def test_nearest_pyproject_wins(tmp_path: Path) -> None:
    """The nearest file counts, from the working directory upwards; a farther one does not."""
    write(tmp_path, '[tool.sessionwatch]\nmode = "strict"\n')
    write(tmp_path / "inner", '[tool.sessionwatch]\nmode = "telemetry"\n')
    below = tmp_path / "inner" / "deep" / "down"
    below.mkdir(parents=True)
    assert load(below).mode == "telemetry"
    assert load(tmp_path).mode == "strict"


def test_pyproject_without_our_table(tmp_path: Path) -> None:
    """A file that does not mention sessionwatch changes nothing."""
    write(tmp_path, "[project]\nname = 'x'\n")
    assert load(tmp_path).mode == "log"


def test_the_project_begins_at_the_nearest_pyproject(tmp_path: Path) -> None:
    """Its root is the folder of that file, with our table or without, and where there is none, the start."""
    below = tmp_path / "inner" / "deep"
    below.mkdir(parents=True)
    assert load(below).root == str(below)
    write(tmp_path, '[tool.sessionwatch]\nmode = "strict"\n')
    assert load(below).root == str(tmp_path)
    write(tmp_path / "inner", "[project]\nname = 'x'\n")
    assert load(below).root == str(tmp_path / "inner")
    assert load(below, root=str(tmp_path)).root == str(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[tool.sessionwatch.settings.use-after-close]\nafter = 'any'\n",
        "[tool.sessionwatch.settings]\nuse-after-close.after = 'any'\n",
        "[tool.sessionwatch.settings]\n'use-after-close.after' = 'any'\n",
        "[tool.sessionwatch]\nsettings = { use-after-close = { after = 'any' } }\n",
    ],
)
def test_settings_may_be_nested(text: str, tmp_path: Path) -> None:
    """Nested tables, dotted and quoted keys are the same setting."""
    write(tmp_path, text)
    assert load(tmp_path).settings["use-after-close.after"] == "any"


def test_off_may_be_written_as_false(tmp_path: Path) -> None:
    """``false`` is ``"off"``."""
    write(tmp_path, "[tool.sessionwatch.rules]\nlost-writes = false\n")
    assert load(tmp_path).levels["lost-writes"] == "off"


# -- environment --------------------------------------------------------------------------------------


def test_environment(tmp_path: Path) -> None:
    """Every variable is read, and is the origin of what it sets."""
    environ = {
        "SESSIONWATCH_MODE": "strict",
        "SESSIONWATCH_RULES": "lost-writes=log, detached-touch=off",
        "SESSIONWATCH_SETTINGS": "use-after-close.after=any,history.sessions=10",
        "SESSIONWATCH_OUTPUT": "out.jsonl",
        "SESSIONWATCH_BASELINE": "base.json",
        "SESSIONWATCH_SOURCE": f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}",
    }
    found = load(tmp_path, environ)
    assert (found.mode, found.output, found.baseline) == ("strict", "out.jsonl", "base.json")
    assert (found.levels["lost-writes"], found.levels["detached-touch"]) == ("log", "off")
    assert (found.settings["use-after-close.after"], found.settings["history.sessions"]) == ("any", 10)
    assert found.source == (str(tmp_path / "a"), str(tmp_path / "b"))
    names = ("mode", "output", "baseline", "source", "rules.lost-writes", "settings.history.sessions")
    assert {found.origins[name] for name in names} == {"environment"}


def test_empty_variables_are_not_set(tmp_path: Path) -> None:
    """An empty variable counts as none."""
    found = load(tmp_path, dict.fromkeys(config.ENVIRONMENT.values(), " "))
    assert (found.mode, found.origins["mode"]) == ("log", "default")


# -- precedence ---------------------------------------------------------------------------------------


def test_precedence(tmp_path: Path) -> None:
    """Keywords beat the environment, which beats the file, one value at a time."""
    path = write(
        tmp_path,
        "[tool.sessionwatch]\nmode = 'strict'\noutput = 'file'\n"
        "[tool.sessionwatch.rules]\nlost-writes = 'off'\nsession-leak = 'off'\nuse-after-close = 'off'\n",
    )
    environ = {"SESSIONWATCH_OUTPUT": "env", "SESSIONWATCH_RULES": "session-leak=log,use-after-close=log"}
    found = load(tmp_path, environ, rules={"use-after-close": "raise"})
    assert found.mode == "strict"
    assert found.output == "env"
    assert [found.levels[slug] for slug in ("lost-writes", "session-leak", "use-after-close")] == [
        "off",
        "log",
        "raise",
    ]
    origins = [found.origins[f"rules.{slug}"] for slug in ("lost-writes", "session-leak", "use-after-close")]
    assert origins == [str(path), "environment", "install()"]
    assert found.origins["rules.detached-access"] == "default of mode strict"


def test_telemetry_never_raises_whatever_is_asked_for(tmp_path: Path) -> None:
    """A rule that is set to raise is logged in telemetry mode, and the origin says why."""
    found = load(tmp_path, {"SESSIONWATCH_RULES": "lost-writes=raise"}, mode="telemetry")
    assert found.levels["lost-writes"] == "log"
    assert found.origins["rules.lost-writes"] == "environment (telemetry never raises)"


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"mode": "strickt"},
            r"unknown mode 'strickt' \(install\(\)\): choose one of log, strict, telemetry, off\..*'strict'",
        ),
        ({"rules": {"lost-write": "off"}}, r"unknown rule 'lost-write' \(install\(\)\)\. Did you mean 'lost-writes'\?"),
        ({"rules": {"n-plus-two": "off"}}, r"unknown rule 'n-plus-two'.*Did you mean 'n-plus-one'\?"),
        ({"rules": {"zzz": "off"}}, r"unknown rule 'zzz' \(install\(\)\)\.$"),
        ({"rules": {"lost-writes": "rais"}}, r"rule 'lost-writes' can't be set to 'rais'.*off, log, raise.*'raise'"),
        ({"rules": {"lost-writes": True}}, r"can't be set to True"),
        ({"settings": {"history.session": 5}}, r"unknown setting 'history.session'.*'history.sessions'"),
        (
            {"settings": {"history.sessions": "many"}},
            r"setting 'history.sessions' takes int of at least 1 and at most 1000000, not 'many' \(install\(\)\)",
        ),
        ({"settings": {"history.sessions": True}}, r"takes int of at least 1 and at most 1000000, not True"),
        (
            {"settings": {"history.findings": 0}},
            r"setting 'history.findings' takes int of at least 1 and at most 1000000, not 0 \(install\(\)\)",
        ),
        ({"settings": {"n-plus-one.threshold": -1}}, r"takes int of at least 0, not -1"),
        ({"settings": {"n-plus-one.threshold": 2.5}}, r"takes int of at least 0, not 2.5"),
        ({"settings": {"n-plus-one.threshold": float("inf")}}, r"takes int of at least 0, not inf"),
        ({"settings": {"n-plus-one.threshold": [2]}}, r"takes int of at least 0, not \[2\]"),
        ({"settings": {"long-session.seconds": float("nan")}}, r"takes float of at least 0, not nan"),
        ({"settings": {"use-after-close.after": "never"}}, r"takes scope or any, not 'never'"),
    ],
)
def test_wrong_keywords(keywords: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A wrong name or value is named, with its origin and the nearest valid name."""
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **keywords)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SESSIONWATCH_MODE": "tests"}, r"unknown mode 'tests' \(environment\)"),
        ({"SESSIONWATCH_RULES": "lost-writes"}, r"SESSIONWATCH_RULES: expected NAME=VALUE, got 'lost-writes'"),
        ({"SESSIONWATCH_RULES": "lost-writes="}, r"expected NAME=VALUE"),
        (
            {"SESSIONWATCH_SETTINGS": "history.loads=x"},
            r"takes int of at least 1 and at most 1000000, not 'x' \(environment\)",
        ),
    ],
)
def test_wrong_environment(environ: dict[str, str], message: str, tmp_path: Path) -> None:
    """The same for variables."""
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, environ)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[tool.sessionwatch]\nmod = 'log'\n",
            r"unknown setting 'mod' in \[tool.sessionwatch\] of .*Did you mean 'mode'\?",
        ),
        ("[tool.sessionwatch]\nmode = 3\n", r"unknown mode 3 \(.*pyproject.toml\)"),
        ("[tool.sessionwatch.rules]\nlost = 'off'\n", r"unknown rule 'lost' \(.*pyproject.toml\)"),
        ("[tool.sessionwatch\n", r"pyproject.toml can't be read"),
        ("[tool.sessionwatch]\nrules = 'lost-writes=off'\n", r"rules .*table"),
        ("[tool.sessionwatch]\nsettings = 3\n", r"settings .*table"),
        ("[tool.sessionwatch]\noutput = 3\n", r"output .*3"),
        ("[tool.sessionwatch]\nsource = 3\n", r"source .*3"),
        ("[tool]\nsessionwatch = 'strict'\n", r"sessionwatch.* table"),
        ("tool = 3\n", r"tool takes a table, not 3 \(.*pyproject.toml\)"),
    ],
)
def test_wrong_file(text: str, message: str, tmp_path: Path) -> None:
    """The same for the file, and for a value of the wrong type in it."""
    write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    """A file that can't be decoded is named."""
    (tmp_path / "pyproject.toml").write_bytes(b"[tool.sessionwatch]\nmode = '\xff'\n")
    with pytest.raises(ConfigError, match=r"pyproject.toml can't be read"):
        load(tmp_path)


@pytest.mark.parametrize("value", ["yes", "on", "1", "true", True])
def test_words_for_true(value: object) -> None:
    """A switch takes the usual words."""
    from sessionwatch.model import Setting

    assert config._convert(value, Setting(False, "a switch")) is True


# -- where it is shown --------------------------------------------------------------------------------


def test_status_says_where_each_value_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``watch.status()`` gives value and origin of mode, rules, settings, output and baseline."""
    path = write(tmp_path, "[tool.sessionwatch]\nmode = 'strict'\n[tool.sessionwatch.rules]\nsession-leak = 'off'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SESSIONWATCH_SETTINGS", "history.loads=7")
    with sessionwatch.watching(rules={"lost-writes": "log"}) as watch:
        status = watch.status()
    assert status["mode"] == {"value": "strict", "from": str(path)}
    assert status["rules"]["session-leak"] == {"value": "off", "from": str(path)}
    assert status["rules"]["lost-writes"] == {"value": "log", "from": "install()"}
    assert status["settings"]["history.loads"] == {"value": 7, "from": "environment"}
    assert status["output"] == {"value": None, "from": "default"}


def test_command_shows_the_same(tmp_path: Path) -> None:
    """``sessionwatch config`` prints effective values with their origins, as text and as JSON."""
    path = write(tmp_path, "[tool.sessionwatch.rules]\nsession-leak = 'off'\n")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "SESSIONWATCH_MODE": "strict"}
    command = [sys.executable, "-m", "sessionwatch", "config"]
    text = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True).stdout
    rows = {line.split()[0]: line.split(None, 2)[1:] for line in text.splitlines()}
    assert rows["mode"] == ["strict", "environment"]
    assert rows["rules.session-leak"] == ["off", str(path)]
    assert rows["rules.lost-writes"] == ["raise", "default of mode strict"]
    command += ["--format", "json"]
    shown = json.loads(subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, check=True).stdout)
    assert shown["rules.session-leak"] == {"value": "off", "from": str(path)}
    assert shown["settings.history.sessions"] == {"value": 4096, "from": "default"}


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    """A mistake in the file is one line on stderr and exit status 2."""
    write(tmp_path, "[tool.sessionwatch]\nmode = 'strickt'\n")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sessionwatch", "config"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sessionwatch: error: unknown mode 'strickt'")
    assert len(done.stderr.splitlines()) == 1


def test_on_finding_has_to_be_a_function() -> None:
    """Anything else is told at once, not when something is found."""
    with pytest.raises(ConfigError, match="on_finding takes a function, not 3"):
        config.load(rules.ALL, keywords={"on_finding": 3})
