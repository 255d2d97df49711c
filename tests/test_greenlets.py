"""Programs under gevent and eventlet: signals, subprocesses, greenlets that wait, and greenlets that are gone."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.programs import DEADLINE, PATIENT

GREEN = {
    "gevent": "from gevent import monkey; monkey.patch_all()\nimport gevent as green\nwait = green.Greenlet.join\n",
    "eventlet": (
        "import warnings; warnings.simplefilter('ignore')\nimport eventlet as green; green.monkey_patch()\n"
        "wait = type(green.spawn(int)).wait\n"
    ),
}
BEFORE = "import sessionwatch\n"  # imported before the patches: what it took from `threading` is unpatched
INSTALLED = """
import os, signal, subprocess, sys, sessionwatch
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
quick = {"long-session.idle": 0.1, "long-session.seconds": 0.3}
watch = sessionwatch.install(mode="log", log=False, settings=quick)
engine = create_engine("sqlite:///here.db")

def until(seen):
    while not seen():
        green.sleep(0.01)
"""
SIGNALS = """
with Session(engine) as session:
    session.execute(text("select 1"))
green.sleep(0.05)
assert not signal.pthread_sigmask(signal.SIG_BLOCK, []), "signals are blocked"
assert subprocess.run([sys.executable, "-c", "print('child')"]).returncode == 0
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
os.kill(os.getpid(), signal.SIGTERM)
until(lambda: heard)
"""
WAITS = """
def waits():
    with Session(engine) as session:
        session.execute(text("select 1"))
        until(lambda: watch.findings)
wait(green.spawn(waits))
assert {finding.rule for finding in watch.findings} == {"long-session"}, watch.findings
assert "has ended" not in str(watch.findings), watch.findings
"""
LEAVES = """
kept = []
def leaves():
    kept.append(Session(engine))
    kept[0].execute(text("select 1"))
wait(green.spawn(leaves))
until(lambda: watch.findings)
assert [finding.rule for finding in watch.findings] == ["long-session"], watch.findings
assert "which began it, has ended" in watch.findings[0].evidence[0].note, watch.findings
"""
ENDS = "\nassert watch.status()['internal_errors'] == {}\nwatch.uninstall()\nprint('all of it')\n"
PROGRAMS = {"signals": SIGNALS, "waits": WAITS, "leaves": LEAVES}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("first", ["", BEFORE], ids=["patched first", "imported first"])
@pytest.mark.parametrize("library", GREEN)
def test_program(library: str, first: str, name: str, tmp_path: Path) -> None:
    """No signal is blocked, children are waited for; a long session tells whether its greenlet lives or has ended."""
    if not find_spec(library):
        pytest.skip(f"{library} is not installed")
    program = first + GREEN[library] + INSTALLED + PROGRAMS[name] + ENDS
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all of it\n")


SERVER = """
import os, subprocess, sys, time
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
engine = create_engine("sqlite:///here.db")
kept = []

def found():
    return open("findings.jsonl").read() if os.path.exists("findings.jsonl") else ""

def app(environ, start_response):
    start_response("200 OK", [("Connection", "close")])
    with Session(engine) as session:
        session.execute(text("select 1"))
        while environ["PATH_INFO"] == "/waits" and "long-session" not in found():
            time.sleep(0.05)
    if environ["PATH_INFO"] == "/leak":
        kept.append(Session(engine))
        kept[-1].execute(text("select 1"))
    if environ["PATH_INFO"] == "/child":
        return [str(subprocess.run([sys.executable, "-c", ""]).returncode).encode()]
    return [b"0"]
"""
SETTINGS = '[tool.sessionwatch.settings]\n"long-session.seconds" = 0.3\n"long-session.idle" = 0.2\n'


@pytest.mark.e2e
@pytest.mark.parametrize("mode", ["log", "telemetry"])
def test_workers_of_gunicorn(mode: str, tmp_path: Path) -> None:
    """Gevent workers answer, run children, end at SIGTERM, and tell of the one session that leaks."""
    if not find_spec("gevent"):
        pytest.skip("gevent is not installed")
    (tmp_path / "web.py").write_text(SERVER)
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, file = listener.getsockname()[1], listener.fileno()
        command = [sys.executable, "-m", "sessionwatch", "run", "--mode", mode, "--format", "json"]
        command += ["--output", "findings.jsonl", "-m", "gunicorn", "-k", "gevent", *PATIENT["gunicorn"]]
        command += ["--bind", f"fd://{file}", "web:app"]
        with subprocess.Popen(command, cwd=tmp_path, pass_fds=[file], stderr=subprocess.PIPE) as process:
            try:
                answers = [ask(port, path) for path in ("", "waits", "child", "leak")]
                time.sleep(1)  # the leak is seen while the server idles
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=DEADLINE)
            finally:
                process.kill()
    assert answers == ["0"] * 4
    assert process.returncode in (0, -signal.SIGTERM), log.decode()
    assert "timeout" not in log.decode().lower()
    lines = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert {line["rule"] for line in lines} == {"long-session", "session-leak"}, log.decode()
    assert {line["function"] for line in lines if line["rule"] == "session-leak"} == {"app"}


def ask(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=DEADLINE) as response:
        return str(response.read().decode())
