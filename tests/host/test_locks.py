"""No lock of ours is held where foreign code runs, and the collector may come at any moment."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, NoOpMeter, NoOpMeterProvider, Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from sqlalchemy import create_engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.model import MODES, Mode
from sessionwatch.record.counts import MANY
from sessionwatch.telemetry import instruments
from sessionwatch.watch import installation
from tests.programs.shop import Base, Order, _our_errors_raise, lose  # noqa: F401 (fixtures)

DEADLINE = 60.0  # seconds
OWN = str(Path(sessionwatch.__file__).parent)


class Watched:
    """A lock of ours, in whose place it stands; ``held`` counts those that a thread has."""

    held = threading.local()

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        taken: bool = self._lock.acquire(*args, **kwargs)
        self.held.number = getattr(self.held, "number", 0) + taken
        return taken

    def release(self) -> None:
        self._lock.release()
        self.held.number = getattr(self.held, "number", 0) - 1

    def locked(self) -> bool:
        return bool(self._lock.locked())

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def made_by(real: Callable[[], Any]) -> Callable[[], Any]:
    """``threading.Lock`` or ``RLock``: those that our modules make are watched. A bell is no lock: nobody holds it."""

    def make() -> Any:
        caller = sys._getframe(1)
        ours = caller.f_code.co_filename.startswith(OWN) and "Bell" not in caller.f_code.co_qualname
        return Watched(real()) if ours else real()

    return make


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Where foreign code was entered, each time with the number of our locks that its thread held."""
    monkeypatch.setattr(threading, "Lock", made_by(threading.Lock))
    monkeypatch.setattr(threading, "RLock", made_by(threading.RLock))
    monkeypatch.setattr(installation, "_lock", Watched(threading.RLock()))
    monkeypatch.setattr(instruments.TOTALS, "lock", Watched(threading.RLock()))
    return {}


def noting(entered: dict[str, list[int]], where: str) -> Callable[..., None]:
    def note(*_: Any, **__: Any) -> None:
        entered.setdefault(where, []).append(getattr(Watched.held, "number", 0))

    return note


class Handler(logging.Handler):
    def __init__(self, note: Callable[..., None]) -> None:
        super().__init__(logging.DEBUG)
        self.emit = note  # type: ignore[method-assign]


class Spans(SpanProcessor):
    def __init__(self, note: Callable[..., None]) -> None:
        self.on_start = self.on_end = note  # type: ignore[method-assign]


class Exporter:
    def __init__(self, note: Callable[..., None]) -> None:
        self.export = note

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


@pytest.mark.parametrize("mode", MODES)
def test_no_lock_of_ours_is_held_where_foreign_code_runs(
    mode: Mode, entered: dict[str, list[int]], tmp_path: Path
) -> None:
    """Sinks, callbacks, log handlers, span and log processors: each is entered with none of our locks held."""
    logger, handler = logging.getLogger("sessionwatch"), Handler(noting(entered, "handler"))
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    tracers = TracerProvider()
    tracers.add_span_processor(Spans(noting(entered, "span processor")))
    logs = LoggerProvider()
    logs.add_log_record_processor(SimpleLogRecordProcessor(Exporter(noting(entered, "log exporter"))))  # type: ignore[arg-type]
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)

    def measured(_: CallbackOptions) -> list[Observation]:
        noting(entered, "metric callback")()
        return []

    meters.get_meter("the program's").create_observable_counter("anything", [measured])
    providers = {"tracer_provider": tracers, "logger_provider": logs, "meter_provider": meters}
    try:
        watch = installation.install(
            mode=mode,
            on_finding=noting(entered, "on_finding"),
            providers=providers,
            settings={"long-session.idle": 0.02, "long-session.seconds": 0.05},
            rules={"lost-writes": "log", "session-leak": "log"},
        )
        watch.subscribe(noting(entered, "sink"))
        works(tmp_path, tracers)
        reader.collect()
        wrapped = Session.add
        Session.add = lambda self, *args, **kwargs: wrapped(self, *args, **kwargs)  # type: ignore[method-assign]
        watch.pause()
        watch.resume()
        watch.uninstall()
        Session.add = wrapped.__wrapped__  # type: ignore[attr-defined,method-assign]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        meters.shutdown()
    wanted = {"sink", "on_finding", "handler", "metric callback"}
    assert set(entered) >= wanted | ({"span processor", "log exporter"} if mode == "telemetry" else set())
    assert {where: max(numbers) for where, numbers in entered.items() if max(numbers)} == {}


