"""What has to work where nothing but the wheel and its run-time dependencies is installed.

Run with the interpreter of that environment; standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

class Base(DeclarativeBase): pass
class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)

engine = sa.create_engine("sqlite:///things.db")
Base.metadata.create_all(engine)
session = Session(engine)
session.add(Thing())
session.flush()
session.close()  # lost here
print("done")
"""


def sessionwatch(*arguments: str, cwd: str) -> subprocess.CompletedProcess[str]:
    """Run the console script as a user does."""
    command = [str(Path(sys.executable).with_name("sessionwatch")), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def check(claim: str, holds: bool, output: object = "") -> None:
    print(f"{'ok  ' if holds else 'FAIL'}  {claim}")
    if not holds:
        sys.exit(f"smoke: {claim}\n{output}")


def the_package_is_whole() -> None:
    import sessionwatch as package

    folder = Path(package.__file__ or "").parent
    check("the package comes from the wheel", "site-packages" in folder.parts, folder)
    check("importing it leaves SQLAlchemy alone", "sqlalchemy" not in sys.modules)
    for name in ("py.typed", "schema.json", "autostart/sitecustomize.py", "demo/__init__.py"):
        check(f"it carries {name}", (folder / name).is_file())


def the_commands_work(cwd: str) -> None:
    demo = sessionwatch("demo", cwd=cwd)
    check("sessionwatch demo ends well", demo.returncode == 0, demo.stdout + demo.stderr)
    for command in ("rules", "config", "explain"):
        ended = sessionwatch(command, *(["lost-writes"] if command == "explain" else []), cwd=cwd)
        check(f"sessionwatch {command} answers", ended.returncode == 0 and bool(ended.stdout), ended.stderr)


def a_script_is_watched(cwd: str) -> None:
    watched = sessionwatch("run", "--format", "json", "--output", "found.jsonl", "script.py", cwd=cwd)
    check(
        "a watched script prints and ends as without us", (watched.returncode, watched.stdout) == (0, "done\n"), watched
    )
    (finding,) = map(json.loads, Path(cwd, "found.jsonl").read_text().splitlines())
    line = next(number for number, text in enumerate(SCRIPT.splitlines(), start=1) if "# lost here" in text)
    place = (finding["rule"], finding["path"], finding["line"])
    check("its lost write is found", place == ("lost-writes", "script.py", line), place)
    made = sessionwatch("run", "--format", "html", "--output", "report.html", "script.py", cwd=cwd)
    page = Path(cwd, "report.html").read_text() if made.returncode == 0 else ""
    check("its report is a page with a picture", "</html>" in page and '"picture":{' in page, made.stderr)
    check("--fail says so", sessionwatch("run", "--fail", "script.py", cwd=cwd).returncode == 1)


def pytest_is_watched(cwd: str) -> None:
    """Installed beside pytest, the plugin is there, and does nothing until it is asked to."""
    Path(cwd, "pytest.ini").write_text("[pytest]\n")  # not the settings of a project that the folder lies in
    Path(cwd, "test_script.py").write_text("def test_script():\n    import script\n")
    pytest = [sys.executable, "-m", "pytest", "-q"]
    for options, status in (([], 0), (["--sessionwatch=strict"], 1)):
        ended = subprocess.run([*pytest, *options], cwd=cwd, capture_output=True, text=True, timeout=120)
        told = "lost-writes" in ended.stdout
        check(
            f"pytest {' '.join(options)} ends with {status}", (ended.returncode, told) == (status, bool(status)), ended
        )


def telemetry_without_a_line_of_code(cwd: str) -> None:
    """The README's extras are enough: the SDK is set up, and its default exporter is there (nobody listens to it)."""
    command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, "script.py"]
    environment = {
        **os.environ,
        "OTEL_METRICS_EXPORTER": "console",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    check("opentelemetry-instrument runs a script", ended.returncode == 0 and "done\n" in ended.stdout, ended)
    check("the SDK is set up, with its default exporter", "Failed to auto initialize" not in ended.stderr, ended)
    check("the lost write is exported", '"sessionwatch.outcome": "lost"' in ended.stdout, ended)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "script.py").write_text(SCRIPT)
        if sys.argv[1:] == ["pytest"]:
            return pytest_is_watched(folder)
        if sys.argv[1:] == ["telemetry"]:
            return telemetry_without_a_line_of_code(folder)
        the_package_is_whole()
        the_commands_work(folder)
        return a_script_is_watched(folder)


if __name__ == "__main__":
    main()
