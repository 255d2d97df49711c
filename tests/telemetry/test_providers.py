"""Each number is exported once: no SDK, one that comes late, two, one that is replaced or shut down, forks, exits."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.record.counts import MANY
from sessionwatch.watch.watch import Watch
from tests.telemetry.programs import run
from tests.telemetry.readings import Readings, values_of

CLOSED, DURATION, FINDINGS = "sessionwatch.sessions.closed", "sessionwatch.session.duration", "sessionwatch.findings"
READ, LEAKED = "read_only,sync", "telemetry,session-leak"
DELTA = dict.fromkeys((Counter, Histogram, ObservableCounter), AggregationTemporality.DELTA)


def read(engine: Engine, times: int = 1) -> None:
    for _ in range(times):
        with Session(engine) as session:
            session.execute(text("SELECT 1"))


def provided(**keywords: object) -> Readings:
    reader = InMemoryMetricReader(**keywords)  # type: ignore[arg-type]
    return Readings(reader, MeterProvider([reader], shutdown_on_exit=False))


# -- when the SDK comes -------------------------------------------------------------------------------


def test_no_sdk(tmp_path: Path) -> None:
    """All of it does nothing, and says nothing."""
    done = run(tmp_path, "read(600)\n")
    assert (done.stdout, done.stderr) == ("", "")
    code = "watch = sessionwatch.install(mode='telemetry')\nread(600)\nprint(watch.status()['telemetry']['waiting'])\n"
    done = run(tmp_path, code)
    assert int(done.stdout) < 600
    assert done.stderr == ""


@pytest.mark.parametrize("temporality", ["None", "DELTA"])
@pytest.mark.parametrize("early", [True, False], ids=["SDK first", "SDK second"])
def test_sdk_before_and_after_the_installation(early: bool, temporality: str, tmp_path: Path) -> None:
    """Counted are all sessions since the installation, and what is found when the program ends."""
    sdk, install = (
        f"metrics.set_meter_provider(provider('one', {temporality}))",
        "sessionwatch.install(mode='telemetry')",
    )
    first, second = (sdk, install) if early else (install, sdk)
    done = run(tmp_path, f"{first}\n{'' if early else 'read(5)'}\n{second}\nread(270)\nleak()\n")
    number = 270 if early else 275
    assert done.total(CLOSED, READ) == number
    assert done.total(DURATION, READ) == number
    assert done.total(FINDINGS, LEAKED) == 1
    assert len(done.exports) == 1


def test_two_set_ups(tmp_path: Path) -> None:
    """The second global provider is refused by the API, and exports nothing of ours."""
    code = """
metrics.set_meter_provider(provider("one"))
sessionwatch.install(mode="telemetry")
read(3)
metrics.set_meter_provider(provider("two"))
read(4)
"""
    done = run(tmp_path, code)
    assert done.last("one")[CLOSED] == done.last("one")[DURATION] == {READ: 7}
    assert all(not export[CLOSED] for export in done.exports if export["name"] == "two")


def test_replaced_at_run_time(tmp_path: Path) -> None:
    """As test suites do it: the new one goes on where the old one was."""
    code = """
one, two = provider("one", DELTA), provider("two", DELTA)
metrics.set_meter_provider(one)
sessionwatch.install(mode="telemetry")
read(3)
one.force_flush()
metrics._internal._METER_PROVIDER = two
read(300)
"""
    done = run(tmp_path, code)
    assert done.total(CLOSED, READ, "one") + done.total(CLOSED, READ, "two") == 303
    assert done.total(CLOSED, READ, "two") == 300
    assert done.total(DURATION, READ, "one") + done.total(DURATION, READ, "two") == 303


def test_stand_in_of_the_api_counts_once(tmp_path: Path) -> None:
    """What was made before there was an SDK is not made again when it is there, whoever looks."""
    code = """
import logging
logging.basicConfig()
watch = sessionwatch.install(mode="telemetry")
metrics.set_meter_provider(provider("one"))
for _ in range(3):
    read(270)
    assert watch.status()["telemetry"]["meter_provider"].startswith("opentelemetry.sdk")
    watch.uninstall()
    watch = sessionwatch.install(mode="telemetry")
