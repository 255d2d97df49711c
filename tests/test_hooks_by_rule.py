"""A user pays only for the rules that are on: what is installed, by configuration."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import rules
from sessionwatch.hooks import EVENTS, HOOKS

SLUGS = [rule.slug for rule in rules.ALL]
# What a read, a write and a statement of the program pass through.
READ = "InstrumentedAttribute.__get__"
WRITE = "InstrumentedAttribute.__set__"
STATEMENT = "Connection._exec_single_context"


def _places() -> Iterator[tuple[str, Any, str]]:
    for hook in HOOKS:
        try:
            module = importlib.import_module(hook.module)
        except ImportError:
            continue
        owner = getattr(module, hook.owner, None) if hook.owner else module
        if owner is not None:
            yield f"{hook.owner}.{hook.name}", owner, hook.name


def _listeners() -> dict[str, int]:
    session = Session()
    return {event.name: len(getattr(session.dispatch, event.name)) for event in EVENTS}


def installed(mode: str, *on: str) -> tuple[set[str], set[str]]:
    """The attributes that are replaced, and the events that are listened to, with only the rules ``on``."""
    before = [(name, owner, attribute, vars(owner).get(attribute)) for name, owner, attribute in _places()]
    listeners = _listeners()
    levels: Any = {slug: "log" if slug in on else "off" for slug in SLUGS}
    with sessionwatch.watching(mode, rules=levels, log=False):  # type: ignore[arg-type]
        replaced = {name for name, owner, attribute, raw in before if vars(owner).get(attribute) is not raw}
        return replaced, {name for name, count in _listeners().items() if count > listeners[name]}


@pytest.mark.parametrize("mode", ["log", "strict"])
def test_nothing_is_installed_where_every_rule_is_off(mode: str) -> None:
    """An installation without a rule replaces nothing and listens to nothing."""
    assert installed(mode) == (set(), set())


@pytest.mark.parametrize("slug", SLUGS)
def test_a_rule_installs_what_it_needs_and_nothing_else(slug: str) -> None:
    """Alone, a rule replaces the attributes that the table names for it, and listens to the events of its rows."""
    replaced, events = installed("log", slug)
    needed = {f"{hook.owner}.{hook.name}" for hook in HOOKS if slug in hook.needs}
    assert replaced <= needed
    assert events == {event.name for event in EVENTS if slug in event.needs}


@pytest.mark.parametrize(
    ("place", "payers"),
    [
        (READ, {"detached-touch"}),
        (WRITE, {"detached-write"}),
        (
            STATEMENT,
            {
                "blocking-io",
                "cross-process",
                "cross-task",
                "long-session",
                "lost-writes",
                "session-leak",
                "split-unit-of-work",
                "swallowed-error",
            },
        ),
    ],
)
def test_a_hot_path_is_paid_for_by_the_rules_that_need_it(place: str, payers: set[str]) -> None:
    """Each hot path is replaced by exactly these rules; with another one alone it is SQLAlchemy's own."""
    assert {slug for slug in SLUGS if place in installed("log", slug)[0]} == payers


def test_telemetry_leaves_reads_and_writes_of_attributes_alone() -> None:
    """In telemetry mode no attribute of a model is any slower."""
    with sessionwatch.watching("telemetry", log=False) as watch:
        on = [slug for slug, level in watch.config.levels.items() if level != "off"]
    replaced, _ = installed("telemetry", *on)
    assert STATEMENT in replaced
    assert not replaced & {READ, WRITE}