def works(tmp_path: Path, tracers: TracerProvider) -> None:
    """Everything that makes us speak: losses, a leak that the collector finds, a long transaction, an empty pool."""
    engine = create_engine(f"sqlite:///{tmp_path / 'here.db'}", pool_size=1, max_overflow=0, pool_timeout=0.01)
    Base.metadata.create_all(engine)
    with tracers.get_tracer("the program's").start_as_current_span("request"):
        for _ in range(MANY + 6):
            with Session(engine) as session:
                session.execute(text("select 1"))
        lose(engine)
        session = Session(engine)
        session.add(Order())
        session.flush()
        session.itself = session  # type: ignore[attr-defined]
        del session
        gc.collect()
        with Session(engine) as session:
            session.execute(text("select 1"))
            with pytest.raises(PoolTimeout):
                engine.connect()
            until = threading.Event()
            until.wait(0.3)  # the watchdog looks meanwhile


class Meter(NoOpMeter):
    """Makes instruments, and hears of each call."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__("sessionwatch")
        self._note = note

    def create_histogram(self, *args: Any, **kwargs: Any) -> Any:
        self._note("create_histogram")
        made = super().create_histogram(*args, **kwargs)
        made.record = lambda *_, **__: self._note("record")  # type: ignore[method-assign]
        return made

    def create_observable_counter(self, *args: Any, **kwargs: Any) -> Any:
        self._note("create_observable_counter")
        return super().create_observable_counter(*args, **kwargs)


class Meters(NoOpMeterProvider):
    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        self._note("get_meter")
        return Meter(self._note)


def test_instruments_are_made_and_filled_without_a_lock_of_ours(entered: dict[str, list[int]]) -> None:
    """A meter provider is called by an installation, by one in another's place and by their ends, with no lock held."""
    mine, its = ({"meter_provider": Meters(lambda where: noting(entered, where)())} for _ in range(2))
    engine = create_engine("sqlite://")
    first = installation.install(mode="telemetry", log=False, gives_way=True, providers=mine)
    with Session(engine) as session:
        session.execute(text("select 1"))
    second = installation.install(mode="telemetry", log=False, providers=its)
    with Session(engine) as session:
        session.execute(text("select 1"))
    second.uninstall()
    installation.uninstall()
    assert not first.installed
    assert (entered.keys(), len(entered["get_meter"])) == (
        {"get_meter", "create_histogram", "create_observable_counter", "record"},
        2,
    )
    assert {where: max(numbers) for where, numbers in entered.items() if max(numbers)} == {}


LOGS = """
import gc, logging, logging.handlers, queue, sys, threading
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
import sessionwatch

class Queue(queue.Queue):
    def _put(self, item):
        super()._put(item)
        gc.collect()  # as it may by itself, where put() holds its lock

logging.getLogger().addHandler(logging.handlers.QueueHandler(Queue()))
logging.getLogger().setLevel(logging.INFO)
engine = create_engine("sqlite://")
watch = sessionwatch.install(sys.argv[1])
for _ in range(20):
    session = Session(engine)
    session.execute(text("select 1"))
    session.itself = session
    del session
    logging.getLogger("program").info("a record")
gc.collect()
print({finding.rule for finding in watch.findings}, watch.status()["internal_errors"])
"""
CROSSED = """
import gc, logging, io, sys, threading, time
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
import sessionwatch

class Handler(logging.StreamHandler):
    def emit(self, record):
        super().emit(record)
        if record.name == "program":
            gc.collect()

logging.basicConfig(level=logging.INFO, handlers=[Handler(io.StringIO())])
engine = create_engine("sqlite:///here.db", pool_size=0)
sessionwatch.install(sys.argv[1], settings={"long-session.idle": 0.02, "long-session.seconds": 0.05})
over = threading.Event()

def overdue():
    while not over.is_set():
        with Session(engine) as session:
            session.execute(text("select 1"))
            time.sleep(0.06)

def logs():
    for _ in range(60):
        session = Session(engine)
        session.execute(text("select 1"))
        session.itself = session
        del session
        logging.getLogger("program").info("a record")
    over.set()

threads = [threading.Thread(target=work) for work in (overdue, overdue, logs)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("over")
"""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("program", "said"), [(LOGS, "{'session-leak'} {}\n"), (CROSSED, "over\n")], ids=["a queue", "a handler's lock"]
)
def test_collector_inside_of_a_handler(mode: Mode, program: str, said: str, tmp_path: Path) -> None:
    """The collector finds a leak while a handler or a queue holds its lock: the program goes on, and it is reported."""
    done = subprocess.run(
        [sys.executable, "-c", program, mode], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.returncode, done.stdout) == (0, said), done.stderr
