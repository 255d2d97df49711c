"""A user pays only for the rules that are on: what is installed, by configuration."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import rules
from sessionwatch.hooks.table import HOOKS, LISTENERS
from sessionwatch.model import Rule
from sessionwatch.record import events

SLUGS = [rule.slug for rule in rules.ALL]
# What a read, a write and a statement of the program pass through.
READ = "InstrumentedAttribute.__get__"
WRITE = "InstrumentedAttribute.__set__"
STATEMENT = "Connection._exec_single_context"


def _places() -> Iterator[tuple[str, Any, str]]:
    for hook in HOOKS:
        try:
            module = importlib.import_module(hook.place.spelled()[0])
        except ImportError:
            continue
        owner = getattr(module, hook.place.spelled()[1], None) if hook.place.spelled()[1] else module
        if owner is not None:
            yield f"{hook.place.spelled()[1]}.{hook.place.spelled()[2]}", owner, hook.place.spelled()[2]


def _listeners() -> dict[str, int]:
    session = Session()
    return {event.name: len(getattr(session.dispatch, event.name)) for event in LISTENERS}


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


def makes_for(row: Any, rule: Rule) -> bool:
    """Whether a row of the hooks' table makes an event that the rule handles."""
    return any(issubclass(kind, row.makes) for kind in rule.events)


@pytest.mark.parametrize("rule", rules.ALL, ids=SLUGS)
def test_a_rule_installs_what_its_events_need_and_nothing_else(rule: Rule) -> None:
    """Alone, a rule replaces the attributes that make its events, and listens to what does."""
    replaced, listened = installed("log", rule.slug)
    assert replaced <= {
        f"{hook.place.spelled()[1]}.{hook.place.spelled()[2]}" for hook in HOOKS if makes_for(hook, rule)
    }
    assert listened == {row.name for row in LISTENERS if makes_for(row, rule)}


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        (READ, {events.DetachedTouch}),
        (WRITE, {events.DetachedWrite}),
        (
            STATEMENT,
            {
                events.Blocked,
                events.ConnectionEnded,
                events.DiscardedWrites,
                events.ErrorSwallowed,
                events.InheritedConnection,
                events.LateCommit,
                events.Overlap,
                events.SessionEnded,
                events.SharedConnection,
                events.SplitCommit,
                events.TransactionOverdue,
            },
        ),
    ],
)
def test_a_hot_path_is_paid_for_by_the_rules_that_need_it(place: str, kinds: set[type]) -> None:
    """Each hot path is replaced for exactly these events; for another rule alone it is SQLAlchemy's own."""
    payers = {rule.slug for rule in rules.ALL if not kinds.isdisjoint(rule.events)}
    assert payers
    assert {slug for slug in SLUGS if place in installed("log", slug)[0]} == payers


def test_telemetry_leaves_reads_and_writes_of_attributes_alone() -> None:
    """In telemetry mode no attribute of a model is any slower."""
    with sessionwatch.watching("telemetry", log=False) as watch:
        on = [slug for slug, level in watch.config.levels.items() if level != "off"]
    replaced, _ = installed("telemetry", *on)
    assert STATEMENT in replaced
    assert not replaced & {READ, WRITE}
