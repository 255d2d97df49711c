"""``docs/production.md``, block by block: every server with many workers, over OTLP to a collector, and scraped."""

# ruff: noqa: F811

from __future__ import annotations

import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import queries
from tests.cli.conftest import place  # noqa: F401 (a fixture)
from tests.cli.programs import DEADLINE, PATIENT, Place
from tests.cli.test_processes import ask_until
from tests.docs.blocks import ROOT, blocks
from tests.e2e.observability import Received, collector, prometheus, texts
from tests.e2e.programs import Program, eventually
from tests.e2e.telling import output, prepare, running
from tests.e2e.test_workers import TASKS, redis, tasks_until  # noqa: F401 (a fixture)
from tests.services import free_port

pytestmark = pytest.mark.e2e
FLASK = """
import os
from flask import Flask
import work

app = Flask(__name__)

@app.get("/")
def answer():
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
GUNICORN = f"-m gunicorn -w 2 --no-control-socket {' '.join(PATIENT['gunicorn'])}"
SERVERS = {
    "gunicorn sync": f"{GUNICORN} --bind",
    "gunicorn gthread": f"{GUNICORN} -k gthread --threads 4 --bind",
    "gunicorn gevent": f"-W ignore {GUNICORN} -k gevent --bind",
    "gunicorn --preload": f"{GUNICORN} --preload --bind",
    "gunicorn --max-requests": f"{GUNICORN} --max-requests 3 --bind",
    "uvicorn --workers": f"-m uvicorn --workers 2 {' '.join(PATIENT['uvicorn'])} --fd",
}


def block(first: str, among: str = "") -> str:
    """The block of the page that begins with this comment, and has that in it."""
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    (found,) = (each.text for each in blocks(page) if each.text.startswith(f"# {first}\n") and among in each.text)
    return found


@pytest.fixture
def shop(place: Place) -> Place:
    """A folder with work to do, and the set-up of the page for gunicorn."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter", exc_type=ImportError)
    prepare(place)
    place.write("gunicorn.conf.py", block("gunicorn.conf.py"))
    return place


def count(received: Received, name: str) -> tuple[dict[str, float], int]:
    """A counter by its attributes, and how many processes told of it: of each the last that it said."""
    last: dict[tuple[str, str], float] = {}
    for request in list(received.metrics):
        for resource in request.resource_metrics:
            instance = texts(resource.resource)["service.instance.id"]
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        for point in metric.sum.data_points:
                            key = ",".join(sorted(texts(point).values()))
                            last[instance, key] = point.as_int or point.as_double
    total: dict[str, float] = {}
    for (_, key), value in last.items():
        total[key] = total.get(key, 0) + value
    return {key: value for key, value in total.items() if value}, len({instance for instance, _ in last})


