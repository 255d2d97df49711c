"""Who called: a finding's chain, the caller that it is known by, its cause, and files that only pass calls on."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Engine

import sessionwatch
from sessionwatch import ConfigError
from sessionwatch.model import Evidence, Finding, Site, project_root
from sessionwatch.output.messages import render
from tests.programs.shop import _our_errors_raise, shop  # noqa: F401 (fixtures)

FILES = {
    "app/db.py": """
        from contextlib import contextmanager
        from sqlalchemy.orm import Session

        @contextmanager
        def session_scope(engine):
            session = Session(engine)
            try:
                yield session
            finally:
                session.close()

        def leak(engine):
            session = Session(engine)
            session.connection()
            return session
    """,
    "app/base.py": """
        def add(session, item):
            session.add(item)
            session.flush()

        def lose(engine, item):
            from app.db import session_scope
            with session_scope(engine) as session:
                add(session, item)

        def inner(engine, item):
            def deeper():
                return [lose(engine, item) for _ in "1"]
            return deeper()
    """,
    "app/routes.py": """
        from app import base, db

        def create(engine, item):
            base.lose(engine, item)

        def update(engine, item):
            base.lose(engine, item)

        def through_a_comprehension(engine, item):
            base.inner(engine, item)

        def leak(engine):
            return db.leak(engine)
    """,
    "app/jobs.py": """
        from app import base

        def nightly(engine, item):
            base.lose(engine, item)
    """,
}


class App:
    """The application, imported from ``folder``, and a way to watch it."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self.engine = folder, engine
        self.order: Any = sys.modules["tests.programs.shop"].Order

    def call(self, module: str, function: str, mode: str = "log", **keywords: Any) -> list[Finding]:
        """The findings of one call."""
        with sessionwatch.watching(mode, log=False, **keywords) as watch:  # type: ignore[arg-type]
            arguments = (self.engine,) if function == "leak" else (self.engine, self.order())
            kept = getattr(load(self.folder, module), function)(*arguments)
            del kept
            gc.collect()
            return [*watch.findings, *watch.allowed]

    def only(self, module: str, function: str, mode: str = "log", **keywords: Any) -> Finding:
        (finding,) = self.call(module, function, mode, **keywords)
        return finding


