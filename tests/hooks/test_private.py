"""SQLAlchemy without one of its private names: the program runs as bare, and what can't be seen is said to be off."""

from __future__ import annotations

import ast
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import sessionwatch
from sessionwatch import rules
from sessionwatch.hooks import private
from sessionwatch.hooks.reading import read
from sessionwatch.hooks.table import HOOKS
from tests.programs import every_use

GONE = "_called_something_else"
MODES: tuple[Any, ...] = ("log", "strict", "telemetry")
# What a name that other names can't stand in for takes with it; worked out by hand, not from the list.
WRITTEN = {"lost-writes", "shared-connection", "late-commit", "discarded-writes"}  # what tells of writes
TAKES = {
    "Session._new": {*WRITTEN, "config"},
    "Session._deleted": {*WRITTEN, "config", "cross-session"},
    "WeakInstanceDict._modified": {*WRITTEN, "config", "cross-session"},
    "Session._flushing": {"swallowed-error", "config", "discarded-writes"},
    "_sessions": {"detached-write", "cross-session", "swallowed-error"},
    "Session._before_attach": {"cross-session"},
    "Session._get_impl": {"n-plus-one"},
    "Session._merge._recursive": {"reattach"},
    "load_on_pk_identity.refresh_state": {"n-plus-one"},
    "SessionTransaction._connections": {
        *WRITTEN, "session-leak", "long-session", "split-unit-of-work", "swallowed-error", "config",
    },
    "InstanceState._instance_dict": {"detached-access", "detached-touch", "detached-write", "reattach"},
    "InstanceState.runid": {"n-plus-one", "reattach", "cross-session"},
    "Connection._dbapi_connection": {*WRITTEN, "long-session", "cross-process", "foreign-loop"},
    "Connection._has_events": set(),
    "_all_registries": {"untracked-mutation"},
    "Session._close_impl": {rule.slug for rule in rules.ALL} - {"boundary", "config"},
    "Connection._exec_single_context": {
        *WRITTEN, "session-leak", "cross-task", "blocking-io", "split-unit-of-work", "long-session",
        "swallowed-error", "cross-process",
    },
    "_new_runid": {"detached-access", "implicit-io", "n-plus-one", "cross-session"},
    "greenlet_spawn": {"swallowed-error"},
    "DefaultExecutionContext._setup_dml_or_text_result": set(),
}  # fmt: skip


@pytest.fixture(scope="module")
def bare() -> dict[str, str]:
    """What the program sees without us."""
    sessionwatch.uninstall()
    return dict(every_use.outcomes(every_use.RIGHT + every_use.WRONG))


def needing(name: private.Private) -> set[str]:
    """The rules that can't do without a name, by the events and parts that their files name."""
    makes = tuple(kind for hook in HOOKS if hook.place is name and not hook.optional for kind in hook.makes)
    lost = (*name.needs, *makes)
    return {rule.slug for rule in rules.ALL if any(issubclass(kind, lost) for kind in rule.events + rule.parts)}


def off(watch: Any) -> set[str]:
    """The rules that are said to be off because of SQLAlchemy."""
    status = watch.status()["rules"]
    return {slug for slug, rule in status.items() if rule["value"] == "off" and "SQLAlchemy" in rule["from"]}


def test_no_name_is_missing() -> None:
    """This SQLAlchemy has every name on the list, and each says why it is read."""
    assert [str(name) for name in private.probe()] == []
    assert all(name.why for name in private.NAMES)


def test_the_program_is_reported_in_full(bare: dict[str, str]) -> None:
    """With every name in its place the wrong uses are reported, and the program sees nothing of it."""
    with sessionwatch.watching("log", log=False, **every_use.SETTINGS) as watch:
        assert dict(every_use.outcomes(every_use.RIGHT + every_use.WRONG)) == bare
    assert {finding.rule for finding in watch.findings} == every_use.REPORTED
    assert watch.status()["internal_errors"] == {}


@pytest.mark.parametrize("name", private.NAMES, ids=lambda name: f"{name}")
def test_a_name_that_is_missing(
    name: private.Private, bare: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it: bare results, no error of ours, its rules off with one warning, all others on and seeing."""
    monkeypatch.setattr(name, "name", GONE)
    lost = needing(name)
    for mode in MODES:
        caplog.clear()
        with sessionwatch.watching(mode, log=False) as watch:
            assert off(watch) == {slug for slug in lost if rules.find(slug).level_in(mode) != "off"}
            warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
            assert len(warnings) == bool(off(watch))
            assert all(slug in warnings[0].getMessage() for slug in off(watch))
            assert str(name) in watch.status()["sqlalchemy"]["missing"]
            right = dict(every_use.outcomes(every_use.RIGHT))
            assert right == {use: bare[use] for use in right}
            assert watch.status()["internal_errors"] == {}
            assert [one.rule for one in watch.findings if one.severity == "fault"] == []
    with sessionwatch.watching("log", log=False, **every_use.SETTINGS) as watch:
        assert dict(every_use.outcomes(every_use.RIGHT + every_use.WRONG)) == bare
        assert watch.status()["internal_errors"] == {}
    assert {finding.rule for finding in watch.findings} == every_use.REPORTED - lost


@pytest.mark.parametrize("name", TAKES)
def test_exactly_these_rules_need_it(name: str) -> None:
    """What a name takes with it is what a reader of the rules would say."""
    for found in [one for one in private.NAMES if str(one) == name]:
        assert needing(found) == TAKES[name]


def test_another_mode_does_not_bring_a_rule_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that is off by default, and could not see, stays off where a test switches the mode."""
    monkeypatch.setattr(private.SESSION_ID, "name", GONE)
    with sessionwatch.watching("log", log=False) as watch, watch.switched("strict"):
        assert watch.config.levels["detached-touch"] == "off"


def test_the_names_are_read_again_once_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation looks anew: nothing that an earlier one missed stays unread."""
    with monkeypatch.context() as patched:
        patched.setattr(private.FLUSHING, "name", GONE)
        sessionwatch.watching("log", log=False).__enter__().uninstall()
        assert read.missing == [private.FLUSHING]
    with sessionwatch.watching("log", log=False) as watch:
        assert (read.missing, off(watch)) == ([], set())


def test_no_private_name_is_given_twice() -> None:
    """The second one would take the place of the first, and what reads that is silently wrong."""
    tree = ast.parse(Path(private.__file__).read_text(encoding="utf-8"))
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    given = Counter(target.id for target in targets if isinstance(target, ast.Name))
    assert len(given) > 50
    assert [name for name, times in given.items() if times > 1] == []
