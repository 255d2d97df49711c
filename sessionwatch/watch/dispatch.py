"""From an event to what is told of it: the rules that handle it, what covers a finding, who is to be told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import rules
from ..border import is_foreign
from ..hooks.errors import RAISED
from ..model import LOADED_VALUES, Evidence, Finding, FindingError, Options, Rule
from ..output.messages import render
from ..record.events import DetachedTouch, Event
from ..record.life import SessionRecord
from ..units.scope import current_unit
from . import placing
from .breaker import Breaker
from .health import DROPPED

if TYPE_CHECKING:
    from ..config import Config
    from ..output.store import Turn
    from ..record.allowances import Allowance
    from ..record.tracker import Tracker
    from .audience import Audience
    from .placing import Plumbing
    from .suppress import Suppressions

logger = logging.getLogger("sessionwatch")


class Dispatch:
    """One installation's rules at work. `handle` takes an event and returns what is to be raised, or None."""

    def __init__(
        self,
        config: Config,
        tracker: Tracker,
        turn: Turn,
        suppressions: Suppressions,
        plumbing: Plumbing,
        audience: Audience,
    ) -> None:
        self.config, self.tracker, self.turn = config, tracker, turn
        self.suppressions, self.plumbing, self.audience = suppressions, plumbing, audience
        self.breaker = Breaker(config.settings["breaker.share"])
        self.judge: Callable[[Finding, Event], bool | None] | None = None  # see `Watch.ask`
        self._handlers: dict[type[Event], list[tuple[Rule, Options]]] = {}

    def enable(self, enabled: list[Rule]) -> frozenset[type[Event]]:
        """From now on these rules handle events; returns the types of which somebody wants to know."""
        handlers: dict[type[Event], list[tuple[Rule, Options]]] = {}
        touches = any(DetachedTouch in rule.events for rule in enabled)  # so that not every fix is one
        for rule in enabled:
            settings = Options(self.config.rule_settings(rule.slug) | {LOADED_VALUES: touches})
            for kind in rule.events:
                handlers.setdefault(kind, []).append((rule, settings))
        self._handlers = handlers  # at once: another thread may have an event now
        return frozenset(handlers)

    def handle(self, event: Event, allowances: tuple[Allowance, ...]) -> Exception | None:
        """Let the rules look at an event; ``allowances``: those of its session, and of where it happened."""
        raised: Exception | None = None
        for rule, settings in self._handlers.get(type(event), ()):
            try:
                found = list(rule.check(event, settings))
            except Exception:
                self._drop(rule)
                continue
            for finding in found:
                error = self._found(finding, event, allowances)
                raised = raised or error
        return raised

    def _drop(self, rule: Rule) -> None:
        try:
            self.tracker.failed(f"rule {rule.slug}")  # raises what is none of ours: the rule stays
        finally:
            if not is_foreign(sys.exception()):
                self._let_go(rule)

    def _let_go(self, rule: Rule) -> None:
        for kind, handlers in self._handlers.items():
            self._handlers[kind] = [handler for handler in handlers if handler[0] is not rule]
        self.config.origins[f"rules.{rule.slug}"] = DROPPED

    def _found(self, finding: Finding, event: Event, allowances: tuple[Allowance, ...]) -> Exception | None:
        if self.config.mode != "telemetry":
            return self._tell(finding, event, allowances)
        if self.breaker.is_open:
            self._count(finding, event, allowances)
            return None
        began = self.breaker.cost()
        try:
            return self._tell(finding, event, allowances)
        finally:
            self.breaker.spent(began)

    def _count(self, finding: Finding, event: Event, allowances: tuple[Allowance, ...]) -> None:
        """Count a finding, without its story."""
        finding.mode = self.config.mode
        self.suppressions.cover(finding, allowances)
        if not finding.covered:
            self.tracker.found.add(finding)
        told: list[Finding] | None = getattr(event, "told", None)
        if told is not None:
            told.append(finding)

    def _tell(self, finding: Finding, event: Event, allowances: tuple[Allowance, ...]) -> Exception | None:
        finding.mode = self.config.mode
        finding.level = self.config.levels[finding.rule]
        finding.trace_id, finding.span_id = _trace_ids() if not self.tracker.notes.collecting else (None, None)
        session = _session_of(event)
        self._place(finding, session)
        self.suppressions.cover(finding, allowances)
        raising = self.judge is None or self.judge(finding, event)
        if raising is None:
            return None
        if not finding.covered:
            self.tracker.found.add(finding)
        label = finding.session["id"] if finding.session else None  # of this occurrence
        finding, first = self.turn.meet(finding)
        if first is not None:
            self.audience.record(finding, label, session, event)
        if first and not finding.covered:
            comment = self.suppressions.mistake(finding)
            if comment is not None:
                finding.evidence = (*finding.evidence, comment)
        _answer(event, finding)
        if first is not None:
            self.audience.tell(finding, first, session)
        if finding.level != "raise" or finding.covered or not raising:
            return None
        return _error(finding, event)

    def _place(self, finding: Finding, session: SessionRecord | None) -> None:
        """Find out who called, and what the finding points to."""
        with self.tracker.guarded("placing"):
            unit = session.unit if session is not None else current_unit()
            frame = sys._getframe(1) if not self.tracker.notes.collecting else None
            placing.place(finding, self.plumbing, frame, unit.handler if unit is not None else None)

    def taken_back(self, record: SessionRecord, seconds: float, kinds: tuple[type[Event], ...]) -> None:
        """A transaction that was reported while it was open has ended: say how long it took."""
        if self.tracker.notes.collecting:  # at any moment: see there
            self.tracker.notes.note(lambda: self._take_back(record, seconds, kinds))
        else:
            with self.tracker.guarded("watchdog"):
                self._take_back(record, seconds, kinds)

    def _take_back(self, record: SessionRecord, seconds: float, kinds: tuple[type[Event], ...]) -> None:
        self.tracker.notes.say_all()
        slugs = [rule.slug for kind in kinds for rule in rules.handling(kind)]
        kept = (*self.turn.findings, *self.turn.allowed)
        found = [item for item in kept if item.rule in slugs and _is_of(item, record)]
        for finding in found:
            note = f"the transaction of session {record.label} ended after {seconds:.1f} s"
            finding.evidence = (Evidence("ended", None, note=note), *finding.evidence)
            if self.audience.output is not None:
                self.audience.output(finding, False)  # written again at the end
        hidden = {item.rule for item in found if item.covered}
        for slug in slugs if self.audience.log else ():
            if self.config.levels[slug] != "off" and slug not in hidden:
                logger.info("%s: the transaction of session %s ended after %.1f s", slug, record.label, seconds)


def _answer(event: Event, finding: Finding) -> None:
    """Give the event what it waits for: the finding, its story, its story as a note of an error."""
    told: list[Finding] | None = getattr(event, "told", None)
    if told is not None:
        told.append(finding)
    if finding.covered:
        return
    error = getattr(event, "error", None)
    if error is not None:
        error.add_note(render(finding))
    stories = getattr(event, "stories", None)  # for an error that may follow from it
    if stories is not None:
        stories.append(render(finding))


def _is_of(finding: Finding, record: SessionRecord) -> bool:
    return finding.session is not None and finding.session["id"] == record.label


def _session_of(event: Event) -> SessionRecord | None:
    """The record of the session that an event is about; None where that is not known, or it has ended long since."""
    record = getattr(event, "record", None) or getattr(getattr(event, "holder", None), "record", None)
    return record if isinstance(record, SessionRecord) else None


def _error(finding: Finding, event: Event) -> FindingError:
    finding.raised = True
    return RAISED.get(type(event), FindingError)(finding, render(finding))


def _trace_ids() -> tuple[str | None, str | None]:
    """The current span's ids, as 32 and 16 hexadecimal digits, where the program uses OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None, None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None, None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"