"""
    done = run(tmp_path, code)
    assert done.last()[CLOSED] == done.last()[DURATION] == {READ: 810}
    assert done.stderr == ""


# -- which provider -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temporality", [{}, DELTA], ids=["cumulative", "delta"])
def test_from_one_provider_to_another_and_back(
    temporality: object, engine: Engine, installed: Callable[..., Watch], readings: Readings
) -> None:
    """Each is told what happened while it was the one that exports, and what nobody was told before."""
    one, two = provided(preferred_temporality=temporality), provided(preferred_temporality=temporality)
    watch, seen = installed(), []
    for number, current in enumerate((one, two, one), 1):
        watch.telemetry.use(current.provider)
        read(engine, number)
        metrics = current.metrics()
        seen.append((values_of(metrics[CLOSED]), values_of(metrics[DURATION])))
    told = (1, 2, 3) if temporality else (1, 2, 4)
    assert seen == [({("read_only", "sync"): number}, {("read_only", "sync"): number}) for number in told]
    assert two.values(CLOSED) == {} or not temporality


def test_installations_in_turn(engine: Engine, readings: Readings, caplog: pytest.LogCaptureFixture) -> None:
    """No instrument is made twice, no count goes back, and what was counted stays after the end of the last one."""
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with sessionwatch.watching("telemetry", log=False) as watch:
                watch.telemetry.use(readings.provider)
                read(engine, 2)
            read(engine)
    assert readings.values(CLOSED) == {("read_only", "sync"): 6}
    assert readings.values(DURATION) == {("read_only", "sync"): 6}
    assert readings.values("sessionwatch.session.active") == {}
    assert caplog.messages == []


def test_provider_that_was_shut_down(engine: Engine, watch: Watch, readings: Readings) -> None:
    """The program goes on, and so does the next provider."""
    read(engine, 2)
    readings.provider.shutdown()
    read(engine, 300)
    after = provided()
    watch.telemetry.use(after.provider)
    read(engine)
    assert after.values(CLOSED)["read_only", "sync"] >= 1
    assert watch.status()["internal_errors"] == {}


def test_provider_that_takes_no_attribute(engine: Engine, installed: Callable[..., Watch]) -> None:
    """Somebody's own implementation of the API, with slots."""
    from opentelemetry.metrics import MeterProvider as Api
    from opentelemetry.metrics import NoOpMeter

    class Slotted(Api):
        __slots__ = ("asked",)

        def get_meter(self, *args: object, **kwargs: object) -> NoOpMeter:
            self.asked = getattr(self, "asked", 0) + 1
            return NoOpMeter("sessionwatch")

    own = Slotted()
    watch = installed()
    for provider in (own, None, own):
        watch.telemetry.use(provider)
        read(engine, 270)
    assert own.asked == 1
    assert watch.status()["internal_errors"] == {}


