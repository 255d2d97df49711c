"""Every process that a watched program starts is watched, however it is started and however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.programs import DEADLINE, LOST_LINE, PATIENT, ROOT, Place

LOSES = "import shop\nshop.lose(shop.make_engine())\n"


def counts(findings: list[dict[str, Any]]) -> Counter[int]:
    """How often each process lost an order, by its last line."""
    assert {(finding["rule"], finding["line"]) for finding in findings} == {("lost-writes", LOST_LINE)}
    return Counter({finding["pid"]: finding["count"] for finding in findings})


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), 9)"])
def test_fork(place: Place, end: str) -> None:
    """A forked child tells what it lost itself, and not again what its parent lost."""
    place.write(
        "job.py",
        f"""
        import os, sys, shop
        shop.lose(shop.make_engine())
        if not (child := os.fork()):
            shop.lose(shop.make_engine())
            {end}
        os.waitpid(child, 0)
        print(os.getpid(), child)
        """,
    )
    outcome, findings = place.run("job.py")
    assert counts(findings) == dict.fromkeys(map(int, outcome.out.split()), 1)


def test_fork_before_sqlalchemy_is_imported(place: Place) -> None:
    """A worker that imports SQLAlchemy after the fork is watched, where its parent never does."""
    place.write(
        "job.py",
        """
        import os
        if not (child := os.fork()):
            import shop
            shop.lose(shop.make_engine())
            os._exit(0)
        print(os.waitpid(child, 0)[0])
        """,
    )
    outcome, findings = place.run("job.py")
    assert counts(findings) == {int(outcome.out): 1}


def test_subprocess(place: Place) -> None:
    """A Python that the program starts is watched, from another folder too."""
    call = "subprocess.call([sys.executable, '../child.py'], cwd='sub')"
    place.write("job.py", f"import subprocess, sys; sys.exit({call})")
    place.write("sub/empty.txt", "")
    place.write("child.py", "import shop; shop.lose(shop.make_engine()); raise SystemExit(6)")
    outcome, findings = place.run("job.py")
    assert outcome.status == 6
    assert [finding["path"] for finding in findings] == [str(place.path / "shop.py")]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("orders", [1, 3])
def test_multiprocessing(place: Place, method: str, orders: int) -> None:
    """Processes of `multiprocessing` tell their findings, with the final counts."""
    place.write(
        "job.py",
        f"""
        import multiprocessing, shop

        def work():
            engine = shop.make_engine()
            for _ in range({orders}):
                shop.lose(engine)

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            workers = [context.Process(target=work) for _ in range(2)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            print(*(worker.pid for worker in workers))
        """,
    )
    outcome, findings = place.run("job.py")
    assert counts(findings) == dict.fromkeys(map(int, outcome.out.split()), orders)


def test_process_pool(place: Place) -> None:
    """The workers of a `ProcessPoolExecutor` tell how many orders each one lost."""
    place.write(
        "job.py",
        """
        from concurrent.futures import ProcessPoolExecutor
        import shop

        def work(_):
            shop.lose(shop.make_engine())

        if __name__ == "__main__":
            with ProcessPoolExecutor(2) as pool:
                list(pool.map(work, range(20)))
        """,
    )
    _, findings = place.run("job.py")
    assert counts(findings).total() == 20


LOSE = """
def lose_{}(engine):
    session = shop.Session(engine)
    session.add(shop.Order())
    session.flush()
    session.close()
"""


def test_lines_are_whole(place: Place) -> None:
    """Eight processes that write at the same time do not write into each other's lines."""
    place.write("many.py", "import shop\n" + "".join(LOSE.format(number) for number in range(40)))
    place.write(
        "job.py",
        """
        import os, shop, many
        start, go = os.pipe()
        for _ in range(8):
            if not os.fork():
                os.close(go)
                os.read(start, 1)
                engine = shop.make_engine()
                for number in range(40):
                    getattr(many, f"lose_{number}")(engine)
                os._exit(0)
        os.close(go)
        for _ in range(8):
            os.wait()
        """,
    )
    _, findings = place.run("job.py")
    assert Counter(finding["function"] for finding in findings) == {f"lose_{number}": 8 for number in range(40)}
    assert len({finding["pid"] for finding in findings}) == 8


def test_process_that_outlives_the_program(place: Place) -> None:
    """A daemon that goes on after the report does not notice that nobody listens any more."""
    place.write(
        "daemon.py",
        """
        import os, sys
        sys.stdin.read()  # ends with sessionwatch
        import shop
        shop.lose(shop.make_engine())
        os.write(int(sys.argv[1]), b"well")
        """,
    )
    place.write(
        "job.py",
        """
        import os, subprocess, sys
        reader, writer = int(sys.argv[1]), int(sys.argv[2])
        command = [sys.executable, "daemon.py", str(writer)]
        subprocess.Popen(command, stdin=reader, pass_fds=[writer], start_new_session=True)
        """,
    )
    hold, release = os.pipe()
    result, report = os.pipe()
    options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "pass_fds": [hold, report]}
    with place.start(sys.executable, "-m", "sessionwatch", "run", "job.py", hold, report, **options) as process:
        os.close(report)
        os.close(hold)
        assert process.wait(DEADLINE) == 0
    os.close(release)
    with open(result, "rb") as stream:
        assert stream.read() == b"well"


