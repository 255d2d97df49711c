"""Composition: configuration, hooks, rules, suppressions and sinks make one `Watch`; see `installation`."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from .. import config, rules
from ..frames import callsite, chain
from ..hooks import changes, closing, installing, ownership, recorded
from ..hooks.connections import Connections
from ..hooks.context import Context
from ..hooks.errors import RAISED
from ..hooks.loops import Loops
from ..hooks.pools import Pools
from ..hooks.private import VERSION
from ..hooks.reading import live_sessions, read
from ..hooks.settings import Settings
from ..hooks.sharing import Sharing
from ..model import Evidence, Finding, FindingError, Limits, Mode, Ownership, Rule, project_root
from ..output import sinks
from ..output.messages import holders, render
from ..output.store import Store, Turn
from ..record.allowances import Allowance, active_allowances
from ..record.events import Counted, Event, SplitCommit
from ..record.ledger import Ledger, SessionRecord
from ..record.recording import Recording
from ..record.story import held as story_of
from ..record.tracker import KEY, Tracker
from ..record.watchdog import KINDS, Watchdog
from ..saying import say
from ..telemetry.metrics import Metrics, Pairs, Source
from ..units import auto
from ..units.scope import Unit, current_unit, on_process_end, on_unit_end
from . import placing, target
from .placing import Plumbing, Unmatched
from .suppress import Suppressions

if TYPE_CHECKING:
    from ..telemetry.signals import Signals

logger = logging.getLogger("sessionwatch")


class Watch:
    """One installation. Also a context manager that uninstalls at its end."""

    def __init__(
        self,
        settings: config.Config,
        *,
        log: bool = True,
        gives_way: bool = False,
        providers: Mapping[str, Any] | None = None,
        recording: Recording | None = None,
        store: Store | None = None,
        uninstall: Callable[[Watch], None],
        toggle: Callable[[Watch, bool], None],
    ) -> None:
        self.config = settings
        self.log = log
        self.gives_way = gives_way  # not made by the program: an installation of its own replaces it
        self.providers = dict(providers or {})  # of OpenTelemetry, where not the global ones
        self.recording = recording  # where a report's picture was asked for
        self.signals: Signals | None = None  # in mode telemetry
        self.replaced: Watch | None = None  # which one gave way to this
        self._uninstall, self._toggle = uninstall, toggle
        self.installed = True  # until it is uninstalled; it may be paused meanwhile
        self.store = store or Store()
        self.store.limit = settings.settings["history.findings"]
        self._turn = Turn(self.store)
        self.tracker = Tracker(
            self._handle,
            Ledger(settings.settings["history.sessions"], settings.settings["history.loads"]),
            target.wants(settings.target),
        )
        self.tracker.when_collected = closing.collected
        self.tracker.when_pool_ran_dry = self._pool_ran_dry
        self._pending = changes.PendingWrites(self.tracker)
        self._pools = Pools(self.tracker)
        self._sharing = Sharing(self.tracker)
        self._connections = Connections(self.tracker)
        self._loops = Loops(self.tracker)
        self._settings = Settings(self.tracker)  # what was told of them is told, whatever mode is switched to
        self.watchdog = Watchdog(self.tracker.emit, self._taken_back, self.tracker.failed, self._limits())
        self.watchdog.attend = self.tracker.notes.say
        self.tracker.notes.wake = self.watchdog.ring
        self.tracker.notes.when_said = self._said
        self.telemetry = Metrics(self._source(), _pairs(settings))
        if "meter_provider" in self.providers:
            self.telemetry.use(self.providers["meter_provider"])
        self._suppressions = Suppressions(settings.baseline)
        self.plumbing = Plumbing(settings.through, settings.root)
        self._output = sinks.JsonLines(settings.output, self.store) if settings.output else None
        self._subscribers: list[sinks.Sink] = []
        self._dispatch: dict[type, list[tuple[Rule, dict[str, Any]]]] = {}
        self.judge: Callable[[Finding, Event], bool | None] | None = None  # see `Watch.ask`
        self.when_opened: Callable[[SessionRecord], None] | None = None
        self._exiting = False
        self._lost: dict[str, str] = {}  # rules that can't work with this SQLAlchemy, and what it is without
        self._uncounted: str | None = None  # what it is without, where telemetry can't count
        self._hooked = contextlib.ExitStack()
        self._undo = contextlib.ExitStack()

    # -- life -----------------------------------------------------------------------------------------

    def start(self, before: Watch | None = None) -> None:
        """Put everything in its place, with the subscribers of the one ``before``; undone where that fails half way."""
        self._subscribers += before._subscribers if before is not None else []
        self.recording = self.recording or (before.recording if before is not None else None)
        try:
            self._start()
        except BaseException:
            self._hooked.close()
            self._undo.close()
            raise

    def _start(self) -> None:
        self._undo.enter_context(project_root(self.config.root))
        callsite.treat_as_user(self.config.source)
        self._switch_off_what_cannot_work()
        self.rehook()
        self._undo.enter_context(on_unit_end(self._unit_ended, self.tracker.failed))
        self._undo.enter_context(on_process_end(self._process_ends))
        atexit.register(self._at_exit)
        self._undo.callback(atexit.unregister, self._at_exit)
        if self.config.mode != config.OFF:
            self.telemetry.start()

    def _source(self) -> Source:
        return Source(
            self.tracker,
            mode=lambda: self.config.mode,
            rules=lambda: [slug for slug, level in self.config.levels.items() if level != "off"],
            open_records=lambda: [record for record in map(_open, live_sessions()) if record is not None],
            at_exit=self._at_exit,
            pools=self._pools.read,
        )

    def rehook(self) -> None:
        """Install what the enabled rules need, and build the table of who handles which event."""
        self._hooked.close()
        if not self.tracker.active:  # paused
            return
        enabled = [rule for rule in rules.ALL if self.config.levels[rule.slug] != "off"]
        self._dispatch = {}
        for rule in enabled:
            for kind in rule.events:
                self._dispatch.setdefault(kind, []).append((rule, self.config.rule_settings(rule.slug)))
        counting = self.config.mode == "telemetry"
        chain.keep(not counting)
        self._signal(counting)
        if self.recording is not None:
            self._record_sessions(self.recording)
        if self.when_opened is not None:
            self.tracker.when_opened = _both(self.tracker.when_opened, self.when_opened)
        wanted = frozenset(self._dispatch)
        self.tracker.activations = not counting and SplitCommit in wanted
        context = Context(
            self.tracker,
            self._pending,
            self._pools,
            self._settings,
            self._loops,
            self._connections,
            self._sharing,
            sites=not counting,
            limits=self._limits(),
            watchdog=self.watchdog,
            events=wanted | {Counted} if counting and self._uncounted is None else wanted,
            handlers=rules.slugs_by_event(),
        )
        self._hooked = installing.install(context)
        if self.recording is not None:
            self._hooked.callback(recorded.follow(self.recording, self.tracker))
        if enabled or counting:
            self._hooked.enter_context(auto.frameworks())
        if not context.wants(*KINDS):
            self.watchdog.stop()

    def _signal(self, on: bool) -> None:
        """Begin or end to make spans and log records: OpenTelemetry is imported for that, and not before."""
        if self.signals is not None:
            if on:
                return
            self.signals.flush()
        self.signals = None
        if on:
            from ..telemetry.signals import Signals

            self.signals = Signals(
                self.tracker, log=self.log, providers=self.providers, on_provider=self._exit_before_others
            )
        self.tracker.discreet = on
        self.tracker.when_opened = self.signals.opened if self.signals is not None else None
        self.tracker.when_ended = self.signals.ended if self.signals is not None else None

    def _record_sessions(self, recording: Recording) -> None:
        """Let the recording hear of each session, and then the signals."""
        signals = self.signals

        def opened(record: SessionRecord) -> None:
            recording.opened(record)
            if signals is not None:
                signals.opened(record)

        def ended(record: SessionRecord, outcome: str) -> None:
            recording.closed(record, outcome)
            if signals is not None:
                signals.ended(record, outcome)

        self.tracker.when_opened, self.tracker.when_ended = opened, ended

    def _limits(self) -> Limits:
        limits = Limits()
        for rule in rules.ALL:
            if rule.limits is not None:
                limits = rule.limits(limits, self.config.rule_settings(rule.slug), self.config.levels[rule.slug])
        return limits

    def _switch_off_what_cannot_work(self) -> None:
        needs = {rule.slug: rule.events + rule.parts for rule in rules.ALL}
        without = installing.missing([Counted, *(kind for kinds in needs.values() for kind in kinds)])
        self._lost = {slug: without[kind] for slug, kinds in needs.items() for kind in kinds if kind in without}
        self._uncounted = without.get(Counted)
        off = [slug for slug in self._lost if self.config.levels[slug] != "off"]
        for slug in off:
            self.config.levels[slug] = "off"
            self.config.origins[f"rules.{slug}"] = (
                f"SQLAlchemy {VERSION} has no {self._lost[slug]}, which the rule needs"
            )
        lacks = [self._lost[slug] for slug in off]
        if self._uncounted is not None and self.config.mode == "telemetry":
            lacks.append(self._uncounted)
            off.append("what telemetry counts")
        if off:
            names = ", ".join(dict.fromkeys(lacks))
            told = "sessionwatch: SQLAlchemy %s has no %s as sessionwatch knows it; switched off: %s"
            say(logging.WARNING, told, VERSION, names, ", ".join(off))

    def uninstall(self) -> None:
        """Restore everything exactly. Calling it again does nothing."""
        self._uninstall(self)

    def stop(self) -> None:
        """Take everything out again: what `uninstall` does to this watch, once. What waits was told before."""
        self._signal(False)
        self.installed = False
        self._unhook()
        self.telemetry.stop()
        self._undo.close()
        self._pending.forget()
        if self._output is not None:
            with self.tracker.guarded("output"):
                self._output.close()

    def pause(self) -> None:
        """Take out every hook, at any moment and from any thread, until `resume`. What was found stays.

        A session that is open now is forgotten, as one is that was opened before the installation.
        """
        self._toggle(self, False)

    def resume(self) -> None:
        """Watch again after `pause`. Each of the two does nothing where it is done already."""
        self._toggle(self, True)

    def switch(self, on: bool) -> None:
        """What `pause` and `resume` do to this watch; the caller sees to it that nobody else does."""
        if self.installed and on is not self.tracker.active:
            if on:
                self.tracker.active = True
                self.rehook()
            else:
                self._unhook()

    def _unhook(self) -> None:
        """From now on nothing is watched. Other threads may be inside of a hook: it lets them pass."""
        self.tracker.active = False
        self.watchdog.stop()
        self._hooked.close()
        for session in live_sessions():
            record = session.__dict__.pop(KEY, None)
            if record is not None:
                record.muted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstall()

    @contextlib.contextmanager
    def switched(self, mode: Mode) -> Iterator[Watch]:
        """Another mode for the length of a block: levels that were set by hand stay as they are."""
        before = dict(self.config.levels), self.config.mode
        for rule in rules.ALL:
            by_default = self.config.origins.get(f"rules.{rule.slug}", "").startswith("default")
            if by_default and rule.slug not in self._lost:
                self.config.levels[rule.slug] = rule.level_in(mode)
        self.config.mode = mode
        self.rehook()
        try:
            yield self
        finally:
            self.config.levels, self.config.mode = before
            self.rehook()

    # -- what was found -------------------------------------------------------------------------------

    @property
    def findings(self) -> list[Finding]:
        """Distinct ones, in the order they happened; ``count`` grows."""
        self.tracker.notes.say_all()
        return self._turn.findings

    @property
    def allowed(self) -> list[Finding]:
        """Those that an allowance or the baseline covers."""
        self.tracker.notes.say_all()
        return self._turn.allowed

    def drain(self) -> None:
        """Report what waits: what the collector found, and changes to detached instances that no session took."""
        self.tracker.notes.say_all()
        self._pending.report()
        if self.signals is not None:
            self.signals.flush()

    def _said(self) -> None:
        if self.signals is not None:
            self.signals.flush(most=50)

    def clear(self) -> None:
        """Forget every finding so far."""
        self.tracker.notes.say_all()
        self._turn.begin()

    def has_open_sessions(self) -> bool:
        """Whether a session that is in a transaction, or an async one, has not been closed."""
        for session in live_sessions():
            record = session.__dict__.get(KEY)
            if record is not None and record.closed_how is None and record.began is not None:
                return True
        return False

    def covers(self, finding: Finding) -> bool:
        """Whether an allowance of this context, the line's comment or the baseline covers a finding."""
        self._suppressions.cover(finding, active_allowances())
        return finding.covered

    def subscribe(self, sink: sinks.Sink) -> Callable[[], None]:
        """Call ``sink(finding, first)`` for each occurrence, allowed ones too; returns the undo."""
        self._subscribers.append(sink)
        return lambda: self._subscribers.remove(sink) if sink in self._subscribers else None

    def ask(self, judge: Callable[[Finding, Event], bool | None], when_opened: Callable[[SessionRecord], None]) -> None:
        """Let somebody else decide where a finding is told, and hear of each session that opens.

        ``judge(finding, event)`` is asked before anybody is told: True where it may be raised, False where it may
        not, None where it is to be forgotten because it was told already.
        """
        self.judge, self.when_opened = judge, when_opened
        self.rehook()

    def unused_allowances(self) -> list[Allowance | Unmatched]:
        """Allowances that matched nothing so far, and globs of ``through`` that match no file."""
        return [*self._suppressions.unused(), *self.plumbing.unmatched()]

    def used_allowances(self) -> list[Allowance]:
        """Allowances that covered a finding so far."""
        return self._suppressions.used()

    def status(self) -> dict[str, Any]:
        """What is installed, where each value came from, and what was counted."""
        tracker, settings = self.tracker, self.config
        by_rule: Counter[str] = Counter()
        for finding in list(self.findings):
            by_rule[finding.rule] += finding.count
        return {
            "installed": self.installed,
            "paused": self.installed and not tracker.active,
            "sqlalchemy": {
                "version": VERSION,
                "missing": {str(name): name.why for name in read.missing},
            },
            "mode": {"value": settings.mode, "from": settings.origins["mode"]},
            "rules": {
                slug: {"value": level, "from": settings.origins[f"rules.{slug}"]}
                for slug, level in settings.levels.items()
            },
            "settings": {
                name: {"value": value, "from": settings.origins[f"settings.{name}"]}
                for name, value in settings.settings.items()
            },
            "output": {"value": settings.output, "from": settings.origins["output"]},
            "baseline": {"value": settings.baseline, "from": settings.origins["baseline"]},
            "through": {"value": list(settings.through), "from": settings.origins["through"]},
            "sessions": {
                "opened": {kind: n for kind, n in tracker.opened_by_kind.items() if n},
                "closed": {
                    f"{outcome}, {kind}": ends.count
                    for kind, by_outcome in tracker.ends.items()
                    for outcome, ends in by_outcome.items()
                    if ends.count
                },
                "active": sum(1 for session in live_sessions() if _open(session) is not None),
            },
            "overdue": {
                rule.slug: [holder.record.label for holder in self.watchdog.reported(rule.events)]
                for rule in rules.ALL
                if settings.levels[rule.slug] != "off" and not {*KINDS}.isdisjoint(rule.events)
            },
            "statements": tracker.totals["statements"],
            "flushes": tracker.totals["flushes"],
            "rows_written": sum(tracker.written.copy().values()),
            "findings": dict(by_rule),
            "findings_not_kept": self.store.overflow,
            "allowed": sum(finding.count for finding in list(self.allowed) if finding.allowed is not None),
            "known": sum(finding.count for finding in list(self.allowed) if finding.allowed is None),
            "internal_errors": dict(tracker.internal_errors),
            "telemetry": self.telemetry.status() | self._counting(),
        }

    def _counting(self) -> dict[str, str]:
        """Why telemetry does not count, where it can't."""
        if self._uncounted is None:
            return {}
        return {"counting": f"off: SQLAlchemy {VERSION} has no {self._uncounted}, which counting needs"}

    def owner_of(self, instance: object) -> Ownership | None:
        """Who owned ``instance``; None if nothing is known of it, or it is not a mapped instance."""
        state = read.state(instance)
        if state is None:
            return None
        owner = ownership.ownership(self.tracker, state)
        return owner if owner.session is not None or owner.loaded is not None else None

    # -- from event to finding ------------------------------------------------------------------------

    def _handle(self, event: Event, allowances: tuple[Allowance, ...]) -> Exception | None:
        raised: Exception | None = None
        for rule, settings in self._dispatch.get(type(event), ()):
            try:
                found = list(rule.check(event, settings))
            except Exception:
                self._drop(rule)
                continue
            for finding in found:
                error = self._record(finding, event, allowances)
                raised = raised or error
        return raised

    def _drop(self, rule: Rule) -> None:
        for kind, handlers in self._dispatch.items():
            self._dispatch[kind] = [handler for handler in handlers if handler[0] is not rule]
        self.config.origins[f"rules.{rule.slug}"] = "dropped after an internal error"
        self.tracker.failed(f"rule {rule.slug}")

    def _record(self, finding: Finding, event: Event, allowances: tuple[Allowance, ...]) -> Exception | None:
        finding.mode = self.config.mode
        finding.level = self.config.levels[finding.rule]
        finding.trace_id, finding.span_id = _trace_ids() if not self.tracker.notes.collecting else (None, None)
        self._place(finding, event)
        self._suppressions.cover(finding, allowances)
        raising = self.judge is None or self.judge(finding, event)
        if raising is None:
            return None
        if not finding.covered:
            self.tracker.found[finding.rule, finding.mode] += 1
        about = finding.session["id"] if finding.session else None  # of this occurrence
        finding, first = self._turn.meet(finding)
        if self.recording is not None and first is not None:
            with self.tracker.guarded("recording"):
                self.recording.found(finding, about, _session_of(event), event)
        if first and not finding.covered:
            comment = self._suppressions.mistake(finding)
            if comment is not None:
                finding.evidence = (*finding.evidence, comment)
        told: list[Finding] | None = getattr(event, "told", None)
        if told is not None:
            told.append(finding)
        error = getattr(event, "error", None)
        if error is not None and not finding.covered:
            error.add_note(render(finding))
        stories = getattr(event, "stories", None)  # for an error that may follow from it
        if stories is not None and not finding.covered:
            stories.append(render(finding))
        if self.signals is not None and first is not None and not finding.covered:
            with self.tracker.guarded("telemetry"):
                self.signals.found(finding, first, _session_of(event))
        for sink in self._sinks() if first is not None else ():
            try:
                sink(finding, bool(first))
            except Exception:
                self.tracker.failed(f"sink {getattr(sink, '__qualname__', type(sink).__name__)}")
        if finding.level != "raise" or finding.covered or not raising:
            return None
        return _error(finding, event)

    def _place(self, finding: Finding, event: Event) -> None:
        """Find out who called, and what the finding points to."""
        with self.tracker.guarded("placing"):
            record = _session_of(event)
            unit = record.unit if record is not None else current_unit()
            frame = sys._getframe(1) if not self.tracker.notes.collecting else None
            placing.place(finding, self.plumbing, frame, unit.handler if unit is not None else None)

    def _sinks(self) -> list[sinks.Sink]:
        chosen: list[sinks.Sink] = [*self._subscribers]
        if self.log and self.signals is None:
            chosen.append(sinks.log)
        if self._output is not None:
            chosen.append(self._output)
        if self.config.on_finding is not None:
            chosen.append(self._call_back)
        return chosen

    def _call_back(self, finding: Finding, first: bool) -> None:
        if first and not finding.covered and self.config.on_finding is not None:
            self.config.on_finding(finding)

    # -- what happens at this moment ------------------------------------------------------------------

    def _taken_back(self, record: SessionRecord, seconds: float, kinds: tuple[type[Event], ...]) -> None:
        """A transaction that was reported while it was open has ended: say how long it took."""
        if self.tracker.notes.collecting:  # at any moment: see there
            self.tracker.notes.note(lambda: self._take_back(record, seconds, kinds))
        else:
            with self.tracker.guarded("watchdog"):
                self._take_back(record, seconds, kinds)

    def _take_back(self, record: SessionRecord, seconds: float, kinds: tuple[type[Event], ...]) -> None:
        slugs = [rule.slug for kind in kinds for rule in rules.handling(kind)]
        found = [item for item in (*self.findings, *self.allowed) if item.rule in slugs and _is_of(item, record)]
        for finding in found:
            note = f"the transaction of session {record.label} ended after {seconds:.1f} s"
            finding.evidence = (Evidence("ended", None, note=note), *finding.evidence)
            if self._output is not None:
                self._output(finding, False)  # written again at the end
        hidden = {item.rule for item in found if item.covered}
        for slug in slugs if self.log else ():
            if self.config.levels[slug] != "off" and slug not in hidden:
                logger.info("%s: the transaction of session %s ended after %.1f s", slug, record.label, seconds)

    def _pool_ran_dry(self, error: BaseException, pool: int, checked_out: int) -> None:
        """A pool timed out: its error, and the log, say who holds its connections."""
        held = [
            (f"session {holder.record.label}, in a transaction for {holder.seconds:.1f} s", story_of(holder))
            for holder in self.watchdog.holders(pool)
        ]
        text = holders(held, checked_out)
        error.add_note(text)
        if self.log:
            logger.warning("%s", text)

    # -- ends -----------------------------------------------------------------------------------------

    def _unit_ended(self, unit: Unit) -> Exception | None:
        self.tracker.notes.say()
        raised = self._pending.report(unit) if self._pending.waiting else []
        still_open = [record for record in unit.records() if record.closed_how is None]
        if unit.lodges:
            for record in still_open:
                record.unit = None
            still_open = []
        if still_open:
            raised += self._left_open(still_open)
        if self.signals is not None:
            self.signals.flush(most=50)
        if self.recording is not None:
            with self.tracker.guarded("recording"):
                self.recording.unit_ended(unit)
        return raised[0] if raised else None

    def _left_open(self, records: list[SessionRecord]) -> list[Exception]:
        """Report those sessions of an ended unit that have a connection; returns what is to be raised."""
        raised: list[Exception] = []
        with self.tracker.guarded("unit_of_work"):
            records = _left_to_the_unit(records)
        for record in records:
            if record.closed_how is None and record.connections:
                with self.tracker.guarded("unit_of_work"):
                    event = closing.still_open(None, record, "unit")
                    error = self.tracker.emit(event, record.allowances)
                    record.leaked = True
                    raised += [error] if error is not None else []
        return raised

    def _exit_before_others(self) -> None:
        """Have our exit run before that of an SDK which was set up after us: the last one registered is the first."""
        if self.tracker.active and not self._exiting:
            atexit.unregister(self._at_exit)
            atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        """The program ends: what waits is reported, and what is still open."""
        self._exiting = True
        if not self.installed:
            return
        with self.tracker.guarded("exit"):
            self.drain()
            for session in live_sessions():
                record = session.__dict__.get(KEY)
                if record is not None and record.closed_how is None and not record.muted:
                    event = closing.still_open(session, record, "exit")
                    self.tracker.emit(event, record.allowances)
                    if self.signals is not None:
                        self.signals.ended(record, record.outcome(bool(event.writes), event.holds_connection))
                    if self.recording is not None:
                        self.recording.left_open(record)
                    record.muted = True
            self._connections.at_exit()
            if self.signals is not None:
                self.signals.flush()
            if self.recording is not None:
                self.recording.finish()
        if self._output is not None:
            with self.tracker.guarded("output"):
                self._output.flush()
        self.watchdog.stop()

    def _process_ends(self, over: bool) -> None:
        """The process, or the framework that it served, ends without Python's exit, or may do so."""
        if over:
            self._at_exit()
        if self.signals is not None:
            self.signals.force_flush(self.telemetry.provider())

    def forked(self) -> None:
        """In a forked child: what the parent found and opened is the parent's."""
        self.tracker.renew()
        self._pools.renew()
        self.telemetry.forked(child=True)
        self.watchdog.renew()
        self.store.forget()
        self.clear()
        self._pending.forget()
        if self.recording is not None:
            self.recording.forked()
        if self.signals is not None:
            self.signals.forget()
        if self._output is not None:
            self._output.forget()
        for session in live_sessions():
            record = session.__dict__.get(KEY)
            if record is not None:
                record.muted = True
                record.inside = None  # a thread that the child does not have


