"""One installation for a run of pytest: its tests, and what it tells at the end."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from ..watch import orm  # noqa: F401 (before the others)

# isort: split
from .blame import Blame, Owner
from .late import LateReport, Terminal, log_reports, reports
from .marker import parsed, place
from .recorded import Recorded
from .summary import Summary
from .told import fail, mark, properties, story, tell_once

if TYPE_CHECKING:
    from ..model import Finding, Mode, Site
    from ..watch.watch import Watch

_PHASES = {"setup": "a fixture's setup", "call": "the test", "teardown": "a fixture's teardown"}


class TestWatch:
    """The findings of the test that runs, each one only once."""

    __test__ = False

    def __init__(self, watch: Watch, findings: list[Finding], blame: Blame | None = None) -> None:
        self.watch = watch
        self._seen = findings
        self._blame = blame
        self._undo = watch.subscribe(self._note)

    def _note(self, finding: Finding, first: bool) -> None:
        elsewhere = self._blame is not None and self._blame.elsewhere
        if not finding.covered and not elsewhere and finding not in self._seen:
            self._seen.append(finding)

    @property
    def findings(self) -> list[Finding]:
        """Findings of this test so far, waiting ones included."""
        self._bring_out()
        return list(self._seen)

    def clear(self) -> None:
        """Forget the findings of this test: they will not fail it."""
        self._bring_out()
        self._seen.clear()

    def _bring_out(self) -> None:
        """Report what hides: changes that wait, and sessions that the test dropped unclosed."""
        self.watch.drain()
        if self._blame is not None:
            self._blame.drop_own_garbage()
        elif self.watch.has_open_sessions():
            gc.collect()

    def status(self) -> dict[str, Any]:
        """`Watch.status` of the whole run."""
        return self.watch.status()


class Plugin:
    """One installation for the whole run, and the findings of the test that runs."""

    def __init__(self, config: pytest.Config, mode: Mode) -> None:
        from .. import config as configuration
        from ..model import ConfigError, test_files
        from ..output import formats
        from ..watch import baseline, installation

        self.config = config
        try:
            self.reports = [formats.split(argument) for argument in config.getoption("--sessionwatch-report")]
            self.recorded = Recorded(config, [name for name, _ in self.reports])
            levels = configuration.parse_pairs("\n".join(config.getini("sessionwatch_rules")), "sessionwatch_rules")
            self.watch = installation.install(
                mode=mode,
                rules=levels or None,
                output=config.getoption("--sessionwatch-output"),
                baseline=self._below_root(config.getini("sessionwatch_baseline")),
                root=str(config.rootpath),
                log=False,
                recording=self.recorded.path,
            )
        except ConfigError as error:
            raise pytest.UsageError(f"sessionwatch: {error}") from error
        self.undo = contextlib.ExitStack()
        self.undo.enter_context(test_files(config.getini("python_files")))
        self.updating: str | None = None
        if config.getoption("--sessionwatch-update-baseline"):
            self.updating = self.watch.config.baseline or self._below_root(baseline.DEFAULT)
            for slug, level in self.watch.config.levels.items():
                self.watch.config.levels[slug] = "log" if level == "raise" else level
        self.store = self.watch.store  # of the whole run; under xdist, the workers' are merged into it
        self.current: list[Finding] = []
        self.late: list[LateReport] = []
        self.wider: dict[int, tuple[Any, Owner]] = {}  # fixtures that are set up, of a wider scope than a test
        self.mistake: str | None = None  # in the marker of the test that runs
        self.marked: Site | None = None  # where that one is
        self.blame = Blame(self.watch, Terminal(config).overdue)
        self.test_watch = TestWatch(self.watch, self.current, self.blame)
        self.summary = Summary(config, self.watch, self.reports, self.recorded, self.updating)

    def pytest_report_header(self) -> list[str]:
        from ..config import strange_variables
        from ..watch.baseline import notice

        missing = notice(self.watch.config.baseline)
        return [f"sessionwatch: {line}" for line in ([missing] if missing else []) + strange_variables()]

    def _below_root(self, path: str) -> str | None:
        return str(self.config.rootpath / path) if path else None

    # -- one test -------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.current.clear()
        self.store.test = item.nodeid
        self.watch.clear()  # a finding of this test tells this test's story, though an earlier one had the same
        levels = dict(self.watch.config.levels)
        try:
            with self._marked(item):
                self.blame.begin(item)
                return (yield)
        finally:
            self.watch.config.levels = levels
            self.blame.leave()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """What a fixture opens is its own, for its scope."""
        with self.blame.setting_up(fixturedef.argname, request.scope) as owner:
            if owner.test is None:
                self.wider[id(fixturedef)] = fixturedef, owner
            return (yield)

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """The end of a fixture of a wider scope than a test."""
        _, owner = self.wider.pop(id(fixturedef), (None, None))
        if owner is not None:
            owner.ended = perf_counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        if self.mistake is not None:
            pytest.fail(f"sessionwatch: {self.mistake}", pytrace=False)
        return (yield from self._phase(item, "setup"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        self.blame.calling = True
        return (yield from self._phase(item, "call"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        return (yield from self._phase(item, "teardown"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Where pytest repeats a failure in a line (on CI it does not shorten), ours is its headline, not the story."""
        report = yield
        if call.excinfo is not None:
            mark(report, call.excinfo.value)
        return report

    def _phase(self, item: pytest.Item, phase: str) -> Generator[None, object, object]:
        try:
            result = yield
        except BaseException as error:
            _end_at_users_line(error)
            self._forget_marker()
            self._tell(item, phase, error)
            raise
        failures = getattr(item, "_excinfo", None)  # private: where a TestCase keeps them until its report is made
        if failures and phase == "call":
            self._forget_marker()
            self._tell(item, phase, failures[0].value)
            return result
        self._settle(phase)
        failing = self._take(item, phase)
        if failing:
            fail(failing, f"in {_PHASES[phase]}")
        return result

    def _forget_marker(self) -> None:
        """A test that was skipped or broke off may not have come to what its marker allows."""
        from ..watch.suppress import forget

        if self.marked is not None:
            forget(self.marked)

    def _tell(self, item: pytest.Item, phase: str, error: BaseException) -> None:
        """The test failed by itself: its findings stand beside the failure, and its fixtures' ends fail nothing more.

        A test that breaks off leaves writes behind that its fixture then discards: that is no second fault.
        """
        self._settle(phase)
        others = [finding for finding in self._take(item, phase) if getattr(error, "finding", None) is not finding]
        if others:
            item.add_report_section(phase, "sessionwatch", story(others, f"in {_PHASES[phase]}"))
        for slug, level in self.watch.config.levels.items():
            self.watch.config.levels[slug] = "log" if level == "raise" else level
        if self.blame.test is not None:
            self.blame.test.levels = dict(self.watch.config.levels)

    def _settle(self, phase: str) -> None:
        """Bring out this phase's findings. Garbage is only collected where a finding may fail the test, now or later.

        To collect is to run the finalizers of the program's own objects at another moment than it would.
        """
        self.blame.calling = False
        self.watch.drain()
        collecting = bool(self.updating) or "raise" in self.watch.config.levels.values()
        if phase == "teardown" and self.watch.config.mode != "telemetry":
            self.blame.end(collecting)
        elif phase == "call" and collecting:
            self.blame.after_call()

    def _take(self, item: pytest.Item, phase: str) -> list[Finding]:
        """The findings of this phase that are to fail it; all of them go into the JUnit properties."""
        found = list(self.current)
        self.current.clear()
        for finding in found:
            item.user_properties += properties(finding)
        return [finding for finding in found if finding.level == "raise"]

    @contextlib.contextmanager
    def _marked(self, item: pytest.Item) -> Iterator[None]:
        from ..model import ConfigError

        found = next(item.iter_markers_with_node("sessionwatch"), None)  # the closest one
        self.mistake = self.marked = None
        with contextlib.ExitStack() as stack:
            try:
                if found is not None:
                    self._obey(*found, stack)
            except ConfigError as error:
                self.mistake = str(error)
            yield

    def _obey(self, node: Any, marker: pytest.Mark, stack: contextlib.ExitStack) -> None:
        from ..watch.suppress import allow_at

        mode, slugs, reason = parsed(marker)
        if mode == "off":
            stack.enter_context(self._off())
        elif mode is not None:
            stack.enter_context(self.watch.switched(mode))
        if slugs:
            self.marked = place(node)
            stack.enter_context(allow_at(self.marked, *slugs, reason=reason))

    @contextlib.contextmanager
    def _off(self) -> Iterator[None]:
        before = dict(self.watch.config.levels)
        self.watch.config.levels.update(dict.fromkeys(before, "off"))
        self.watch.rehook()
        try:
            yield
        finally:
            self.watch.config.levels.update(before)
            self.watch.rehook()

    # -- the run --------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """What is still open when all tests are over, and what was found too late, fails the run."""
        try:
            return (yield)
        finally:
            if not session.config.option.collectonly:
                self.watch.drain()
                self.blame.end_run()
                self.late += [] if self.updating else reports(self.blame.late)
                if not hasattr(session.config, "workerinput"):  # xdist's controller makes the reports
                    log_reports(session.config, self.late)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.watch.audience.recording is not None:
            self.watch.audience.recording.finish()
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["sessionwatch"] = [seen.record() for seen in self.store]
            output["sessionwatch_late"] = self.late
            output["sessionwatch_unused"] = [str(item) for item in self.watch.unused_allowances()]
            output["sessionwatch_used"] = [str(item) for item in self.watch.used_allowances()]
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            tell_once([*terminal.stats.get("error", ()), *terminal.stats.get("failed", ())])

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Under xdist, before a worker starts."""
        self.recorded.tell(node)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Under xdist the workers' counts arrive here."""
        output = getattr(node, "workeroutput", {})
        self.store.merge(output.get("sessionwatch", ()), str(node.gateway.id))
        self.late += output.get("sessionwatch_late", ())
        self.summary.unused |= dict.fromkeys(output.get("sessionwatch_unused", ()))
        self.summary.used |= set(output.get("sessionwatch_used", ()))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not hasattr(self.config, "workerinput"):
            self.summary.tell(terminalreporter)

    def pytest_unconfigure(self) -> None:
        self.watch.uninstall()
        self.undo.close()
        self.recorded.remove()


def _end_at_users_line(error: BaseException) -> None:
    """Cut off what a finding's traceback has below the user's line: functions of SQLAlchemy's, with long docstrings."""
    from ..frames import callsite
    from ..model import FindingError

    last, walked = None, error.__traceback__ if isinstance(error, FindingError) else None
    while walked is not None:
        last = walked if callsite.kind_of(walked.tb_frame) == callsite.USER else last
        walked = walked.tb_next
    if last is not None:
        last.tb_next = None