def test_provider_that_fails(engine: Engine, installed: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's work goes on; the error is counted."""

    class Broken:
        def get_meter(self, *args: object, **kwargs: object) -> object:
            raise RuntimeError("no meter")

    watch = installed()
    monkeypatch.setattr(watch.tracker, "reraise", False)
    watch.telemetry.use(Broken())
    read(engine, 270)
    assert watch.status()["internal_errors"]["telemetry"] >= 1
    assert watch.status()["sessions"]["closed"] == {"read_only, sync": 270}
    assert watch.status()["telemetry"]["waiting"] < MANY


# -- exporters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["raise RuntimeError('no network')", "time.sleep(3600)"], ids=["raises", "hangs"])
def test_exporter_that_fails_is_not_noticed(fault: str, tmp_path: Path) -> None:
    """Sessions end as fast as before while it does; only the SDK's own thread is kept."""
    code = f"""
import threading
begun = threading.Event()
class Faulty(Exporter):
    def export(self, *args, **kwargs):
        begun.set()
        {fault}
import logging
logging.disable()
made = provider("one", exporter=Faulty, shutdown_on_exit=False)
metrics.set_meter_provider(made)
watch = sessionwatch.install(mode="telemetry")
threading.Thread(target=made.force_flush, daemon=True).start()
begun.wait()
read(1050)
status = watch.status()
print(status["sessions"]["closed"], status["internal_errors"], status["telemetry"]["waiting"] < 200)
sys.stdout.flush()
os._exit(0)
"""
    assert run(tmp_path, code).stdout == "{'read_only, sync': 1050} {} True\n"


# -- forks --------------------------------------------------------------------------------------------

SET_UP = {
    True: "metrics.set_meter_provider(one); sessionwatch.install(mode='telemetry')",
    False: "sessionwatch.install(mode='telemetry'); metrics.set_meter_provider(one)",
}
FORKED = """
import warnings
warnings.simplefilter("ignore")
one = provider("one", {temporality}, shutdown_on_exit=False)
{set_up}
engine.dispose()
read(5)
one.force_flush()
read(2)
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        engine.dispose(close=False)
        read({number})
        {meanwhile}
        read(1)
        one.force_flush()
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
one.force_flush()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
@pytest.mark.parametrize("early", [True, False], ids=["SDK first", "SDK second"])
@pytest.mark.parametrize("number", [10, 200])
def test_fork_with_an_sdk_that_exports_differences(number: int, early: bool, tmp_path: Path) -> None:
    """Every session is counted once over all processes."""
    done = run(tmp_path, FORKED.format(temporality="DELTA", number=number, meanwhile="", set_up=SET_UP[early]))
    assert done.total(CLOSED, READ) == 7 + 2 * (number + 1)
    own = [export[CLOSED] for export in done.exports if export["pid"] == done.pid]
    assert own == [{READ: 5}, {READ: 2}]
    assert all(value > 0 for export in done.exports for value in export[CLOSED].values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_fork_with_an_sdk_that_exports_totals(tmp_path: Path) -> None:
    """A child's totals are its own."""
    done = run(
        tmp_path, FORKED.format(temporality="None", number=10, meanwhile="one.force_flush()", set_up=SET_UP[True])
    )
    assert done.last()[CLOSED] == {READ: 7}
    children = [export[CLOSED] for export in done.exports if export["pid"] != done.pid]
    assert sorted(export[READ] for export in children) == [10, 10, 11, 11]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_fork_while_a_thread_holds_a_lock_of_the_sdk(tmp_path: Path) -> None:
    """The child's sessions never wait for a lock that nobody will release."""
    code = """
import threading, warnings
warnings.simplefilter("ignore")
made = provider("one", shutdown_on_exit=False)
metrics.set_meter_provider(made)
sessionwatch.install(mode="telemetry")
read(270)
histogram = made._measurement_consumer._reader_storages
(storage,) = histogram.values()
locks = [lock for matches in storage._instrument_view_instrument_matches.values() for match in matches
         for lock in [match._lock, *(kept._lock for kept in match._attributes_aggregation.values())]]
assert locks
taken, leave = threading.Event(), threading.Event()
def hold():
    for lock in locks:
        lock.acquire()
    taken.set()
    leave.wait()
    for lock in locks:
        lock.release()
holder = threading.Thread(target=hold)
holder.start()
taken.wait()
child = os.fork()
if not child:
    engine.dispose(close=False)
    read(300)
    os._exit(0)
leave.set()
holder.join()
assert os.waitpid(child, 0)[1] == 0
print("ended")
"""
    assert run(tmp_path, code).stdout == "ended\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_sdk_that_the_child_sets_up_itself(tmp_path: Path) -> None:
    """As a pre-fork server's worker should: nothing of the parent is in it."""
    code = """
import warnings
warnings.simplefilter("ignore")
sessionwatch.install(mode="telemetry")
read(50)
child = os.fork()
if not child:
    engine.dispose(close=False)
    metrics.set_meter_provider(provider("child"))
    read(300)
    metrics.get_meter_provider().force_flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    done = run(tmp_path, code)
    (export,) = [export for export in done.exports if export["name"] == "child"]
    assert export[CLOSED] == export[DURATION] == {READ: 300}


def one_child(before: str, child: str, after: str = "", temporality: str = "None") -> str:
    """A program with the SDK and one fork: what happens before it, in the child, and in the parent after that."""
    return f"""
import warnings
warnings.simplefilter("ignore")
one = provider("one", {temporality}, shutdown_on_exit=False)
metrics.set_meter_provider(one)
{before}
child = os.fork()
if not child:
    {child}
    one.force_flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
{after}
one.force_flush()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_installation_of_the_child_alone(tmp_path: Path) -> None:
    """What an installation counted that had ended before the fork is the parent's."""
    before = 'with sessionwatch.watching("telemetry"): read(5)'
    child = 'engine.dispose(close=False); watch = sessionwatch.install(mode="telemetry"); read(300)'
    done = run(tmp_path, one_child(before, child, temporality="DELTA"))
    assert sorted(export[CLOSED][READ] for export in done.exports) == [5, 300]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_session_that_was_open_at_the_fork(tmp_path: Path) -> None:
    """The parent's: the child that closes its copy has not closed a session of its own."""
    before = 'sessionwatch.install(mode="telemetry", rules={"cross-process": "off"}); idle = Session(engine)'
    done = run(tmp_path, one_child(before, child="idle.close(); read(2)", after="idle.close()"))
    assert done.last()[CLOSED] == {READ: 1}
    assert [export[CLOSED] for export in done.exports if export["pid"] != done.pid] == [{READ: 2}]