@contextmanager
def serving(shop: Place, kind: str, **env: str) -> Iterator[tuple[int, Any]]:
    """The application under a server of two workers: its port, and the process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, file = listener.getsockname()[1], listener.fileno()
        address = str(file) if kind.startswith("uvicorn") else f"fd://{file}"
        command = [sys.executable, *SERVERS[kind].split(), address, "web:app"]
        with running(shop, *command, pass_fds=[file], env=env) as process:
            yield port, process


@pytest.mark.parametrize("kind", SERVERS)
def test_each_server_over_otlp(kind: str, shop: Place, tmp_path: Path) -> None:
    """All that the workers counted has passed a real collector when they have ended, each under its own identity."""
    shop.write("set_up_telemetry.py", block("set_up_telemetry.py", "OTLPMetricExporter"))
    shop.write("web.py", block("top of the application") + FASTAPI if kind.startswith("uvicorn") else FLASK)
    least = 4 if "max-requests" in kind else 2
    with collector(tmp_path / "collector") as (http, _, received):
        with serving(shop, kind, OTEL_EXPORTER_OTLP_ENDPOINT=http) as (port, process):
            answers = ask_until(port, workers=least)
            process.send_signal(signal.SIGTERM)
            process.wait(DEADLINE)
        number = answers.total()
        _arrived(received, number, shop)
        closed, workers = count(received, "sessionwatch.sessions.closed")
        assert closed == {"committed,sync": number, "lost,sync": number}, output(shop)
        assert workers >= least


def _arrived(received: Received, number: int, shop: Place) -> None:
    """Wait until what was flushed is through the collector, which sends it on in a moment of its own."""
    pause = threading.Event()
    for _ in range(DEADLINE * 10):
        if sum(count(received, "sessionwatch.sessions.closed")[0].values()) >= 2 * number:
            return
        pause.wait(0.1)
    pytest.fail(f"{count(received, 'sessionwatch.sessions.closed')}\n{output(shop)}")


def test_celery_over_otlp(shop: Place, redis: str, tmp_path: Path) -> None:
    """The children of a prefork pool, which end by `os._exit`; their parent has nothing to tell."""
    shop.write("set_up_telemetry.py", block("set_up_telemetry.py", "OTLPMetricExporter"))
    tasks = TASKS.format(redis=redis, first="", after_fork="pass").replace("    work.leave_open()\n", "")
    shop.write("tasks.py", tasks + block("in the module of the tasks"))
    options = ["-P", "prefork", "-c", "2", "--without-mingle", "--without-gossip"]
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", *options]
    with collector(tmp_path / "collector") as (http, _, received):
        with running(shop, *command, env={"OTEL_EXPORTER_OTLP_ENDPOINT": http}) as process:
            ran = tasks_until(redis, workers=2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 0, output(shop)
        _arrived(received, ran.total(), shop)
        closed, workers = count(received, "sessionwatch.sessions.closed")
        assert closed == {"committed,sync": ran.total(), "lost,sync": ran.total()}
        assert workers == 2


def job(among: str, *targets: str) -> dict[str, Any]:
    """The scrape of the page's ``prometheus.yml``, with targets that are here."""
    (made,) = yaml.safe_load(block("prometheus.yml", among))["scrape_configs"]
    return made | {"static_configs": [{"targets": list(targets)}], "scrape_interval": "2s"}


def test_scraping_one_port_per_worker(shop: Place, tmp_path: Path) -> None:
    """Prometheus finds every worker, also one that took the port of another; with the workers their gauges go."""
    ports = sorted({free_port() for _ in range(4)})
    set_up = block("set_up_telemetry.py", "PrometheusMetricReader")
    shop.write("set_up_telemetry.py", re.sub(r"PORTS = .*", f"PORTS = {ports}", set_up))
    shop.write("web.py", FLASK)
    scrape = job("9464", *(f"127.0.0.1:{port}" for port in ports))
    ended = queries.expressions("shop", ".*", "1h")["Sessions ended, __auto"]
    active = 'sessionwatch_session_active{job="shop"}'
    with prometheus(tmp_path / "prometheus", {}, queries.ALERTS, renamed={}, jobs=[scrape]) as server:
        with serving(shop, "gunicorn sync") as (port, process):
            answers = ask_until(port, workers=2)
            program = Program(process, tmp_path)
            eventually(lambda: server.number(ended) == 2 * answers.total() or None, server.program)
            instances = f"count(count by (service_instance_id) ({active}))"
            eventually(lambda: server.number(instances) == 2 or None, server.program)
            process.send_signal(signal.SIGTERM)
            program.process.wait(DEADLINE)
        eventually(lambda: server.query(active) == [] or None, server.program)
        assert server.number(ended) == 2 * answers.total()


SERIES = 'sessionwatch_sessions_opened_total{{job="{}",instance="{}",sessionwatch_session_kind="sync"}} 1\n'


def test_honor_labels_keeps_services_apart(tmp_path: Path) -> None:
    """What a collector says of job and instance stays; without the option it does not."""

    class Collector(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write((SERIES.format("shop", "a") + SERIES.format("mail", "b")).encode())

        def log_message(self, *arguments: object) -> None: ...

    sink = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=sink.serve_forever)
    thread.start()
    honored = job("honor_labels", f"127.0.0.1:{sink.server_port}")
    plain = honored | {"job_name": "plain", "honor_labels": False}
    try:
        with prometheus(tmp_path / "prometheus", {}, queries.ALERTS, renamed={}, jobs=[honored, plain]) as server:
            eventually(lambda: len(server.query("sessionwatch_sessions_opened_total")) == 4 or None, server.program)
            found = server.label_values("job", "sessionwatch_sessions_opened_total")
            assert sorted(found) == ["mail", "plain", "shop"]
    finally:
        sink.shutdown()
        thread.join()
        sink.server_close()
