"""Composition: configuration, hooks, rules, suppressions and sinks make one `Watch`; see `installation`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from .. import config, rules
from ..frames import callsite, chain
from ..hooks import attributes, closing, installing, ownership, recorded
from ..hooks.connections import Connections
from ..hooks.context import Context
from ..hooks.loops import Loops
from ..hooks.makers import Makers
from ..hooks.pools import Pools
from ..hooks.reading import live_sessions, read
from ..hooks.sharing import Sharing
from ..hooks.table import TABLE
from ..model import Finding, Mode, Ownership, Rule, project_root
from ..output.store import Store, Turn
from ..record.allowances import Allowance, active_allowances
from ..record.events import Counted, Event, SplitCommit
from ..record.key import KEY
from ..record.ledger import Ledger
from ..record.tracker import Tracker
from ..record.watchdog import KINDS, Watchdog
from ..telemetry.metrics import Metrics, Pairs, Source
from ..units import auto
from ..units.scope import on_process_end, on_unit_end
from . import target
from .audience import Audience
from .dispatch import Dispatch
from .ends import Ends
from .health import degraded
from .needs import Lacks, limits
from .placing import Plumbing, Unmatched
from .status import status
from .suppress import Suppressions

if TYPE_CHECKING:
    from ..output import sinks
    from ..record.life import SessionRecord
    from ..record.recording import Recording


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
        self.gives_way = gives_way  # not made by the program: an installation of its own replaces it
        self.providers = dict(providers or {})  # of OpenTelemetry, where not the global ones
        self.replaced: Watch | None = None  # which one gave way to this
        self._uninstall, self._toggle = uninstall, toggle
        self.store = store or Store()
        self.store.limit = settings.settings["history.findings"]
        self._turn = Turn(self.store)
        history = Ledger(settings.settings["history.sessions"], settings.settings["history.loads"])
        self.tracker = Tracker(self._handle, history, target.wants(settings.target))
        self.tracker.when_collected = closing.collected
        self.tracker.when_pool_ran_dry = self._pool_ran_dry
        self._suppressions = Suppressions(settings.baseline)
        self.audience = Audience(settings, self.tracker, self.store, log=log)
        self.audience.recording = recording
        self.plumbing = Plumbing(settings.through, settings.root)
        self.dispatch = Dispatch(settings, self.tracker, self._turn, self._suppressions, self.plumbing, self.audience)
        self._pending = attributes.PendingWrites(self.tracker)
        self._pools = Pools(self.tracker)
        self._sharing = Sharing(self.tracker)
        self._connections = Connections(self.tracker)
        self._loops = Loops(self.tracker)
        self._makers = Makers(self.tracker)  # what was told of them is told, whatever mode is switched to
        failed = self.tracker.failed
        self.watchdog = Watchdog(self.tracker.emit, self.dispatch.taken_back, failed, limits(settings))
        self.watchdog.attend = self.tracker.notes.say
        self.tracker.notes.wake = self.watchdog.ring
        self.tracker.notes.when_said = lambda: self.audience.flush(most=50)
        self.telemetry = Metrics(self._source(), _pairs(settings))
        if "meter_provider" in self.providers:
            self.telemetry.use(self.providers["meter_provider"])
        self.ends = Ends(
            self.tracker, self._pending, self._connections, self.watchdog, self.audience, self.telemetry.provider
        )
        self.lacks = Lacks(TABLE)
        self._hooked = contextlib.ExitStack()
        self._undo = contextlib.ExitStack()

    @property
    def log(self) -> bool:
        """Whether findings are logged."""
        return self.audience.log

    @property
    def installed(self) -> bool:
        """Whether it has not been uninstalled; it may be paused meanwhile."""
        return self.ends.installed

    def _handle(self, event: Event, allowances: tuple[Allowance, ...]) -> Exception | None:
        return self.dispatch.handle(event, allowances)

    def _pool_ran_dry(self, error: BaseException, pool: Any, name: str) -> None:
        self.audience.pool_ran_dry(error, self.watchdog.holders(id(pool)), pool.checkedout(), (id(pool), name))

    # -- life -----------------------------------------------------------------------------------------

    def start(self, before: Watch | None = None) -> None:
        """Put everything in its place, with the subscribers of the one ``before``; undone where that fails half way."""
        if before is not None:
            self.audience.subscribers += before.audience.subscribers
            self.audience.recording = self.audience.recording or before.audience.recording
        try:
            self._start()
        except BaseException:
            self._hooked.close()
            self._undo.close()
            raise

    def _start(self) -> None:
        self._undo.enter_context(project_root(self.config.root))
        callsite.treat_as_user(self.config.source)
        self.lacks.tell(self.config, self.lacks.switch_off(self.config))
        self.rehook()
        self._undo.enter_context(on_unit_end(self.ends.unit_ended, self.tracker.failed))
        self._undo.enter_context(on_process_end(self.ends.process_ends))
        self._undo.callback(self.ends.follow())
        if self.config.mode == "telemetry" or {*self.config.levels.values()} != {"off"}:
            self.telemetry.start()  # else nothing is counted, and zeros would say that there were no sessions

    def _source(self) -> Source:
        return Source(
            self.tracker,
            mode=lambda: self.config.mode,
            rules=lambda: [slug for slug, level in self.config.levels.items() if level != "off"],
            at_exit=lambda: self.ends.at_exit(),
            pools=self._pools.read,
        )

    def rehook(self) -> None:
        """Install what the enabled rules need, and build the table of who handles which event."""
        self._hooked.close()
        if not self.tracker.active:  # paused
            return
        enabled = self._enabled()
        wanted = self.dispatch.enable(enabled)
        counting = self.config.mode == "telemetry"
        chain.keep(not counting)
        self.audience.signal(counting, self.providers, self.ends.before_others)
        self.audience.listen()
        self.tracker.activations = not counting and SplitCommit in wanted
        context = Context(
            self.tracker,
            self._pending,
            self._pools,
            self._makers,
            self._loops,
            self._connections,
            self._sharing,
            sites=not counting,
            limits=limits(self.config),
            watchdog=self.watchdog,
            events=wanted | {Counted} if counting and self.lacks.counting is None else wanted,
            handlers=rules.slugs_by_event(),
        )
        self._hooked = installing.install(TABLE, context, self._asyncio_arrives)
        if self.audience.recording is not None:
            self._hooked.callback(recorded.follow(self.audience.recording, self.tracker))
        if enabled or counting:
            self._hooked.enter_context(auto.frameworks())
        if not context.wants(*KINDS):
            self.watchdog.stop()

    def _enabled(self) -> list[Rule]:
        return [rule for rule in rules.ALL if self.config.levels[rule.slug] != "off"]

    def _asyncio_arrives(self) -> None:
        """The program has imported SQLAlchemy's asyncio: only now it is known whether a rule lacks something there."""
        off = self.lacks.switch_off(self.config)
        self.lacks.tell(self.config, off)
        if off:
            self.dispatch.enable(self._enabled())

    def uninstall(self) -> None:
        """Restore everything exactly. Calling it again does nothing."""
        self._uninstall(self)

    def stop(self) -> None:
        """Take everything out again: what `uninstall` does to this watch, once. What waits was told before."""
        self.audience.signal(False, self.providers, self.ends.before_others)
        self.ends.installed = False
        self._unhook()
        self.telemetry.stop()
        self._undo.close()
        self._pending.forget()
        self.audience.close()

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
                self.watchdog.retired = False
                self.rehook()
            else:
                self._unhook()

    def _unhook(self) -> None:
        """From now on nothing is watched. Other threads may be inside of a hook: it lets them pass."""
        self.tracker.active = False
        self.watchdog.retire()
        self._hooked.close()
        for session in live_sessions():
            record = session.__dict__.pop(KEY, None)
            if record is not None:
                self.tracker.forget(record)

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
            if by_default and rule.slug not in self.lacks.rules:
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
        self.ends.drain()

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
        return self.audience.subscribe(sink)

    def ask(self, judge: Callable[[Finding, Event], bool | None], when_opened: Callable[[SessionRecord], None]) -> None:
        """Let somebody else decide where a finding is told, and hear of each session that opens.

        ``judge(finding, event)`` is asked before anybody is told: True where it may be raised, False where it may
        not, None where it is to be forgotten because it was told already.
        """
        self.dispatch.judge, self.audience.when_opened = judge, when_opened
        self.rehook()

    def unused_allowances(self) -> list[Allowance | Unmatched]:
        """Allowances that matched nothing so far, and globs of ``through`` that match no file."""
        return [*self._suppressions.unused(), *self.plumbing.unmatched()]

    def used_allowances(self) -> list[Allowance]:
        """Allowances that covered a finding so far."""
        return self._suppressions.used()

    def status(self) -> dict[str, Any]:
        """What is installed, where each value came from, and what was counted."""
        inside = (self.config, self.tracker, self.store, self._turn, self.watchdog, self.telemetry, self.lacks)
        paused, output = self.installed and not self.tracker.active, self.audience.output
        failure = output.failure if output is not None else None
        bad = degraded(self.config, self.tracker, self.telemetry, self.lacks, self.dispatch.breaker, failure)
        in_force = {"ok": self.installed and not paused and not bad, "degraded": bad}
        return in_force | {"installed": self.installed, "paused": paused} | status(*inside)

    def owner_of(self, instance: object) -> Ownership | None:
        """Who owned ``instance``; None if nothing is known of it, or it is not a mapped instance."""
        state = read.state(instance)
        if state is None:
            return None
        owner = ownership.ownership(self.tracker, state)
        return owner if owner.session is not None or owner.loaded is not None else None

    def forked(self) -> None:
        """In a forked child: what the parent found and opened is the parent's."""
        self.tracker.renew()
        self._pools.renew()
        self.telemetry.forked(child=True)
        self.watchdog.renew()
        self.store.forget()
        self.clear()
        self._pending.forget()
        self.audience.forked()
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
    installing.import_all(TABLE)
    if mode == "telemetry":
        from ..telemetry import signals  # noqa: F401


def _pairs(settings: config.Config) -> Pairs | None:
    return Pairs(settings.settings["telemetry.models_cap"]) if settings.settings["telemetry.models"] else None
