"""The patterns that frameworks teach in their tutorials yield nothing, with every rule on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from litestar.testing import AsyncTestClient
from sqlalchemy import URL

import sessionwatch
from sessionwatch import rules
from sessionwatch.model import Level, Mode
from sessionwatch.watch.watch import Watch
from tests.programs.tutorials import (
    celery_task,
    fastapi_sqlmodel,
    flask_quickstart,
    litestar_transaction,
    starlette_async,
)

RAISE: dict[str, Level] = {rule.slug: "raise" for rule in rules.ALL}
MODES: list[tuple[Mode, dict[str, Level]]] = [("log", {}), ("strict", RAISE), ("telemetry", {})]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest) -> URL:
    """The URL of an empty database, for a sync driver."""
    if request.param == "postgresql":
        made: URL = request.getfixturevalue("postgres_url")
        return made
    return URL.create("sqlite", database=str(request.getfixturevalue("tmp_path") / "garden.db"))


@pytest.fixture(params=MODES, ids=[mode for mode, _ in MODES])
def watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """An installation in each mode, which has found nothing and not failed when the test ends."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    sessionwatch.uninstall()
    mode, levels = request.param
    with sessionwatch.watching(mode, rules=levels or None, log=False) as installed:
        yield installed
    assert [finding.message for finding in installed.findings] == []
    assert installed.status()["internal_errors"] == {}


def asynchronous(url: URL) -> URL:
    """The same database for an asyncio driver."""
    return url.set(drivername="sqlite+aiosqlite") if url.drivername == "sqlite" else url


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://garden")


async def test_fastapi(url: URL, watch: Watch) -> None:
    """FastAPI with SQLModel and a yield dependency: create, list, read, miss, delete."""
    app, engine = await asyncio.to_thread(fastapi_sqlmodel.make, url)  # as at import: no loop is held up
    async with client(app) as http:
        for name in ("oak", "ash"):
            assert (await http.post("/plants/", json={"name": name})).json()["name"] == name
        assert [plant["name"] for plant in (await http.get("/plants/")).json()] == ["oak", "ash"]
        assert (await http.get("/plants/2")).json() == {"id": 2, "name": "ash", "height": None}
        assert (await http.get("/plants/3")).status_code == 404
        assert (await http.delete("/plants/1")).json() == {"ok": True}
        assert len((await http.get("/plants/")).json()) == 1
    engine.dispose()
    assert sum(watch.status()["sessions"]["opened"].values()) == 7


async def test_starlette(url: URL, watch: Watch) -> None:
    """Starlette with an async sessionmaker: a transaction block, an eager load, a commit."""
    app, engine = starlette_async.make(asynchronous(url))
    async with engine.begin() as connection:
        await connection.run_sync(starlette_async.Base.metadata.create_all)
    async with client(app) as http:
        for name in ("north", "south"):
            await http.post("/beds", json={"name": name, "seeds": ["dill", "kale"]})
        assert (await http.put("/beds/1")).json() == {"name": "North"}
        found = (await http.get("/beds")).json()
    assert sorted(bed["name"] for bed in found) == ["North", "south"]
    assert all(sorted(bed["seeds"]) == ["dill", "kale"] for bed in found)
    await engine.dispose()


def test_flask(url: URL, watch: Watch) -> None:
    """Flask-SQLAlchemy: a template over a query's rows, a redirect with the new key, a delete."""
    app, db = flask_quickstart.make(url)
    http = app.test_client()
    answer = http.post("/gardeners", data={"name": "Ada", "mail": "ada@garden"}, follow_redirects=True)
    assert answer.text == "Ada <ada@garden>"
    http.post("/gardeners", data={"name": "Bob", "mail": "bob@garden"})
    assert http.get("/gardeners/9").status_code == 404
    remaining = http.post("/gardeners/1/delete", follow_redirects=True).text
    assert "bob@garden" in remaining
    assert "Ada" not in remaining
    with app.app_context():
        db.engine.dispose()


async def test_litestar(url: URL, watch: Watch) -> None:
    """Litestar: a transaction from a dependency, which a conflict rolls back."""
    app, engine = litestar_transaction.make(asynchronous(url))
    async with engine.begin() as connection:
        await connection.run_sync(litestar_transaction.Base.metadata.create_all)
    async with AsyncTestClient(app) as http:
        assert (await http.post("/tasks", json={"title": "dig"})).json() == {"title": "dig", "done": False}
        assert (await http.post("/tasks", json={"title": "dig"})).status_code == 409
        assert (await http.get("/tasks?done=false")).json() == [{"title": "dig", "done": False}]
    await engine.dispose()


def test_celery(url: URL, watch: Watch) -> None:
    """Celery: a session and a transaction for each task."""
    app, engine = celery_task.make(url)
    for kilograms in (3, 4):
        app.tasks["garden.record"].delay("kale", kilograms).get()
    assert app.tasks["garden.total"].delay("kale").get() == 7
    engine.dispose()
