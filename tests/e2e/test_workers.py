"""Programs of many processes under telemetry: each session and finding is counted once, and none is lost at the end."""

# ruff: noqa: F811

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis, RedisError

from tests.cli.conftest import place  # noqa: F401 (a fixture)
from tests.cli.programs import DEADLINE, PATIENT, Place
from tests.cli.test_processes import ask_until
from tests.e2e.telling import AUTOMATIC, Told, output, prepare, running, told
from tests.services import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")]


@pytest.fixture
def shop(place: Place) -> Place:
    """A folder with exporters that write a file a process; findings go to them alone, as stderr is compared."""
    place.env["SESSIONWATCH_SETTINGS"] = "telemetry.logging=no"
    return prepare(place)


SDK = "import telling; telling.set_up()"
INSTALL = "import sessionwatch; sessionwatch.install(mode='telemetry', settings={'telemetry.logging': False})"
# what the parent does, and what each worker does after the fork
SET_UPS = {
    "both in the parent": (f"{SDK}; {INSTALL}", "pass"),
    "SDK in the worker": (INSTALL, SDK),
    "both in the worker": ("", f"{SDK}; {INSTALL}"),
}


def expected(number: int, processes: int = 2, leaked: int = 0) -> dict[str, dict[str, int]]:
    """What `Told.counts` has to be after so many calls of ``work.work()`` in so many processes."""
    closed = {"committed,sync": number, "lost,sync": number} | ({"leaked,sync": leaked} if leaked else {})
    return {
        "sessions.closed": closed,
        "session.duration": closed,
        "findings": {"telemetry,lost-writes": number} | ({"telemetry,session-leak": leaked} if leaked else {}),
        "spans": {"committed": number, "lost": number},  # what leaks here is of no request
        "logs": {"lost-writes": processes} | ({"session-leak": leaked} if leaked else {}),
    }


# -- servers ------------------------------------------------------------------------------------------

FLASK = """
import os
from flask import Flask
import work

app = Flask(__name__)

@app.get("/")
def answer():
    work.leave_open()
    work.work()
    return str(os.getpid()), 200, {"Connection": "close"}
"""
FASTAPI = """
import os
from fastapi import FastAPI, Response
import work

app = FastAPI()

@app.get("/")
def answer():
    work.work()
    return Response(str(os.getpid()), headers={"Connection": "close"})
"""
GUNICORN = f"-m gunicorn --preload -w 2 {' '.join(PATIENT['gunicorn'])}"
COMMANDS = {
    "flask": f"{GUNICORN} --bind",
    "fastapi": f"-W ignore {GUNICORN} -k uvicorn.workers.UvicornWorker --bind",
    "uvicorn": f"-m uvicorn --workers 2 {' '.join(PATIENT['uvicorn'])} --fd",
}


def serve(shop: Place, kind: str, *instrument: Path, **env: str) -> tuple[Counter[int], Told]:
    """Ask until both workers have answered, end the server by SIGTERM; the answers, and what was exported."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, file = listener.getsockname()[1], listener.fileno()
        command = [
            *instrument,
            sys.executable,
            *COMMANDS[kind].split(),
            f"{'' if kind == 'uvicorn' else 'fd://'}{file}",
        ]
        with running(shop, *command, "web:app", pass_fds=[file], env=env) as process:
            answers = ask_until(port, workers=2)
            process.send_signal(signal.SIGTERM)
            status = process.wait(DEADLINE)
    assert status in (0, -signal.SIGTERM), output(shop)
    return answers, told(shop)


def write_app(shop: Place, kind: str, first: str = "", after_fork: str = "pass") -> None:
    shop.write("web.py", f"{first}\n{FLASK if kind == 'flask' else FASTAPI}")
    shop.write("gunicorn.conf.py", f"def post_fork(server, worker):\n    {after_fork}\n")


@pytest.mark.parametrize("set_up", SET_UPS)
def test_wsgi_application_that_gunicorn_preloads(set_up: str, shop: Place) -> None:
    """The workers tell what happened in them, also what is open when they end, and no thread of ours is left."""
    write_app(shop, "flask", *SET_UPS[set_up])
    answers, said = serve(shop, "flask")
    assert said.counts == expected(answers.total(), leaked=2), output(shop)
    assert said.threads == {"MainThread"}


@pytest.mark.parametrize("set_up", ["both in the parent", "SDK in the worker"])
def test_asgi_application_that_gunicorn_preloads(set_up: str, shop: Place) -> None:
    """Uvicorn ends its workers by the signal that they got, without Python's exit: they tell when the lifespan ends."""
    write_app(shop, "fastapi", *SET_UPS[set_up])
    answers, said = serve(shop, "fastapi")
    assert said.counts == expected(answers.total()), output(shop)


