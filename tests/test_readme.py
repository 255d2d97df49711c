"""What the README and the pages beside it show is what happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sessionwatch import rules, watching

ROOT = Path(__file__).parent.parent


def page(name: str) -> str:
    """The text of a page."""
    return (ROOT / name).read_text(encoding="utf-8")


README, LIMITS, PYTEST, DASHBOARD = (
    page(name) for name in ("README.md", "docs/limits.md", "docs/pytest.md", "docs/dashboard.md")
)
SHOWN = "\n".join([README, PYTEST, *map(page, ("docs/allowing.md", "docs/boundaries.md", "docs/settings.md"))])
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", SHOWN, re.DOTALL)


def block(language: str, start: str) -> str:
    """The first code block of a language that has ``start`` in it, on the README or a page."""
    return next(text for kind, text in BLOCKS if kind == language and start in text)


def test_the_first_program_gets_the_message_that_is_shown(tmp_path: Path) -> None:
    """The README's bug, run by the README's command, yields the README's message."""
    (tmp_path / "shop.py").write_text(block("python", "201 created"), encoding="utf-8")
    command = [sys.executable, "-m", "sessionwatch", "run", "shop.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0
    assert ended.stdout == "201 created order 1\n"
    assert block("text", "FAULT  lost-writes").strip() == ended.stderr.strip()


def test_every_way_to_allow_covers_its_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three allowances of the page leave no finding, and count what they covered."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    program = block("python", "201 created").partition("with Session(engine)")[0] + block("python", "dry_run")
    path = tmp_path / "allowed.py"
    path.write_text(program + "\ndry_run()\n", encoding="utf-8")
    with watching(log=False) as watch:
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
        exec(code, {"__name__": "allowed"})
        assert watch.findings == []
        assert sum(finding.count for finding in watch.allowed) == 3


def test_the_boundary_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's program with a boundary and a transfer object runs, and yields nothing."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    program = block("python", "201 created").partition("with Session(engine)")[0]
    program += "with Session(engine) as session:\n    session.add(Order())\n    session.commit()\n"
    with watching(log=False) as watch:
        exec(
            compile(program + block("python", "OrderDTO"), "<readme>", "exec", dont_inherit=True), {"__name__": "shop"}
        )
    assert [finding.message for finding in watch.findings] == []


def test_the_readme_names_each_rule_once() -> None:
    """In the lists of what is found; nothing else has the form of a rule there."""
    listed = README.partition("\n## What it finds\n")[2].partition("\n`sessionwatch explain")[0]
    assert sorted(re.findall(r"`([a-z-]+)`", listed)) == sorted(rule.slug for rule in rules.ALL)


def test_the_readme_is_short() -> None:
    """What leaves it goes to docs/."""
    assert len(README.splitlines()) <= 150


def test_the_ini_line_makes_pytest_strict(tmp_path: Path) -> None:
    """With the README's pytest configuration a swallowed lost write fails its test."""
    (tmp_path / "pytest.ini").write_text(block("ini", "[pytest]"), encoding="utf-8")
    program = block("python", "201 created").partition("with Session(engine)")[0]
    body = "    session = Session(engine)\n    session.add(Order())\n    session.flush()\n"
    swallowed = "    try:\n        session.close()\n    except Exception:\n        pass\n"
    (tmp_path / "test_shop.py").write_text(f"{program}\ndef test_shop():\n{body}{swallowed}", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert "lost-writes: 1 Order object was written" in ended.stdout


def test_old_code_is_green_with_its_baseline_and_fails_for_what_is_new(tmp_path: Path) -> None:
    """The page's commands, from any folder, and the line they ask for; `[tool.sessionwatch]` is heard, too."""
    program = block("python", "201 created").partition("with Session(engine)")[0]
    body = "    session = Session(engine)\n    session.add(Order())\n    session.flush()\n    session.close()\n"
    path, commands = tmp_path / "test_shop.py", block("sh", "--sessionwatch-update-baseline").splitlines()
    path.write_text(f"{program}\ndef test_old():\n{body}", encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")

    def run(command: str, folder: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-m", *command.split(), "-q", "-p", "no:cacheprovider"]
        return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300)

    first = run(commands[0])
    line = next(line for line in first.stdout.splitlines() if "not in use yet" in line).rpartition(": ")[2]
    assert (first.returncode, line) == (0, "sessionwatch_baseline = sessionwatch-baseline.json")
    assert line in PYTEST
    assert run(commands[1]).returncode == 1  # the line is missing
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{line}\n", encoding="utf-8")
    assert run(commands[1]).returncode == 0
    (tmp_path / "below").mkdir()
    assert run(f"{commands[1]} {path}", tmp_path / "below").returncode == 0
    path.write_text(f"{program}\ndef test_old():\n{body}\ndef test_new():\n{body}", encoding="utf-8")
    new = run(commands[1])
    assert (new.returncode, "1 failed, 1 passed" in new.stdout) == (1, True)

    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.sessionwatch]\nbaseline = "known.json"\n', encoding="utf-8")
    again = run(commands[0])
    assert ("not in use yet" in again.stdout, (tmp_path / "known.json").exists()) == (False, True)
    assert run(commands[1]).returncode == 0

    collect, prune = block("sh", "sessionwatch baseline prune").splitlines()
    path.write_text(path.read_text().partition("\ndef test_new")[0], encoding="utf-8")
    known = json.loads((tmp_path / "known.json").read_text(encoding="utf-8"))
    known["findings"].append({**known["findings"][0], "fingerprint": "0" * 16, "rule": "detached-touch"})
    (tmp_path / "known.json").write_text(json.dumps(known), encoding="utf-8")
    told = []
    for mode in ("log", "strict"):
        assert run(collect.replace("strict", mode).replace("findings", mode)).returncode == 0
        command = [sys.executable, "-m", *prune.replace("findings", mode).split()]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
        told += ended.stdout.replace(str(tmp_path), "").splitlines()
    assert [line.partition(":")[2] for line in told] == [
        " 2 known findings (before: 3)",
        " detached-touch (prune them with a file of a run in strict)",
        " 1 known findings (before: 2)",
    ]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("", "logging.config.dictConfig({'version': 1})", False),
        ("", "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False})", True),
        ("logging.config.dictConfig({'version': 1})", "", True),
    ],
)
def test_a_logging_configuration_that_switches_loggers_off_silences_ours(
    tmp_path: Path, before: str, after: str, told: bool
) -> None:
    """As the limits say, with the two ways out."""
    assert "`disable_existing_loggers=False`, or `install()` after it" in LIMITS
    program = block("python", "201 created")
    install = f"import logging.config\nimport sessionwatch\n{before}\nsessionwatch.install()\n{after}\n"
    (tmp_path / "shop.py").write_text(install + program, encoding="utf-8")
    ended = subprocess.run([sys.executable, "shop.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ("lost-writes" in ended.stderr, "201 created" in ended.stdout) == (told, True)


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_what_is_open_at_an_end_without_exit_is_not_told(tmp_path: Path, end: str) -> None:
    """Nothing of the program runs then, as the limits say; at a usual end it is told."""
    assert "ended by a signal or by `os._exit()` reports no session that is open" in LIMITS
    head, _, body = block("python", "201 created").partition("with Session(engine) as session:\n")
    program = f"import os, signal\n{head}session = Session(engine)\n{textwrap.dedent(body)}"
    found = []
    for last in ("", end):
        (tmp_path / "shop.py").write_text(f"{program}\n{last}\n", encoding="utf-8")
        command = [sys.executable, "-m", "sessionwatch", "run", "shop.py"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        found.append("lost-writes" in ended.stderr)
    assert found == [True, False]


def test_the_toml_block_is_a_valid_configuration(tmp_path: Path) -> None:
    """The [tool.sessionwatch] of the settings' page is accepted, and its values are in force."""
    from sessionwatch import config

    (tmp_path / "pyproject.toml").write_text(block("toml", "tool.sessionwatch"), encoding="utf-8")
    loaded = config.load(rules.ALL, environ={}, start=tmp_path)
    assert loaded.levels["detached-touch"] == "off"
    assert loaded.settings["use-after-close.after"] == "any"


@pytest.mark.parametrize("rule", rules.ALL, ids=lambda rule: rule.slug)
def test_explain_prints_each_part_of_a_page(rule: rules.Rule) -> None:
    """What the README says of ``explain`` holds for each rule."""
    page = rules.explain(rule.slug)
    for part in ("What it reports", "Why it matters", "Bad", "Good", "When to allow"):
        assert f"## {part}" in page


def test_the_history_limits_are_the_defaults() -> None:
    """The number in the limits is the code's."""
    from sessionwatch.config import GENERAL

    number = int(re.search(r"the last (\d+) closed sessions", LIMITS)[1])  # type: ignore[index]
    assert GENERAL["history.sessions"].default == GENERAL["history.loads"].default == number


PRODUCTION = README.partition("**Counting in production.**")[2].partition("\n## ")[0]
EXPORT = """
import json
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
"""
TOLD = """
scopes = [scope for resource in reader.get_metrics_data().resource_metrics for scope in resource.scope_metrics]
print(json.dumps([metric.name for scope in scopes for metric in scope.metrics]))
print(json.dumps(watch.status()["sessions"]["closed"]))
"""


def test_the_line_for_production_exports_and_counts(tmp_path: Path) -> None:
    """The README's line in the README's buggy program: nothing is raised, and metrics are exported."""
    program = EXPORT + block("python", 'mode="telemetry"') + block("python", "201 created") + TOLD
    (tmp_path / "shop.py").write_text(program, encoding="utf-8")
    ended = subprocess.run([sys.executable, "shop.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    answer, exported, closed = ended.stdout.splitlines()
    assert answer == "201 created order 1"
    assert set(json.loads(exported)) >= {"sessionwatch.sessions.closed", "db.client.connection.count"}
    assert json.loads(closed)["lost, sync"] == 1


def test_opentelemetry_instrument_needs_no_line_of_code(tmp_path: Path) -> None:
    """The README's command, for the README's buggy program: the lost write is exported."""
    assert "\nopentelemetry-instrument uvicorn shop:app\n" in block("sh", "opentelemetry-instrument")
    (tmp_path / "shop.py").write_text(block("python", "201 created"), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, "shop.py"]
    exporters = {"OTEL_METRICS_EXPORTER": "console", "OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    environment = {**os.environ, **exporters}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "201 created order 1\n" in ended.stdout
    assert '"sessionwatch.sessions.closed"' in ended.stdout
    assert '"sessionwatch.outcome": "lost"' in ended.stdout


def test_what_the_production_section_shows_is_there() -> None:
    """The linked files exist, the picture is one, and Grafana's version is the one that the dashboard is built for."""
    links = re.findall(r"\]\(([\w./-]+)\)", PRODUCTION)
    assert {"dashboards/sessionwatch.json", "dashboards/alerts.yaml", "docs/dashboard.png"} <= set(links)
    assert (ROOT / "docs" / "dashboard.png").read_bytes().startswith(b"\x89PNG")
    version, on_page = (re.search(r"Grafana (\d+) and later", text) for text in (PRODUCTION, DASHBOARD))
    pinned = re.search(r"grafana-foundation-sdk==\d+!(\d+)\.", (ROOT / "pyproject.toml").read_text())
    assert version is not None
    assert pinned is not None
    assert on_page is not None
    assert version[1] == on_page[1] == pinned[1]
    assert "nox -s picture" in DASHBOARD
    assert "def picture(" in (ROOT / "noxfile.py").read_text()
