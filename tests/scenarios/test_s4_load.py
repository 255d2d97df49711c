"""Scenario 4's load: 100 requests at once against the repaired service, in telemetry mode, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest
from sqlalchemy import URL, event, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from sessionwatch import uninstall, watching
from sessionwatch.watch.watch import Watch
from tests.scenarios.database import create_tables
from tests.scenarios.s4_task_manager.models import Base, Step, Task
from tests.scenarios.s4_task_manager.repaired import TaskManager, service
from tests.scenarios.s4_task_manager.runner import Runner

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]
SECONDS = 60  # for all answers; they take about one


class Kind(NamedTuple):
    """A kind of request: how many are sent, and what each of them makes its session carry out."""

    requests: int
    status: int
    outcome: str
    statements: int
    tasks: int
    steps: int


KINDS = {
    "create": Kind(60, 201, "committed", 3, 1, 2),  # INSERT of the task, INSERT of its steps, UPDATE of its state
    "taken": Kind(15, 409, "rolled_back", 0, 0, 0),  # an INSERT that the database refuses: not carried out
    "show": Kind(25, 200, "read_only", 2, 0, 0),  # SELECT of the task and of its steps
}


@pytest.fixture
async def engine(postgres_url: URL) -> AsyncIterator[AsyncEngine]:
    """A small pool, on a database that holds the one task that everybody reads."""
    made = create_async_engine(postgres_url.set(drivername="postgresql+asyncpg"), pool_size=10, max_overflow=5)
    await create_tables(made, Base.metadata)
    async with made.begin() as connection:
        await connection.execute(Task.__table__.insert().values(id=1000, title="Known", state="running"))
    service.state.manager = TaskManager(async_sessionmaker(made, expire_on_commit=False), Runner())
    yield made
    await made.dispose()


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch, engine: AsyncEngine) -> Watch:
    """Installed as in production; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("telemetry", log=False) as watch:
        yield watch


async def ask(client: httpx.AsyncClient, kind: str, number: int) -> tuple[str, int]:
    if kind == "show":
        answer = await client.get("/tasks/1000")
    else:
        title = "Known" if kind == "taken" else f"Task {number}"
        answer = await client.post("/tasks", json={"title": title, "steps": ["Measure", "Cut"]})
    return kind, answer.status_code


async def ask_everything_at_once() -> Counter[tuple[str, int]]:
    """How many requests of each kind were answered with which status."""
    wanted = [kind for kind, what in KINDS.items() for _ in range(what.requests)]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://tasks") as client:
        async with asyncio.timeout(SECONDS):
            answers = await asyncio.gather(*(ask(client, kind, number) for number, kind in enumerate(wanted)))
    return Counter(answers)


async def rows(engine: AsyncEngine, model: type[Base]) -> int:
    async with engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(model)) or 0


def total(what: str) -> int:
    """What the client expects of all its requests together."""
    return sum(kind.requests * getattr(kind, what) for kind in KINDS.values())


async def test_a_hundred_requests_at_once_lose_nothing(engine: AsyncEngine, telemetry: Watch) -> None:
    """Every request is answered, nothing found, no session left, and the counters are the client's."""
    sent: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    answered = await ask_everything_at_once()
    status = telemetry.status()

    assert answered == {(name, kind.status): kind.requests for name, kind in KINDS.items()}
    assert sum(answered.values()) == 100
    assert telemetry.findings == []
    assert status["findings"] == {}
    assert status["internal_errors"] == {}
    assert status["sessions"] == {
        "opened": {"async": 100},
        "closed": {f"{kind.outcome}, async": kind.requests for kind in KINDS.values()},
        "active": 0,
    }
    assert status["statements"] == total("statements") == len(sent) - answered["taken", 409]
    assert status["rows_written"] == total("tasks") + total("steps") + answered["create", 201]  # and one UPDATE each
    assert engine.pool.checkedout() == 0
    assert await rows(engine, Task) == 1 + total("tasks")
    assert await rows(engine, Step) == total("steps")