def load(folder: Path, name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture
def app(tmp_path: Path, shop: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:  # noqa: F811
    """The application below a project's root."""
    from textwrap import dedent

    for name, source in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(source))
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "app/__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield App(tmp_path, shop)
    for name in [name for name in sys.modules if name.partition(".")[0] == "app"]:
        del sys.modules[name]


def shown(finding: Finding) -> list[str]:
    """The chain as far as the application goes."""
    return [f"{frame.shown_path} {frame.function}" for frame in finding.chain if frame.shown_path.startswith("app")]


# -- the chain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["log", "telemetry"])
def test_what_is_found_where_it_happens_has_every_caller(app: App, mode: str) -> None:
    """A session that a context manager closes names the service and the route that are on the stack."""
    finding = app.only("app.routes", "create", mode)
    assert shown(finding) == ["app/db.py session_scope", "app/base.py lose", "app/routes.py create"]
    assert finding.chain[-1].function == test_what_is_found_where_it_happens_has_every_caller.__name__
    assert len(finding.chain) <= 12


def test_what_was_noted_early_has_the_nearest_caller_in_another_file(app: App) -> None:
    """A session that a helper opened, and that leaked, names who called the helper, though that has returned."""
    finding = app.only("app.routes", "leak")
    assert shown(finding) == ["app/db.py leak", "app/routes.py leak"]


def test_what_starts_a_worker_is_no_caller(app: App) -> None:
    """Code without a file, as of ``python -c`` and of what runs xdist's workers, is in no chain of a file's."""
    names: dict[str, Any] = {"__name__": "__channelexec__"}
    exec(compile("def start(function, engine): function(engine)", "<string>", "exec"), names)
    with sessionwatch.watching("log", log=False) as watch:
        names["start"](load(app.folder, "app.db").leak, app.engine)
        gc.collect()
    (finding,) = watch.findings
    assert (finding.chain, finding.caller) == ((), None)


def test_telemetry_keeps_no_frames_early(app: App) -> None:
    """There only the innermost frame of such a place is known."""
    finding = app.only("app.routes", "leak", "telemetry")
    assert (finding.chain, finding.caller) == ((), None)
    assert "\n  called from  not known in mode telemetry\n" in render(finding)
    assert "not known" not in render(app.only("app.routes", "create", "telemetry"))  # found where it happens


def test_a_comprehension_is_no_frame_of_its_own(app: App) -> None:
    """Python 3.11 has a frame for it, later ones have not: the chain is the same."""
    finding = app.only("app.routes", "through_a_comprehension")
    assert shown(finding) == [
        "app/db.py session_scope",
        "app/base.py lose",
        "app/base.py deeper",
        "app/base.py inner",
        "app/routes.py through_a_comprehension",
    ]


def test_the_chain_is_exported(app: App) -> None:
    """OpenTelemetry gets the user's frames as a stack trace, innermost last."""
    trace = str(app.only("app.routes", "create").attributes()["code.stacktrace"])
    assert trace.splitlines()[-1].endswith("in session_scope")
    assert "sqlalchemy" not in trace


# -- the fingerprint --------------------------------------------------------------------------------


def test_a_new_caller_of_a_helper_is_a_new_finding(app: App) -> None:
    """The same loss in the same helper: another caller file, another finding; another run, the same one."""
    first, again, other = (
        app.only(module, name, through=["app/db.py"])
        for module, name in [("app.routes", "create"), ("app.routes", "create"), ("app.jobs", "nightly")]
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.old_fingerprint == other.old_fingerprint == app.only("app.routes", "create").old_fingerprint


def test_lines_above_do_not_matter(app: App) -> None:
    """A line that is added above the place or above the caller changes nothing."""
    first = app.only("app.routes", "create")
    for name in ("app/db.py", "app/base.py", "app/routes.py"):
        path = app.folder / name
        path.write_text("\n\n" + path.read_text())
        for module in [module for module in sys.modules if module.partition(".")[0] == "app"]:
            del sys.modules[module]
    assert app.only("app.routes", "create").fingerprint == first.fingerprint


def finding(**fields: Any) -> Finding:
    site = Site("/app/db.py", 3, "close")
    return Finding("lost-writes", "fault", "Order", "it was lost", site, (), "commit", **fields)


@pytest.mark.parametrize(
    ("outer", "counts"),
    [("/app/routes.py", True), ("/app/test_routes.py", False), ("/t/conftest.py", False), ("/app/a_test.py", False)],
)  # fmt: skip
def test_tests_are_no_callers(outer: str, counts: bool) -> None:
    """A file of tests plays the caller; who calls it from there does not make another finding."""
    plain = finding()
    called = finding(chain=(Site("/app/db.py", 3, "close"), Site(outer, 9, "call")))
    assert (called.fingerprint != plain.fingerprint) is counts


def test_the_unit_is_part_of_it() -> None:
    """A new route that meets a known finding is a new finding."""
    assert finding(unit="GET /a").fingerprint != finding(unit="GET /b").fingerprint
    assert finding(unit="GET /a").old_fingerprint == finding(unit="GET /b").old_fingerprint


# -- the cause --------------------------------------------------------------------------------------


def test_a_cause_is_what_has_to_change() -> None:
    """Twelve attributes of one loader are one cause, whatever their names; another query is another one."""

    def load(attribute: str, function: str) -> Finding:
        return Finding(
            "detached-access", "fault", attribute, "it was read", Site("/v.py", len(attribute), attribute), (),
            f"load it with select(Order): selectinload({attribute})", changes=Site("/repo.py", 9, function),
        )  # fmt: skip

    assert load("Order.items", "get").cause == load("Order.customer", "get").cause
    assert load("Order.items", "get").cause != load("Order.items", "page").cause
    assert load("Order.items", "get").fingerprint != load("Order.customer", "get").fingerprint


def test_callers_of_one_helper_share_a_cause(app: App) -> None:
    """What has to change is where it was written, not who called."""
    assert app.only("app.routes", "create").cause == app.only("app.jobs", "nightly").cause


# -- plumbing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("glob", ["app/db.py", "app/d*.py", "**/db.py"])
def test_plumbing_is_passed_through(app: App, glob: str) -> None:
    """The finding points to the nearest caller outside, and the file stands in the chain and in the story."""
    finding = app.only("app.routes", "create", through=[glob])
    assert (finding.path, finding.function) == ("app/base.py", "lose")
    assert shown(finding)[0] == "app/db.py session_scope"
    first = finding.evidence[0]
    assert (first.label, first.site and first.site.function) == ("through", "session_scope")
    assert [item.note for item in finding.evidence if item.label == "opened"] == ["through"]


def test_all_of_it_is_plumbing(app: App) -> None:
    """Where every frame is, the innermost stays."""
    before = app.only("app.routes", "create")
    finding = app.only("app.routes", "create", through=["/**/*.py"])
    assert (finding.path, finding.line) == (before.path, before.line)


def test_plumbing_is_never_the_cause(app: App) -> None:
    """The cause goes to the nearest caller outside too: two routes are two causes then."""
    through = ["app/db.py", "app/base.py"]
    one, other = app.only("app.routes", "create", through=through), app.only("app.jobs", "nightly", through=through)
    assert one.cause != other.cause


@pytest.mark.parametrize("name", ["app/db.py", "app/base.py"])
def test_a_comment_counts_on_either_line(app: App, name: str) -> None:
    """An inline allowance stands where it happened, or where the finding points to."""
    path = app.folder / name
    line = "                session.close()" if name == "app/db.py" else "with session_scope(engine) as session:"
    source = path.read_text()
    assert line.strip() in source
    path.write_text(source.replace(line.strip(), f"{line.strip()}  # sessionwatch: allow lost-writes -- on purpose", 1))
    assert app.only("app.routes", "create", through=["app/db.py"]).allowed == "on purpose"


@pytest.mark.parametrize("value", ["app/db.py", 3, ["app/db.py", 3], {"a": 1}])
def test_anything_but_a_list_of_strings_is_refused(value: Any) -> None:
    """A mistake in the setting is told at once."""
    with pytest.raises(ConfigError, match="through takes a list of strings"):
        sessionwatch.install(through=value)


def test_a_glob_that_matches_nothing_is_told(app: App) -> None:
    """Like an allowance that covered nothing."""
    with sessionwatch.watching(log=False, through=["app/db.py", "app/dbb.py"]) as watch:
        assert [str(item) for item in watch.unused_allowances() if "through" in str(item)] == [
            'through = ["app/dbb.py"] matches no file'
        ]


def test_globs_are_relative_to_the_project(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are seen from the folder of ``pyproject.toml``, wherever the program starts."""
    (app.folder / "pyproject.toml").write_text('[tool.sessionwatch]\nthrough = ["app/db.py"]\n')
    monkeypatch.chdir(app.folder / "app")
    assert app.only("app.routes", "create").function == "lose"


# -- what is written --------------------------------------------------------------------------------


def test_evidence_of_an_early_place_can_be_pickled(app: App) -> None:
    """A finding travels to another process with its story, without the code that its places were taken from."""
    import pickle

    finding = app.only("app.routes", "leak")
    assert pickle.loads(pickle.dumps(finding)).chain == finding.chain
    assert Evidence("opened", Site("/a.py", 1, "f")).site is not None
    with project_root("/"):
        assert finding.fingerprint


# -- where a framework calls ------------------------------------------------------------------------


def test_the_handler_of_a_dependency_is_the_last_entry(app: App) -> None:
    """FastAPI runs a dependency and ends its session: the route's function is not on the stack, and is named."""
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    (app.folder / "app/deps.py").write_text(
        "from sqlalchemy.orm import Session\n"
        "def get_session():\n"
        "    session = Session(ENGINE)\n"
        "    try:\n"
        "        yield session\n"
        "    finally:\n"
        "        session.close()\n"
    )
    (app.folder / "app/api.py").write_text(
        "from fastapi import Depends\n"
        "from app.deps import get_session\n"
        "def create(session=Depends(get_session)):\n"
        "    session.add(ORDER())\n"
        "    session.flush()\n"
    )
    deps, api = load(app.folder, "app.deps"), load(app.folder, "app.api")
    deps.ENGINE, api.ORDER = app.engine, app.order  # type: ignore[attr-defined]
    service = fastapi.FastAPI()
    with sessionwatch.watching(log=False) as watch:
        service.post("/orders")(api.create)
        assert TestClient(service).post("/orders").status_code == 200
        (finding,) = watch.findings
    assert (finding.unit, finding.path) == ("POST /orders", "app/deps.py")
    assert shown(finding) == ["app/deps.py get_session", "app/api.py create"]
    assert finding.caller is not None
    assert finding.caller.function == "create"


async def test_an_async_session_names_the_caller_of_the_helper_that_closes_it(app: App, tmp_path: Path) -> None:
    """``async with`` closes in a task of its own: the frames are those where the block was left."""
    pytest.importorskip("aiosqlite")
    from sqlalchemy.ext.asyncio import create_async_engine

    (app.folder / "app/adb.py").write_text(
        "from sqlalchemy.ext.asyncio import AsyncSession\n"
        "async def lose(engine, item):\n"
        "    async with AsyncSession(engine) as session:\n"
        "        session.add(item)\n"
        "        await session.flush()\n"
    )
    (app.folder / "app/aroutes.py").write_text(
        "from app import adb\nasync def create(engine, item):\n    await adb.lose(engine, item)\n"
    )
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db")
    async with engine.begin() as connection:
        await connection.run_sync(app.order.metadata.create_all)
    with sessionwatch.watching(log=False) as watch:
        await load(app.folder, "app.aroutes").create(engine, app.order())
        (finding,) = [finding for finding in watch.findings if finding.rule == "lost-writes"]
    await engine.dispose()
    assert shown(finding) == ["app/adb.py lose", "app/aroutes.py create"]
