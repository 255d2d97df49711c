"""An unmodified FastAPI service on PostgreSQL, served by uvicorn and called over HTTP, bare and watched."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from sqlalchemy import URL

from tests.cli.programs import PATIENT
from tests.e2e.programs import (
    EXAMPLES,
    PATIENCE,
    Finding,
    Program,
    environment,
    eventually,
    findings_in,
    marked,
    started,
    uvicorn_address,
)

FOLDER = EXAMPLES / "fastapi_orders"
FAULTY = FOLDER / "app.py"
WATCHED = [sys.executable, "-m", "sessionwatch", "run"]
REQUESTS = [
    ("POST", "/orders"),
    ("POST", "/async/orders"),
    ("GET", "/orders/count"),
    ("GET", "/orders"),
    ("GET", "/orders/1/articles"),
    ("GET", "/async/orders/1/articles"),
    ("GET", "/orders/1"),
    ("GET", "/orders/nonsense"),
]
pytestmark = [pytest.mark.e2e, pytest.mark.postgresql]

Answer = tuple[str, int, str, dict[str, str]]


@dataclass
class Outcome:
    """What one run of the service did, as seen from outside."""

    answers: list[Answer]
    status: int
    stdout: str
    stderr: str
    findings: list[Finding] = field(default_factory=list)


@pytest.fixture
def serve(postgres_url: URL, tmp_path: Path) -> Callable[..., Outcome]:
    """Run the service on fresh tables, send every request, stop it by a signal."""
    env = environment(DATABASE_URL=postgres_url.render_as_string(hide_password=False))

    def run(*prefix: str, app: str = "app:app", stop: signal.Signals = signal.SIGTERM, workers: int = 0) -> Outcome:
        subprocess.run([sys.executable, "database.py"], cwd=FOLDER, env=env, check=True)
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        output = folder / "findings.jsonl"
        options = ["--output", str(output)] if "json" in prefix else []
        watched = [*WATCHED, *prefix, *options, "--"] if prefix else []
        command = [
            *watched,
            "uvicorn",
            app,
            "--port",
            "0",
            "--no-access-log",
            *(["--workers", str(workers), *PATIENT["uvicorn"]] if workers else []),
        ]
        with started(command, cwd=FOLDER, folder=folder, env=env) as program:
            answers = _ask_everything(uvicorn_address(program))
            if workers and watched:
                _until_both_workers_found_something(program, output)
            status = program.stop(stop)
        return Outcome(answers, status, program.stdout, program.stderr, findings_in(output))

    return run


def _ask_everything(address: str) -> list[Answer]:
    one_each = httpx.Limits(max_keepalive_connections=0)  # uvicorn drops a connection after an unhandled exception
    with httpx.Client(base_url=address, headers={"x-user": "ada"}, timeout=PATIENCE, limits=one_each) as client:
        return [_ask(client, method, path) for method, path in REQUESTS]


def _ask(client: httpx.Client, method: str, path: str) -> Answer:
    response = client.request(method, path, json={"customer": "Orion Freight"} if method == "POST" else None)
    headers = {name: value for name, value in response.headers.items() if name != "date"}
    return f"{method} {path}", response.status_code, response.text, headers


def _until_both_workers_found_something(program: Program, output: Path) -> None:
    address = uvicorn_address(program)

    def ask() -> bool | None:
        httpx.post(f"{address}/orders", json={"customer": "Lyra Cargo"}, timeout=PATIENCE)
        return len({finding["pid"] for finding in findings_in(output)}) > 1 or None

    eventually(ask, program)


def places(findings: list[Finding]) -> set[tuple[str, str, int]]:
    return {(finding["rule"], finding["path"], finding["line"]) for finding in findings}


def evidence(findings: list[Finding], rule: str) -> set[tuple[str, int]]:
    """Label and line of all evidence that lies in the application's own file."""
    all_of_rule = [item for finding in findings if finding["rule"] == rule for item in finding["evidence"]]
    return {(item["label"], item["line"]) for item in all_of_rule if item["path"] == FAULTY.name}


def expected_places() -> set[tuple[str, str, int]]:
    return {(rule, FAULTY.name, line) for rule, line in marked(FAULTY, "finds: ")}


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_answers_and_ending_are_unchanged(serve: Callable[..., Outcome], stop: signal.Signals) -> None:
    """Status, body and headers of every answer, stdout and exit status are the same bare and watched."""
    bare = serve(stop=stop)
    watched = serve("--format", "json", stop=stop)
    assert [answer[1] for answer in bare.answers] == [201, 201, 200, 500, 500, 500, 500, 422]
    assert watched.answers == bare.answers
    assert (watched.status, watched.stdout) == (bare.status, bare.stdout)
    assert watched.findings


def test_findings_name_the_marked_lines(serve: Callable[..., Outcome]) -> None:
    """Each marked line has its finding, each finding a marked line, and the evidence names the other marked lines."""
    findings = serve("--format", "json").findings
    assert expected_places() <= places(findings)
    for rule in ("lost-writes", "detached-access"):
        assert set(marked(FAULTY, f"{rule}: ")) <= evidence(findings, rule)


def test_nothing_is_found_elsewhere(serve: Callable[..., Outcome]) -> None:
    """Only the read that FastAPI's serializer makes has no marked line: it is blamed on the handler that returned."""
    findings = serve("--format", "json").findings
    extra = places(findings) - expected_places()
    returned = max(line for label, line in marked(FAULTY, "detached-access: ") if label == "loaded")
    assert {(rule, path) for rule, path, _ in extra} <= {("detached-access", FAULTY.name)}
    assert [item["rule"] for item in findings if ("loaded", returned) in evidence([item], "detached-access")]


def test_the_text_report_names_the_same_lines(serve: Callable[..., Outcome]) -> None:
    """The text report comes on stderr after the service's own output, and stdout stays the service's."""
    outcome = serve("--format", "text")
    assert outcome.stdout == ""
    for rule, path, line in expected_places():
        assert f"{path}:{line}" in outcome.stderr
        assert re.search(rf"^[A-Z]+  (FAULT |advice) {rule}  ", outcome.stderr, re.MULTILINE)


def test_worker_processes_are_covered(serve: Callable[..., Outcome]) -> None:
    """With two workers the answers are unchanged, and both workers write whole lines to one file."""
    bare = serve(workers=2)
    watched = serve("--format", "json", workers=2)
    assert watched.answers == bare.answers
    assert watched.status == bare.status
    assert expected_places() <= places(watched.findings)
    assert len({finding["pid"] for finding in watched.findings}) == 2


def test_the_repaired_service_yields_nothing(serve: Callable[..., Outcome]) -> None:
    """The same requests to the mended twin all succeed, and there is nothing to report."""
    outcome = serve("--format", "json", app="repaired:app")
    assert [answer[1] for answer in outcome.answers] == [201, 201, 200, 200, 200, 200, 200, 422]
    assert outcome.findings == []
