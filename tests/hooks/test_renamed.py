"""A release of SQLAlchemy in which a private name is another one: a copy of its sources, as a program would have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sessionwatch import rules
from sessionwatch.hooks.private import VERSION
from tests.hooks import renamed
from tests.programs import every_use

WRITTEN = {"lost-writes", "shared-connection", "late-commit", "discarded-writes"}  # what tells of writes
# What is off then, worked out by hand. Where it is nothing, something public is read in its place.
RENAMED: dict[str, set[str]] = {
    "_new": {*WRITTEN, "config", "reattach"},  # of transactions, too
    "_deleted": {*WRITTEN, "config", "cross-session"},
    "_modified": {*WRITTEN, "config", "cross-session"},
    "_wr": set(),
    "_connections": {
        *WRITTEN, "session-leak", "split-unit-of-work", "long-session", "swallowed-error", "config",
    },
    "_parent": set(),
    "runid": {"n-plus-one", "reattach", "cross-session"},
    "_sessions": {"detached-write", "cross-session", "swallowed-error"},
    "_all_registries": {"untracked-mutation"},
    "_instance_dict": {"detached-access", "detached-touch", "detached-write", "reattach"},
    "_before_attach": {"cross-session"},
    "_get_impl": {"n-plus-one"},
    "refresh_state": {"n-plus-one"},
    "_recursive": {"reattach"},
    "_dbapi_connection": {*WRITTEN, "long-session", "cross-process", "foreign-loop"},
    "_flushing": {"swallowed-error", "config", "discarded-writes"},
    "_transaction": set(),
    "_close_impl": {rule.slug for rule in rules.ALL} - {"boundary", "config"},
    "_exec_single_context": {
        *WRITTEN, "session-leak", "cross-task", "blocking-io", "split-unit-of-work", "long-session",
        "swallowed-error", "cross-process",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RENAMED)
def test_a_release_with_another_name(name: str, tmp_path: Path) -> None:
    """The program sees what it sees bare, in each mode; these rules are said to be off, and all others report."""
    told = renamed.run(renamed.copy(tmp_path, name, f"_{name.strip('_')}_of_late"))
    bare = dict(told["bare"])
    for mode in ("log", "strict", "telemetry"):
        seen, status = dict(told[mode]["outcomes"]), told[mode]["status"]
        assert seen == {use: bare[use] for use in seen}
        assert status["internal_errors"] == {}
        off = {slug for slug, rule in status["rules"].items() if "SQLAlchemy" in rule["from"]}
        on_elsewhere = {rule.slug for rule in rules.ALL if rule.level_in(mode) != "off"}
        on_elsewhere |= set(every_use.SETTINGS["rules"]) if mode == "log" else set()
        assert off == RENAMED[name] & on_elsewhere
    assert set(told["log"]["reported"]) == every_use.REPORTED - RENAMED[name]
    assert told["stderr"].count("as sessionwatch knows it") == sum(
        any("SQLAlchemy" in rule["from"] for rule in told[mode]["status"]["rules"].values())
        for mode in ("log", "strict", "telemetry")
    )


def test_config_says_which_rule_is_off(tmp_path: Path) -> None:
    """``sessionwatch config`` shows what an installation would say of its rules, and why."""
    renamed.copy(tmp_path, "_before_attach", "_before_attach_of_late")
    done = renamed.python(tmp_path, "sessionwatch", "config", "--format", "json")
    value = json.loads(done.stdout)["rules.cross-session"]
    assert value["value"] == "off"
    assert value["from"] == f"SQLAlchemy {VERSION} has no Session._before_attach, which the rule needs"
