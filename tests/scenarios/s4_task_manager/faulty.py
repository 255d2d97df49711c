"""A task manager that breaks its own generator of sessions.

``_get_db`` returns out of ``async for``: the generator is dropped there, and its end is run by the event loop
at some time later, so its commit never comes, its close comes too early, and what works on the session
afterwards has nobody to close it. Each call makes another session, so one operation is two transactions.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from tests.scenarios.database import asyncio_url, create_tables, symptom
from tests.scenarios.s4_task_manager.models import Base, Step, Task
from tests.scenarios.s4_task_manager.runner import Runner, stored


class TaskManager:
    """Stores tasks and tells the runner about them."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], runner: Runner) -> None:
        self.sessions = sessions
        self.runner = runner

    async def get_session(self) -> AsyncIterator[AsyncSession]:
        async with self.sessions() as session:  # expect: session-leak, cross-task, lost-writes
            try:
                yield session
                await session.commit()
            except Exception:
                await session.rollback()
                raise

    async def _get_db(self) -> AsyncSession:
        async for session in self.get_session():  # evidence: use-after-close obtained
            return session
        raise RuntimeError("no session")

    async def create(self, title: str) -> int:
        db = await self._get_db()
        task = Task(title=title)
        db.add(task)  # evidence: lost-writes added
        await db.commit()  # evidence: cross-task first
        return task.id

    async def create_and_start(self, title: str) -> str:
        db = await self._get_db()
        await self.runner.prepare()
        task = Task(title=title)
        db.add(task)  # expect: use-after-close
        await db.commit()
        db = await self._get_db()
        await self.runner.prepare()
        task = await db.get_one(Task, task.id)  # expect: use-after-close
        task.state = "running"
        await db.commit()  # expect: split-unit-of-work
        return task.state

    async def create_follow_up(self, title: str) -> int:
        db = await self._get_db()
        await self.runner.prepare()
        task = Task(title=title)
        db.add(task)  # expect: use-after-close
        await db.flush()  # expect: lost-writes
        return task.id

    async def add_step(self, number: int, text: str) -> str:
        async with self.sessions.begin() as session:
            session.add(Step(task_id=number, text=text))
        return text


async def later_collected(work: Awaitable[object]) -> object:
    """Until the garbage collector comes, a dropped session holds its locks, and everybody else waits."""
    seen = await symptom(work)
    gc.collect()
    return seen


async def main(url: str) -> dict[str, Any]:
    engine = create_async_engine(asyncio_url(url))  # expect on sqlite: config
    runner = Runner()
    try:
        await create_tables(engine, Base.metadata)
        manager = TaskManager(async_sessionmaker(engine, expire_on_commit=False), runner)
        seen = {
            "created": await later_collected(manager.create("Dig")),
            "started": await later_collected(manager.create_and_start("Build")),
            "step": await later_collected(manager.add_step(999, "Measure")),
            "followed up": await later_collected(manager.create_follow_up("Sweep")),
        }
        runner.broken_after = 1
        seen |= {"not started": await later_collected(manager.create_and_start("Paint"))}
        return seen | await stored(engine)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    for name, seen in asyncio.run(main(os.environ["DATABASE_URL"])).items():
        print(f"{name}: {seen}")
