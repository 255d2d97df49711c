"""The examples: the right application of each framework yields nothing at all, its wrong twin the fault it is about."""

from __future__ import annotations

import asyncio
import gc
import json
import linecache
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from IPython.core.interactiveshell import InteractiveShell
from litestar.testing import TestClient
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import configure_mappers
from sqlmodel import SQLModel

import sessionwatch
from examples.asyncio_worker import right as worker_right
from examples.asyncio_worker import wrong as worker_wrong
from examples.celery_tasks import right as celery_right
from examples.celery_tasks import wrong as celery_wrong
from examples.fastapi_async import right as fastapi_async_right
from examples.fastapi_async import wrong as fastapi_async_wrong
from examples.fastapi_sync import right as fastapi_sync_right
from examples.fastapi_sync import wrong as fastapi_sync_wrong
from examples.flask_plain import right as flask_right
from examples.flask_plain import wrong as flask_wrong
from examples.litestar_alchemy import right as litestar_right
from examples.litestar_alchemy import wrong as litestar_wrong
from examples.sqlmodel_functions import models as sqlmodel_models
from examples.sqlmodel_functions import right as sqlmodel_right
from examples.sqlmodel_functions import wrong as sqlmodel_wrong
from sessionwatch import Finding, rules
from sessionwatch.model import Level, Mode
from tests.backends import enforce_foreign_keys

for _model in (sqlmodel_models.Hero, sqlmodel_models.Team):  # SQLModel has one metadata: for other tests' programs, too
    configure_mappers()
    SQLModel.metadata.remove(_model.__table__)  # type: ignore[attr-defined]

EXAMPLES = Path(__file__).parent.parent / "examples"
RAISE: dict[str, Level] = {rule.slug: "raise" for rule in rules.ALL}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No other installation; our own errors raise; the working directory is empty."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    monkeypatch.chdir(tmp_path)
    sessionwatch.uninstall()
    yield
    sessionwatch.uninstall()


def fastapi(module: ModuleType, path: Path) -> list[Any]:
    """Two orders are placed; what then is there."""
    asynchronous = module in (fastapi_async_right, fastapi_async_wrong)
    app = module.create_app(f"sqlite{'+aiosqlite' if asynchronous else ''}:///{path}")

    async def talk() -> list[Any]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
        ):
            body: dict[str, Any] = {"json": ["tea", "milk"]} if asynchronous else {"params": {"item": "tea"}}
            placed = [(await client.post("/orders", **body)).json() for _ in range(2)]
            answer = await client.get("/orders")
            return [*placed, answer.json() if answer.status_code == 200 else answer.status_code]

    return asyncio.run(talk())


def flask(module: ModuleType, path: Path) -> list[Any]:
    client = module.create_app(f"sqlite:///{path}").test_client()
    placed = [client.post("/orders", data={"item": "tea"}).text for _ in range(2)]
    return [*placed, client.get("/orders").text]


def litestar(module: ModuleType, path: Path) -> list[Any]:
    with TestClient(module.create_app(f"sqlite+aiosqlite:///{path}")) as client:
        placed = [client.post("/orders", params={"item": "tea"}).json() for _ in range(2)]
        return [*placed, client.get("/orders").json()]


def celery(module: ModuleType, path: Path) -> list[Any]:
    app = module.create_app(f"sqlite:///{path}")
    app.conf.task_always_eager = True
    load = app.tasks["shop.load"]
    results = [load.delay(names) for names in (["tea"], ["milk", "tea"], ["milk"])]
    return [result.result if result.successful() else type(result.result).__name__ for result in results]


def worker(module: ModuleType, path: Path) -> list[Any]:
    async def main() -> list[Any]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        async with engine.begin() as connection:
            await connection.run_sync(module.Base.metadata.create_all)
        try:
            await module.work(engine, [1, 2])
            return ["done"]
        except Exception as error:
            return [type(error).__name__]
        finally:
            await engine.dispose()

    return asyncio.run(main())


def sqlmodel(module: ModuleType, path: Path) -> list[Any]:
    engine = create_engine(f"sqlite:///{path}")
    enforce_foreign_keys(engine)
    SQLModel.metadata.create_all(engine, [module.Team.__table__, module.Hero.__table__])
    module.hire(engine, "Ada", "Engines")
    try:
        return [module.card(engine, "Ada")]
    except Exception as error:
        return [type(error).__name__]
    finally:
        engine.dispose()