def test_workers_of_uvicorn(shop: Place) -> None:
    """They are spawned, and end as those of gunicorn do."""
    write_app(shop, "uvicorn", f"{SDK}; {INSTALL}")
    answers, said = serve(shop, "uvicorn")
    assert said.counts == expected(answers.total()), output(shop)


def test_application_that_shuts_the_sdk_down_itself(shop: Place) -> None:
    """Nothing is told twice, and nothing is said of it."""
    shut_down = """
from contextlib import asynccontextmanager
from opentelemetry import _logs, metrics, trace

@asynccontextmanager
async def lifespan(app):
    yield
    for provider in (metrics.get_meter_provider(), trace.get_tracer_provider(), _logs.get_logger_provider()):
        provider.shutdown()
"""
    application = FASTAPI.replace("FastAPI()", "FastAPI(lifespan=lifespan)")
    shop.write("web.py", f"{SDK}; {INSTALL}\n{shut_down}\n{application}")
    answers, said = serve(shop, "uvicorn")
    assert said.counts == expected(answers.total()), output(shop)
    assert [line for line in output(shop).splitlines() if not line.startswith("INFO: ")] == []


@pytest.mark.parametrize("kind", ["flask", "uvicorn"])
def test_opentelemetry_instrument_in_front(kind: str, shop: Place) -> None:
    """Without a line of code, each worker tells the same."""
    pytest.importorskip("opentelemetry.distro")
    write_app(shop, kind)
    instrument = Path(sys.executable).with_name("opentelemetry-instrument")
    answers, said = serve(shop, kind, instrument, **AUTOMATIC)
    assert said.counts == expected(answers.total(), leaked=2 if kind == "flask" else 0), output(shop)


# -- Celery -------------------------------------------------------------------------------------------

TASKS = """
import os
{first}
from celery import Celery
from celery.signals import worker_process_init
import work

app = Celery("shop", broker={redis!r}, backend={redis!r})
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_proc_alive_timeout = 180  # by default a worker that is not up after 4 seconds is killed

@worker_process_init.connect(weak=False)
def begin(**_):
    {after_fork}

@app.task(name="work")
def do():
    work.work()
    work.leave_open()
    return os.getpid()
"""