def import_first(mode: Mode) -> None:
    """Import what an installation needs, before it begins.

    Whoever waits for the end of an import may install then: in this thread, in the midst of ours; in another one,
    where we wait for its import, and it for us.
    """
    installing.import_all()
    if mode == "telemetry":
        from ..telemetry import signals  # noqa: F401


def _pairs(settings: config.Config) -> Pairs | None:
    return Pairs(settings.settings["telemetry.models_cap"]) if settings.settings["telemetry.models"] else None


def _both(
    first: Callable[[SessionRecord], None] | None, second: Callable[[SessionRecord], None]
) -> Callable[[SessionRecord], None]:
    def call(record: SessionRecord) -> None:
        if first is not None:
            first(record)
        second(record)

    return call


def _open(session: Any) -> SessionRecord | None:
    """The record of a session that is open and is counted."""
    record: SessionRecord | None = session.__dict__.get(KEY)
    return record if record is not None and record.closed_how is None and not record.muted else None


def _is_of(finding: Finding, record: SessionRecord) -> bool:
    return finding.session is not None and finding.session["id"] == record.label


def _left_to_the_unit(records: list[SessionRecord]) -> list[SessionRecord]:
    """The open sessions of an ended unit, without those of tasks that it began and that outlive it."""
    here = callsite.task_name()
    if here is None:
        return records
    others = callsite.running_tasks() - {here}
    left = [record for record in records if record.opening is not None and record.opening[3] in others]
    for record in left:
        record.unit = None  # it is theirs
    return [record for record in records if record not in left]


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
