"""Real programs in real processes, with and without ``sessionwatch run`` in front."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 180  # seconds; only a program that hangs ever gets there
# Both kill a worker that gives no sign of life, after 30 and 5 seconds: on a busy machine that would be chance.
# A worker of gunicorn's does not hear that it should end while it begins: then it is killed, after the second time.
PATIENT = {
    "gunicorn": ["--timeout", str(DEADLINE), "--graceful-timeout", str(DEADLINE // 3)],
    "uvicorn": ["--timeout-worker-healthcheck", str(DEADLINE)],
}

SHOP = """
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(default="new")


def make_engine(url="sqlite://"):
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    return engine


def lose(engine):
    session = Session(engine)
    session.add(Order())
    session.flush()
    session.close()  # LOST


def keep(engine):
    with Session(engine) as session, session.begin():
        session.add(Order())
"""
LOST_LINE = SHOP.splitlines().index("    session.close()  # LOST") + 1


@dataclass(frozen=True)
class Outcome:
    """How a process ended, and what it said."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def err(self) -> str:
        return self.stderr.decode()


@dataclass
class Place:
    """A folder with programs, and the environment in which they run."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, source: str, mode: int = 0o644) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
        path.chmod(mode)
        return path

    def start(self, *argv: object, **options: Any) -> subprocess.Popen[bytes]:
        options.setdefault("stdin", subprocess.DEVNULL)
        env = {**self.env, **options.pop("env", {})}
        return subprocess.Popen([str(part) for part in argv], cwd=options.pop("cwd", self.path), env=env, **options)

    def execute(self, *argv: object, stdin: bytes = b"", **options: Any) -> Outcome:
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(*argv, **streams, **options) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=DEADLINE)
            except BaseException:
                process.kill()
                raise
        return Outcome(process.returncode, stdout, stderr)

    def python(self, *argv: object, **options: Any) -> Outcome:
        return self.execute(sys.executable, *argv, **options)

    def sessionwatch(self, *argv: object, **options: Any) -> Outcome:
        return self.python("-m", "sessionwatch", *argv, **options)

    def run(self, *argv: object, **options: Any) -> tuple[Outcome, list[dict[str, Any]]]:
        """``sessionwatch run`` with the findings in a file: the outcome, and the lines of that file."""
        outcome = self.sessionwatch("run", "--format", "json", "--output", "findings.jsonl", *argv, **options)
        return outcome, self.findings()

    def findings(self, name: str = "findings.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / name).read_text().splitlines()]