@pytest.fixture
def redis(shop: Place) -> Iterator[str]:
    """The URL of a Redis server of the test's own."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    with running(shop, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", ""):
        client = Redis(port=port)
        for _ in range(DEADLINE * 20):
            try:
                client.ping()
                break
            except RedisError:
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
        client.close()


def tasks_until(redis: str, workers: int) -> Counter[int]:
    """How many tasks each worker ran, once all of them have run one."""
    app: Any = Celery("shop", broker=redis, backend=redis, set_as_current=False)
    ran: Counter[int] = Counter()
    deadline = time.monotonic() + DEADLINE
    while len(ran) < workers:
        assert time.monotonic() < deadline, ran
        sent = [app.send_task("work") for _ in range(4)]
        ran.update(task.get(timeout=DEADLINE) for task in sent)
    app.close()
    return ran


@pytest.mark.parametrize("set_up", SET_UPS)
def test_celery_prefork(set_up: str, shop: Place, redis: str) -> None:
    """The workers of a pool end by `os._exit`, and tell everything before; their parent has nothing to tell."""
    first, after_fork = SET_UPS[set_up]
    shop.write("tasks.py", TASKS.format(redis=redis, first=first, after_fork=after_fork))
    options = ["-P", "prefork", "-c", "2", "--without-mingle", "--without-gossip"]
    with running(shop, sys.executable, "-m", "celery", "-A", "tasks", "worker", *options) as process:
        ran = tasks_until(redis, workers=2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0, output(shop)
    assert told(shop).counts == expected(ran.total(), leaked=2), output(shop)


# -- multiprocessing ----------------------------------------------------------------------------------

PROCESSES = """
import multiprocessing, sys

def child():
    {in_child}
    import work
    work.engine.dispose(close=False)
    work.work(3)
    work.leave_open()

if __name__ == "__main__":
    {in_parent}
    import work
    context = multiprocessing.get_context({method!r})
    work.run([context.Process(target=child) for _ in range(2)])
    work.work({by_parent})
