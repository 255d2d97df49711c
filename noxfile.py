"""``nox`` runs everything; ``nox -l`` lists it. Interpreters that are not on this machine are skipped.

``nox -s "tests-3.12(sqlalchemy='2.1')" -- -k lost`` runs one cell of the matrix; what follows ``--`` goes to pytest.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ["3.11", "3.12", "3.13"]
# FastAPI ran the exit code of dependencies after the response, then before it (0.106), then after it again (0.118).
FASTAPI = {"0.105.0": "0.27.0", "0.117.1": "0.48.0"}  # each with its Starlette; `tests` has the newest
PEERS = [  # not in the extra `bench`: a plugin of theirs would take part in every pytest run
    "sentry-sdk",
    "pytest-queryguard==0.4.1",
    "queryspy",
    "logfire",
]
SQLALCHEMY = {"2.0": "sqlalchemy>=2.0,<2.1", "2.1": "sqlalchemy>=2.1,<2.2"}

nox.needs_version = ">=2024.10"
nox.options.sessions = ["tests", "lowest", "frameworks", "lint", "types", "wheel", "docs"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"


def _show_pyenv_interpreters() -> None:
    """Let nox find the interpreters of pyenv, which answers for a version only where that is switched on."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [str(path) for wanted in PYTHONS for path in sorted(root.glob(f"versions/{wanted}.*/bin"))]
    os.environ["PATH"] = os.pathsep.join([*folders, os.environ.get("PATH", "")])


_show_pyenv_interpreters()


def _bounds(extra: str = "") -> dict[str, str]:
    """Every run-time dependency, or those of an extra, with its lower bound as an exact version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    items = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {item.partition(">=")[0]: item.replace(">=", "==") for item in items}


def _pytest(session: nox.Session) -> None:
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session(python=PYTHONS)
@nox.parametrize("sqlalchemy", list(SQLALCHEMY))
def tests(session: nox.Session, sqlalchemy: str) -> None:
    """The tests, with the newest release of one SQLAlchemy line."""
    session.install("-e", ".[dev]", SQLALCHEMY[sqlalchemy])
    _pytest(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The tests, with the oldest release that each run-time dependency allows."""
    session.install("-e", ".[dev]")
    bounds = _bounds()
    session.install("--no-deps", bounds.pop("sqlalchemy"))  # the hosts among the tests ask for a newer one
    session.install("aiosqlite<0.22")  # newer ones keep a program alive that an old SQLAlchemy does not close
    exporter = "opentelemetry-exporter-prometheus==0.41b0"  # that SDK's; the extra asks for the names of newer ones
    auto = _bounds("auto")
    beside = auto["opentelemetry-instrumentation"].replace("-instrumentation", "-instrumentation-sqlalchemy")
    sdk = bounds["opentelemetry-api"].replace("-api", "-sdk")
    session.install(*bounds.values(), sdk, exporter, *auto.values(), beside, "setuptools<81")  # their pkg_resources
    _pytest(session)


@nox.session(python=PYTHONS[0])
def frameworks(session: nox.Session) -> None:
    """Units of work under the FastAPI versions that end dependencies at different times."""
    session.install("-e", ".[dev]")
    for fastapi, starlette in FASTAPI.items():
        session.install("--no-deps", f"fastapi=={fastapi}", f"starlette=={starlette}")
        session.run("python", "-m", "pytest", "-n", "auto", "tests/units/test_asgi.py", *session.posargs)


@nox.session(python=PYTHONS[0])
@nox.parametrize("sqlalchemy", list(SQLALCHEMY))
def benchmarks(session: nox.Session, sqlalchemy: str) -> None:
    """What it costs on one SQLAlchemy line, beside the peers: ``nox -s benchmarks -- instructions`` for a part."""
    session.install("-e", ".[bench]", *PEERS, SQLALCHEMY[sqlalchemy])
    arguments = session.posargs or ["--peers"]
    session.run("python", "-m", "benchmarks", *arguments, "--json", f"benchmarks-{sqlalchemy}.json")


@nox.session(python=PYTHONS[0])
def picture(session: nox.Session) -> None:
    """``docs/dashboard.png`` and ``-workers``: five minutes of a service under load, with one worker and with four.

    Drawn with Grafana UI components.

    Needs npm, Chromium, PostgreSQL and Prometheus. tests/e2e/test_picture.py draws the same of less traffic.
    """
    session.install("-e", ".[dev]")
    folder = Path(session.create_tmp()).resolve()
    for path in (ROOT / "dashboards" / "render").glob("*.*"):
        shutil.copy(path, folder)
    with session.chdir(folder):
        session.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", external=True)
        session.run("npm", "run", "build", external=True)
    for name, workers in {"dashboard": "1", "dashboard-workers": "4"}.items():
        target = str(ROOT / "docs" / f"{name}.png")
        session.run("python", "-m", "tests.e2e.picture", str(folder / "dist"), target, workers)


@nox.session(python=PYTHONS[0])
def report(session: nox.Session) -> None:
    """``docs/report-light.png``, ``-dark`` and ``-finding``: the HTML report of the demonstration. Needs Chromium."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.e2e.report_pictures", str(ROOT / "docs"))


@nox.session(python=PYTHONS[0])
def comparison(session: nox.Session) -> None:
    """``docs/comparison.md``: the bad example of each rule under other tools."""
    session.install("-e", ".[test]", "fastapi", "httpx", *PEERS)
    session.install("opentelemetry-sdk", "opentelemetry-instrumentation-sqlalchemy")
    session.run("python", "-m", "tests.comparison")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and layout of all Python files."""
    session.install("ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the package, strictly."""
    session.install("-e", ".[dev]")
    for platform in ("linux", "win32", "darwin"):
        session.run("mypy", "--platform", platform)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in site/; a broken link or anchor, or a page that nothing leads to, is an error."""
    session.install("-e", ".[docs]")
    config = str(ROOT / "website" / "mkdocs.yml")
    # not with -q: what is not said is not counted as a warning
    session.run("mkdocs", "build", "--strict", "--clean", "-f", config, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel in an environment of its own: first with nothing else, then under the end-to-end tests."""
    folder = Path(session.create_tmp())
    for old in folder.glob("*.whl"):
        old.unlink()
    session.run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT), external=True)
    (built,) = folder.glob("*.whl")
    session.install("--force-reinstall", str(built))
    session.run("python", str(ROOT / ".ci" / "smoke.py"))
    session.install("pytest")
    session.run("python", str(ROOT / ".ci" / "smoke.py"), "pytest")
    session.install(f"{built}[otel,auto]")
    session.run("python", str(ROOT / ".ci" / "smoke.py"), "telemetry")
    session.install(f"{built}[dev]")
    programs = [f"tests/e2e/test_{name}.py" for name in ("fastapi", "telemetry")]
    session.run("python", "-m", "pytest", *programs, *session.posargs)
