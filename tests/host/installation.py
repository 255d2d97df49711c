"""What the suite needs on disk: SQLAlchemy's source distribution and two environments, made once and kept.

``<cache>/<SQLAlchemy>-py<Python>/bare`` and ``…/watched`` each hold ``env`` (a virtual environment) and
``src`` (the unpacked source distribution, its ``lib/sqlalchemy`` a link to the installed library with
its compiled parts). Only ``watched`` has sessionwatch installed, so that the bare half cannot be touched
by anything that an installation brings along.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the checkout of sessionwatch
PACKAGES = ("greenlet", "aiosqlite", "pytest>=8.3,<10", "pytest-xdist")
SHOW_VERSIONS = """
import importlib.metadata, json, platform, sqlite3
names = ["sqlalchemy", "greenlet", "aiosqlite", "pytest", "pytest-xdist"]
print(json.dumps({"python": platform.python_version(), "sqlite": sqlite3.sqlite_version,
                  **{name: importlib.metadata.version(name) for name in names}}))
"""
SHOW_LIBRARY = "import pathlib, sqlalchemy; print(pathlib.Path(sqlalchemy.__file__).parent)"

Say = Callable[[str], None]


class UnavailableError(Exception):
    """Something could not be downloaded, installed or unpacked."""


@dataclass(frozen=True)
class Host:
    """One environment with its copy of SQLAlchemy's tests."""

    folder: Path

    @property
    def python(self) -> Path:
        scripts = "Scripts/python.exe" if os.name == "nt" else "bin/python"
        return self.folder / "env" / scripts

    @property
    def src(self) -> Path:
        return self.folder / "src"

    def versions(self) -> dict[str, str]:
        """The versions that an outcome may depend on."""
        return json.loads(output([str(self.python), "-c", SHOW_VERSIONS]))


def cache_folder() -> Path:
    """``$SESSIONWATCH_CACHE``, else ``sessionwatch`` in the user's cache directory."""
    if given := os.environ.get("SESSIONWATCH_CACHE"):
        return Path(given).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sessionwatch"


@contextlib.contextmanager
def alone(folder: Path, say: Say) -> Iterator[None]:
    """Hold ``folder`` for one process at a time; another one waits here. Without locks on Windows."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        yield
        return
    import fcntl

    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that uses {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sdist(wanted: str, python: str, cache: Path, say: Say) -> tuple[str, Path]:
    """The exact version and the file of SQLAlchemy's source distribution, downloaded unless it is there.

    ``wanted`` is a version (``2.1.9``), a line (``2.0``: its newest release) or ``newest``.
    """
    folder = cache / "sdist"
    folder.mkdir(parents=True, exist_ok=True)
    here = folder / f"sqlalchemy-{wanted}.tar.gz"
    if here.exists():
        return wanted, here
    say(f"downloading the source distribution of SQLAlchemy {wanted}")
    # --no-deps is not enough to keep pip from building the metadata, which takes some seconds
    command = [python, "-m", "pip", "download", "--quiet", "--no-binary", "sqlalchemy", "--no-deps"]
    with contextlib.ExitStack() as stack:
        fresh = folder / f"download-{os.getpid()}"
        stack.callback(shutil.rmtree, fresh, ignore_errors=True)
        output([*command, "--dest", str(fresh), requirement(wanted)])
        (found,) = fresh.glob("*.tar.gz")
        kept = folder / found.name.lower()
        found.replace(kept)
    return kept.name.removeprefix("sqlalchemy-").removesuffix(".tar.gz"), kept


def requirement(wanted: str) -> str:
    if wanted == "newest":
        return "sqlalchemy"
    return f"sqlalchemy=={wanted}.*" if wanted.count(".") == 1 else f"sqlalchemy=={wanted}"


def host(folder: Path, version: str, archive: Path, python: str, say: Say) -> Host:
    """The environment in ``folder``, made new unless an earlier run finished it."""
    made, done = Host(folder), folder / "complete"
    if done.exists():
        return made
    say(f"making an environment with SQLAlchemy {version} in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    output([python, "-m", "venv", str(folder / "env")])
    output([str(made.python), "-m", "pip", "install", "--quiet", f"sqlalchemy=={version}", *PACKAGES])
    unpack(archive, made)
    done.touch()
    return made


def unpack(archive: Path, made: Host) -> None:
    """Unpack the tests, and put the installed library where their conftest looks for it."""
    with tarfile.open(archive) as tar:
        tar.extractall(made.folder / "unpacked", filter="data")
    (top,) = (made.folder / "unpacked").iterdir()
    top.rename(made.src)
    shutil.rmtree(made.src / "lib" / "sqlalchemy")
    library = output([str(made.python), "-c", SHOW_LIBRARY]).strip()
    (made.src / "lib" / "sqlalchemy").symlink_to(library, target_is_directory=True)


def put_sessionwatch(made: Host, say: Say) -> None:
    """Install this checkout, unless exactly these files are installed already."""
    stamp, now = made.folder / "sessionwatch", fingerprint(ROOT)
    if stamp.exists() and stamp.read_text() == now:
        return
    say("installing sessionwatch from this checkout")
    pip = [str(made.python), "-m", "pip"]
    output([*pip, "uninstall", "--quiet", "--yes", "sessionwatch"])
    output([*pip, "install", "--quiet", str(ROOT)])
    stamp.write_text(now)


def fingerprint(checkout: Path) -> str:
    """A digest of what an installation of ``checkout`` is made from."""
    digest = hashlib.sha256()
    package = sorted(p for p in (checkout / "sessionwatch").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    for path in [checkout / "pyproject.toml", *package]:
        digest.update(f"{path.relative_to(checkout)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def python_version(python: str) -> str:
    return output([python, "-c", "import platform; print(platform.python_version())"]).strip()


def output(command: list[str]) -> str:
    """Run a command to its end and return what it printed; UnavailableError with its last words if it fails."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        words = [line[:300] for line in (done.stderr or done.stdout).strip().splitlines()[-15:]]
        raise UnavailableError("\n  ".join([f"{' '.join(command)} failed:", *words]))
    return done.stdout