def test_program_that_closes_every_file(place: Place) -> None:
    """After a daemon has closed all files, no finding is written into what it opens next."""
    place.write(
        "job.py",
        """
        import os, shop
        engine = shop.make_engine()
        for _ in range(3):
            shop.lose(engine)
            os.closerange(3, 64)
            files = [os.open(f"own{number}", os.O_WRONLY | os.O_CREAT) for number in range(16)]
        for number in range(16):
            print(os.path.getsize(f"own{number}"), end=" ")
        os.closerange(3, 64)
        shop.lose(engine)
        """,
    )
    outcome, findings = place.run("job.py")
    assert outcome.out.split() == ["0"] * 16
    assert [finding["count"] for finding in findings] == [1, 4]


WSGI = """
import os, shop
engine = shop.make_engine()

def app(environ, start_response):
    shop.lose(engine)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [b"%d" % os.getpid()]
"""
ASGI = """
import os, shop
engine = shop.make_engine()

async def app(scope, receive, send):
    if scope["type"] == "http":
        shop.lose(engine)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
"""
SERVERS = {
    "gunicorn": (WSGI, ["gunicorn", *PATIENT["gunicorn"], "--workers", "2", "--bind"]),
    "gunicorn-preload": (WSGI, ["gunicorn", *PATIENT["gunicorn"], "--preload", "--workers", "2", "--bind"]),
    "uvicorn": (ASGI, ["uvicorn", *PATIENT["uvicorn"], "--workers", "2", "--fd"]),
}


@pytest.mark.parametrize("name", SERVERS)
def test_workers_of_a_server(place: Place, name: str) -> None:
    """Both workers of a server answer as ever, and their findings are there after SIGTERM, with final counts."""
    source, (server, *arguments) = SERVERS[name]
    if not find_spec(server):
        pytest.skip(f"{server} is not installed")
    place.write("web.py", source)
    place.write("pyproject.toml", '[tool.sessionwatch.rules]\nblocking-io = "off"\n')  # the ASGI one is sync inside
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, file = listener.getsockname()[1], listener.fileno()
        where = f"fd://{file}" if server == "gunicorn" else str(file)
        command = [sys.executable, "-m", "sessionwatch", "run", "--format", "json", "--output", "findings.jsonl"]
        command += ["-m", server, *arguments, where, "web:app"]
        with place.start(*command, pass_fds=[file], stderr=subprocess.PIPE) as process:
            try:
                answers = ask_until(port, workers=2)
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=DEADLINE)
            finally:
                process.kill()
    assert process.returncode in (0, -signal.SIGTERM), log.decode()
    assert counts(place.findings()) == answers


def ask_until(port: int, workers: int) -> Counter[int]:
    """How many requests each worker answered, once all of them have answered one."""
    answers: Counter[int] = Counter()
    deadline = time.monotonic() + DEADLINE
    while len(answers) < workers:
        assert time.monotonic() < deadline, answers
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=DEADLINE) as response:
            answers[int(response.read())] += 1
    return answers


def test_program_whose_environment_lacks_sessionwatch(place: Place) -> None:
    """A checkout is enough: the program's own environment needs only what sessionwatch itself needs."""
    packages = place.path / "packages"
    packages.mkdir()
    needed = ("sqlalchemy", "wrapt", "opentelemetry", "typing_extensions", "greenlet")
    for name in (*needed, "deprecated", "importlib_metadata", "zipp"):  # the last are of older OpenTelemetry
        if (spec := find_spec(name)) is not None:
            origin = Path((spec.submodule_search_locations or [spec.origin])[0])  # type: ignore[list-item]
            (packages / origin.name).symlink_to(origin)
    place.execute(sys.executable, "-m", "venv", "--without-pip", place.path / "venv")
    python = place.path / "venv" / "bin" / "python"
    place.write("job.py", "import sys; before = list(sys.path)\nimport shop; assert sys.path == before\n" + LOSES)
    env = {"PYTHONPATH": str(packages)}
    assert place.execute(python, "-c", "import sessionwatch", env=env).status == 1
    main = "import os, sys; sys.path.insert(0, {!r}); from sessionwatch.command.cli import main; sys.exit(main())"
    arguments = ["run", "--output", "report.txt", "--fail", "job.py"]
    outcome = place.execute(python, "-c", main.format(str(ROOT)), *arguments, env=env)
    assert (outcome.status, outcome.err) == (1, "sessionwatch: 1 finding (1 lost-writes); see report.txt\n")


def old_python() -> str | None:
    """An interpreter that is too old for sessionwatch, if this machine has one."""
    for minor in range(10, 6, -1):
        versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        for path in [*versions.glob(f"3.{minor}.*/bin/python3"), *Path("/usr/bin").glob(f"python3.{minor}")]:
            return str(path)
    return None


def test_python_that_is_too_old(place: Place) -> None:
    """A program of an older Python runs as ever, and the report says that it was not watched."""
    if (python := old_python()) is None:
        pytest.skip("every Python here is new enough")
    place.write("sqlalchemy/__init__.py", "print('imported')")
    place.write("job.py", "import sqlalchemy; print('done')")
    outcome = place.sessionwatch("run", "--", python, "job.py")
    assert (outcome.status, outcome.out) == (0, "imported\ndone\n")
    assert "1 process not watched: RuntimeError: sessionwatch needs Python 3.11, and this is 3." in outcome.err
