"""What ``watch.status()`` says: what is installed, where each value came from, and what was counted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from .. import rules
from ..hooks.private import VERSION
from ..hooks.reading import live_sessions, read
from ..record.key import KEY
from ..record.watchdog import KINDS, Watchdog

if TYPE_CHECKING:
    from ..config import Config
    from ..output.store import Store, Turn
    from ..record.life import SessionRecord
    from ..record.tracker import Tracker
    from ..telemetry.metrics import Metrics
    from .needs import Lacks


def status(
    config: Config, tracker: Tracker, store: Store, turn: Turn, watchdog: Watchdog, telemetry: Metrics, lacks: Lacks
) -> dict[str, Any]:
    """All of it but whether the installation is in force, as JSON would have it."""
    tracker.notes.say_all()
    by_rule: Counter[str] = Counter()
    for finding in list(turn.findings):
        by_rule[finding.rule] += finding.count
    return {
        "sqlalchemy": {"version": VERSION, "missing": {str(name): name.why for name in read.missing}},
        **_configured(config),
        "sessions": _sessions(tracker),
        "overdue": _overdue(config, watchdog),
        "statements": tracker.totals["statements"],
        "flushes": tracker.totals["flushes"],
        "rows_written": sum(tracker.written.copy().values()),
        "findings": dict(by_rule),
        "findings_not_kept": store.overflow,
        "allowed": sum(finding.count for finding in list(turn.allowed) if finding.allowed is not None),
        "known": sum(finding.count for finding in list(turn.allowed) if finding.allowed is None),
        "internal_errors": dict(tracker.internal_errors),
        "telemetry": telemetry.status() | lacks.status(),
    }


def open_records() -> list[SessionRecord]:
    """The records of the sessions that are open and are counted."""
    records = (session.__dict__.get(KEY) for session in live_sessions())
    return [one for one in records if one is not None and one.closed_how is None and not one.muted]


def _configured(config: Config) -> dict[str, Any]:
    origins = config.origins
    return {
        "mode": {"value": config.mode, "from": origins["mode"]},
        "rules": {slug: {"value": level, "from": origins[f"rules.{slug}"]} for slug, level in config.levels.items()},
        "settings": {
            name: {"value": value, "from": origins[f"settings.{name}"]} for name, value in config.settings.items()
        },
        "output": {"value": config.output, "from": origins["output"]},
        "baseline": {"value": config.baseline, "from": origins["baseline"]},
        "through": {"value": list(config.through), "from": origins["through"]},
    }


def _sessions(tracker: Tracker) -> dict[str, Any]:
    return {
        "opened": {kind: n for kind, n in tracker.opened_by_kind.items() if n},
        "closed": {
            f"{outcome}, {kind}": count
            for kind, by_outcome in tracker.ends.items()
            for outcome, ends in by_outcome.items()
            if (count := ends.count + tracker.told[kind].get(outcome, 0))
        },
        "active": len(open_records()),
    }


def _overdue(config: Config, watchdog: Watchdog) -> dict[str, list[str]]:
    """The sessions that rules have reported while they are open."""
    return {
        rule.slug: [holder.record.label for holder in watchdog.reported(rule.events)]
        for rule in rules.ALL
        if config.levels[rule.slug] != "off" and not {*KINDS}.isdisjoint(rule.events)
    }
