"""The comparison behind `sqlalchemy_suite.py`: what it must see, and what it must not mistake for a change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.host import outcomes
from tests.host.outcomes import BadRunError, Change, Run
from tests.host.plugin import host_recorder

HERE = Path(__file__).resolve().parent

SUITE = """
import os, pytest, warnings

def test_passes(): ...

@pytest.mark.skipif(os.environ["SIDE"] == "after", reason="only before")
def test_skipped_after(): ...

def test_fails_after():
    assert os.environ["SIDE"] == "before", f"not {os.environ['SIDE']}"

@pytest.fixture
def leaky():
    yield
    assert os.environ["SIDE"] == "before"

def test_teardown_fails_after(leaky): ...

@pytest.mark.xfail
def test_expected_to_fail(): assert os.environ["SIDE"] == "after"

def test_fails_alike(): raise ValueError(object())

def test_warns_after():
    if os.environ["SIDE"] == "after":
        warnings.warn("something new")

if os.environ["SIDE"] == "before":
    def test_gone_after(): ...
"""

CRASH = """
import os
def test_first(): ...
def test_dies(): os._exit(3)
"""


def record(folder: Path, side: str, code: str = SUITE, *arguments: str, only: str = "") -> Run:
    """Run ``code`` with the recorder under xdist, and read what was recorded."""
    (folder / "test_it.py").write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\n")
    wanted = folder / "only.txt"
    wanted.write_text(only)
    out = folder / f"{side}.jsonl"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SESSIONWATCH"))}
    env |= {"PYTHONPATH": str(HERE / "plugin"), "HOST_OUTCOMES": str(out), "SIDE": side}
    env |= {"HOST_ONLY": str(wanted)} if only else {}
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "host_recorder", "-n", "2"]
    subprocess.run([*pytest_run, *arguments], cwd=folder, env=env, check=False, capture_output=True)
    return outcomes.read(out)


def names(changes: list[Change]) -> set[str]:
    return {change.test.split("::")[-1] for change in changes}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("suite")
    return record(folder, "before"), record(folder, "after")


def test_every_kind_of_change_is_seen(sides: tuple[Run, Run]) -> None:
    """A new failure, skip, teardown error, unexpected pass and a missing test are changes; equal ones are not."""
    assert names(outcomes.compare(*sides)) == {
        "test_fails_after",
        "test_skipped_after",
        "test_teardown_fails_after",
        "test_expected_to_fail",
        "test_gone_after",
    }


def test_a_change_says_what_was_and_what_is(sides: tuple[Run, Run]) -> None:
    """Before and after are told in words, with the reason of a skip and the message of a failure."""
    told = {change.test.split("::")[-1]: (change.before, change.after) for change in outcomes.compare(*sides)}
    assert told["test_skipped_after"] == ("passed", "skipped in setup: Skipped: only before")
    assert told["test_fails_after"][0] == "passed"
    assert told["test_fails_after"][1].startswith("failed: AssertionError: not after")
    assert told["test_teardown_fails_after"][1].startswith("passed, failed in teardown: ")
    assert told["test_gone_after"] == ("passed", "did not run")


def test_totals_count_each_test_once(sides: tuple[Run, Run]) -> None:
    """A test whose teardown failed counts as an error, not as a pass as well."""
    assert sides[0].totals() == {"passed": 6, "xfailed": 1, "failed": 1}
    assert sides[1].totals() == {"passed": 2, "xpassed": 1, "failed": 2, "skipped": 1, "error": 1}


def test_new_warnings_are_told_apart_from_outcomes(sides: tuple[Run, Run]) -> None:
    """A warning that no test turned into an error is reported, and is no change."""
    assert outcomes.new_warnings(*sides) == {"UserWarning: something new": 1}


def test_tests_without_a_watch_are_counted(sides: tuple[Run, Run]) -> None:
    """A run in which sessionwatch was never installed says so for every call of a test."""
    assert sides[0].watched == (0, 8)


def test_only_the_chosen_tests_run(tmp_path: Path) -> None:
    """The second look runs the tests that differ and no others."""
    run = record(tmp_path, "before", SUITE, only="test_it.py::test_passes\ntest_it.py::test_fails_alike")
    assert sorted(run.tests) == ["test_it.py::test_fails_alike", "test_it.py::test_passes"]


def test_a_worker_that_dies_is_a_failure(tmp_path: Path) -> None:
    """A test that kills its worker process has failed, and the run still has an end."""
    run = record(tmp_path, "before", CRASH)
    run.check("it")
    assert run.totals()["failed"] + run.totals()["error"] == 1


def test_the_reason_of_a_skip_may_differ_and_the_message_of_a_failure_may_not() -> None:
    """SQLAlchemy names any one of several unmet requirements; another error is another outcome."""

    def run(reason: str) -> Run:
        return Run(tests={"skips": {"call": ("skipped", reason)}, "fails": {"call": ("failed", reason)}})

    assert names(outcomes.compare(run("this"), run("that"))) == {"fails"}


def test_a_run_without_tests_is_no_proof(tmp_path: Path) -> None:
    """Nothing collected must not count as nothing changed."""
    with pytest.raises(BadRunError, match="exit status 5"):
        record(tmp_path, "before", "").check("it")


def test_a_run_that_breaks_off_is_no_proof() -> None:
    """Without the last line, the outcomes so far are not compared."""
    torn = '{"kind": "test", "id": "a", "phase": "call", "outcome": "passed", "detail": ""}\n{"kind": "en'
    with pytest.raises(BadRunError, match="broke off"):
        outcomes.assemble(outcomes.lines(torn)).check("it")


def test_only_a_test_that_is_unstable_bare_is_flaky() -> None:
    """A changed outcome is excused when two bare runs differ, never because it did not happen again."""

    def run(stable: str, unstable: str) -> Run:
        tests = {"stable": {"call": (stable, "")}, "unstable": {"call": (unstable, "")}}
        return Run(tests=tests)

    before = run("passed", "passed")
    changes = outcomes.compare(before, run("failed", "failed"))
    settled = outcomes.settle(changes, before, run("passed", "failed"))
    assert {change.test: change.flaky for change in settled} == {"stable": False, "unstable": True}


def test_a_repeated_finding_counts_once(tmp_path: Path) -> None:
    """A finding that several processes had, or that is written again with its final count, is one place."""
    line = '{"rule": "lost-writes", "fingerprint": "%s", "pid": %d, "count": %d}\n'
    file = tmp_path / "findings.jsonl"
    file.write_text(line % ("a", 1, 1) + line % ("a", 1, 4) + line % ("a", 2, 2) + line % ("b", 2, 1))
    assert outcomes.findings([file]) == {"lost-writes": 2}


def test_another_order_keeps_what_shares_a_class_together() -> None:
    """Files, classes and tests are shuffled, each among its own kind; the same number gives the same order."""
    names = [f"{file}::{cls}::{test}" for file in "ab" for cls in "CDE" for test in "xyz"]
    items: list[Any] = [SimpleNamespace(nodeid=name) for name in names]
    orders = [[item.nodeid for item in host_recorder.shuffled(items, Random("7"))] for _ in range(2)]
    assert orders[0] == orders[1] != names
    assert sorted(orders[0]) == names
    classes = [name.rpartition("::")[0] for name in orders[0]]
    assert classes == [one for group in dict.fromkeys(classes) for one in [group] * 3]