Talk = Callable[[ModuleType, Path], list[Any]]
# the framework; its right and wrong twin; the rule, and the comment at the end of the line that the finding is about
APPLICATIONS: list[tuple[Talk, ModuleType, list[Any], ModuleType, str, str]] = [
    (fastapi, fastapi_sync_right, [1, 2, 2], fastapi_sync_wrong, "lost-writes", "# lost"),
    (
        fastapi, fastapi_async_right, [1, 2, [["tea", "milk"], ["tea", "milk"]]],
        fastapi_async_wrong, "implicit-io", "# nobody awaits the lines",
    ),
    (flask, flask_right, ["1", "2", "2"], flask_wrong, "session-leak", "# this thread's session"),
    (litestar, litestar_right, [1, 2, 2], litestar_wrong, "lost-writes", "# lost"),
    (celery, celery_right, [[], ["tea"], ["milk"]], celery_wrong, "swallowed-error", "# an error here has to"),
    (sqlmodel, sqlmodel_right, ["Ada of Engines"], sqlmodel_wrong, "detached-access", "# after the session"),
    (worker, worker_right, ["done"], worker_wrong, "cross-task", "# all at once"),
]  # fmt: skip
NAMES = [Path(str(right.__file__)).parent.name for _, right, *_ in APPLICATIONS]


def watched(talk: Talk, module: ModuleType, path: Path, mode: Mode) -> tuple[list[Any], list[Finding]]:
    with sessionwatch.watching(mode, rules=RAISE if mode == "strict" else None, log=False) as watch:
        answers = talk(module, path)
    assert watch.status()["internal_errors"] == {}
    return answers, watch.findings


@pytest.mark.parametrize("mode", ["log", "strict", "telemetry"])
@pytest.mark.parametrize(("talk", "module", "answers"), [entry[:3] for entry in APPLICATIONS], ids=NAMES)
def test_the_right_application_is_silent(
    talk: Talk, module: ModuleType, answers: list[Any], mode: Mode, tmp_path: Path
) -> None:
    """In every mode, in strict with every rule; and it stores what it says."""
    told, found = watched(talk, module, tmp_path / "shop.db", mode)
    assert [finding.message for finding in found] == []
    assert told == answers


@pytest.mark.parametrize(("talk", "_", "answers", "module", "rule", "comment"), APPLICATIONS, ids=NAMES)
def test_its_wrong_twin_is_found(
    talk: Talk, _: ModuleType, answers: list[Any], module: ModuleType, rule: str, comment: str, tmp_path: Path
) -> None:
    """By one rule and at the line that its comment marks, which is in the story; and it does not store what it says."""
    told, found = watched(talk, module, tmp_path / "shop.db", "log")
    assert {finding.rule for finding in found} == {rule}
    sites = [site for finding in found for site in [finding.site, *(item.site for item in finding.evidence)] if site]
    assert any(comment in linecache.getline(site.path, site.line) for site in sites if site.path == module.__file__)
    assert told != answers or rule == "session-leak"


def notebook(name: str) -> list[Finding]:
    """What a notebook's own installation has found when its cells have run, in an IPython of its own."""
    shell = InteractiveShell()
    cells = json.loads((EXAMPLES / "jupyter" / name).read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            shell.run_cell("".join(cell["source"])).raise_error()
    watch = shell.user_ns["watch"]
    shell.reset(new_session=False)
    gc.collect()
    assert watch.status()["internal_errors"] == {}
    return list(watch.findings)


def test_the_right_notebook_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """A session in one cell, committed there."""
    assert notebook("right.ipynb") == []
    assert capsys.readouterr().out == "1\n"


def test_the_wrong_notebook_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """A session that its next namesake replaces takes the row with it; the story names the cell's line."""
    found = {finding.rule: finding for finding in notebook("wrong.ipynb")}
    assert capsys.readouterr().out == "0\n"
    assert set(found) == {"lost-writes", "session-leak"}
    (written,) = [item.site for item in found["lost-writes"].evidence if item.label == "written"]
    assert written is not None
    assert linecache.getline(written.path, written.line) == "session.flush()\n"