"""


@pytest.mark.parametrize(
    ("method", "set_up"),
    [("fork", "both in the parent"), ("fork", "both in the worker"), ("spawn", "both in the worker")],
)
def test_multiprocessing(method: str, set_up: str, shop: Place) -> None:
    """A child tells what happened in it, and what it leaves open, before it ends by `os._exit`."""
    in_parent, in_child = SET_UPS[set_up]
    by_parent = 2 if "parent" in set_up else 0
    program = PROCESSES.format(method=method, in_parent=in_parent or "pass", in_child=in_child, by_parent=by_parent)
    shop.write("program.py", program)
    outcome = shop.python("program.py")
    assert (outcome.status, outcome.err) == (0, "")
    assert told(shop).counts == expected(6 + by_parent, processes=3 if by_parent else 2, leaked=2)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_of_a_program_that_installs_at_its_top(method: str, shop: Place) -> None:
    """Where the child imports the program, it is installed there, before `multiprocessing` is ready for its end."""
    program = PROCESSES.format(method=method, in_parent="pass", in_child=SDK, by_parent=0)
    shop.write("program.py", f"{INSTALL}\n{program}")
    outcome = shop.python("program.py")
    assert (outcome.status, outcome.err) == (0, "")
    assert told(shop).counts == expected(6, leaked=2)


def test_fork_while_a_thread_uses_sessions(shop: Place) -> None:
    """No child waits for a lock of ours, and each session is counted by the process that it was in."""
    shop.write(
        "program.py",
        f"""
        import itertools, multiprocessing, threading, warnings
        warnings.simplefilter("ignore")
        import sqlalchemy.orm.session
        {SDK}; {INSTALL}
        import shop, work

        # SQLAlchemy numbers sessions under a lock that no fork renews: a child hangs in it, watched or not
        sqlalchemy.orm.session._new_sessionid = itertools.count(1).__next__

        stop, ended = threading.Event(), 0

        def use():
            global ended
            while not stop.is_set():
                with shop.Session(work.engine):  # no statement: SQLite has locks of its own
                    pass
                ended += 1

        def child():
            for _ in range(100):
                with shop.Session(work.engine):
                    pass

        thread = threading.Thread(target=use)
        thread.start()
        context = multiprocessing.get_context("fork")
        work.run([context.Process(target=child) for _ in range(20)])
        stop.set()
        thread.join()
        print(ended)
        """,
    )
    outcome = shop.python("program.py")
    assert (outcome.status, outcome.err) == (0, "")
    assert told(shop).metric("sessionwatch.sessions.closed") == {"read_only,sync": int(outcome.out) + 20 * 100}


# -- faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal_", ["Metrics", "Spans", "Logs"])
def test_exporter_that_hangs_at_the_end_of_a_child(signal_: str, shop: Place) -> None:
    """The child ends all the same."""
    shop.write(
        "program.py",
        f"""
        import multiprocessing, threading
        {SDK}; {INSTALL}
        import telling, work
        from sessionwatch.telemetry import signals
        signals._PATIENCE = 0.1

        def child():
            work.engine.dispose(close=False)
            work.work(3)
            telling.{signal_}.export = lambda *_, **__: threading.Event().wait()

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        print(process.exitcode)
        """,
    )
    outcome = shop.python("program.py")
    assert (outcome.status, outcome.out, outcome.err) == (0, "0\n", "")


def test_collector_that_is_not_there(shop: Place) -> None:
    """The program ends as it would; the SDK says what it could not do, and we count no error of ours."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    shop.write(
        "program.py",
        f"""
        {INSTALL}
        import work
        work.work(100)
        status = sessionwatch.install().status()
        print(status["sessions"]["closed"], status["findings"], status["internal_errors"])
        """,
    )
    instrument = Path(sys.executable).with_name("opentelemetry-instrument")
    env = {f"OTEL_{kind}_EXPORTER": "otlp" for kind in ("METRICS", "TRACES", "LOGS")}
    env |= {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    env["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    outcome = shop.execute(instrument, sys.executable, "program.py", env=env)
    assert outcome.status == 0, outcome.err
    assert outcome.out == "{'committed, sync': 100, 'lost, sync': 100} {'lost-writes': 100} {}\n"


@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
def test_clock_that_jumps(hours: int, shop: Place) -> None:
    """A session's span ends after it began, its events lie within it, and it lasts as long as the session did."""
    shop.write(
        "program.py",
        f"""
        import time
        real, jump = time.time_ns, 0
        time.time_ns = lambda: real() + jump
        {SDK}; {INSTALL}
        import shop, telling, work
        from opentelemetry import trace
        from sqlalchemy import text
        from sqlalchemy.exc import OperationalError
        made = telling.Spans.export
        def export(self, spans):
            for span in spans:
                assert all(span.start_time <= event.timestamp <= span.end_time for event in span.events)
                telling.tell("events", span.name, value=len(span.events))
            return made(self, spans)
        telling.Spans.export = export

        with trace.get_tracer("work").start_as_current_span("work"):
            session = shop.Session(work.engine)
        try:
            session.execute(text("SELECT no_such_column"))
        except OperationalError:
            pass
        session.execute(text("SELECT 1"))  # found here
        jump = {hours} * 3600 * 10**9
        session.close()
        """,
    )
    outcome = shop.python("program.py")
    assert (outcome.status, outcome.err) == (0, "")
    said = told(shop)
    ours = [line for line in said.lines if line["name"] == "sessionwatch.session"]
    (lasted,) = [line["value"] for line in ours if line["signal"] == "span"]
    assert 0 <= lasted < 3600 * 10**9
    assert [line["value"] for line in ours if line["signal"] == "events"] == [1]


@pytest.mark.slow
def test_hundred_thousand_sessions_of_a_thread_pool(shop: Place) -> None:
    """None of them is missing from the counts, nor from the histograms, whose queues are bounded."""
    shop.write(
        "program.py",
        f"""
        from concurrent.futures import ThreadPoolExecutor
        {SDK}; {INSTALL}
        import shop, work

        def use(_):
            for _ in range(1000):
                with shop.Session(work.engine):
                    pass

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(use, range(100)))
        status = sessionwatch.install().status()
        print(status["internal_errors"])
        """,
    )
    outcome = shop.python("program.py")
    assert (outcome.status, outcome.out, outcome.err) == (0, "{}\n", "")
    said = told(shop)
    for name in ("sessions.closed", "session.duration", "session.statements"):
        assert said.metric(f"sessionwatch.{name}") == {"read_only,sync": 100_000}
