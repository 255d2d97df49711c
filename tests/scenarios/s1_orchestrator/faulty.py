"""An orchestrator that passes its models from one asyncio session to the next function, and the next session.

Reading ``job.drive.kind`` fails now and then, with "greenlet_spawn has not been called" or as a detached
instance; a job that was cancelled meanwhile is run all the same; and a transaction stays open for as long
as the planning service thinks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sessionwatch import boundary
from tests.scenarios.database import connect_asyncio, create_tables, symptom
from tests.scenarios.s1_orchestrator.models import Base, Job, store_first_rows

Planner = Callable[[str], Awaitable[str]]


async def plan_slowly(prompt: str) -> str:
    """The planning service, far away."""
    await asyncio.sleep(float(os.environ.get("PLANNING_SECONDS", "0")))
    return f"1. {prompt}"


class Orchestrator:
    """Finds jobs and starts workflows for them."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], planner: Planner) -> None:
        self.sessions = sessions
        self.planner = planner
        self.runner = asyncio.Lock()  # runs one job at a time
        self.queued = asyncio.Event()

    async def start_pending(self) -> list[str]:
        async with self.sessions() as session:
            jobs = await session.scalars(select(Job).where(Job.status == "pending").order_by(Job.id))
            return [await self.spawn(job) for job in jobs]

    async def spawn(self, job: Job) -> str:
        kind = job.drive.kind  # expect: implicit-io
        return f"{kind}: {job.prompt}"

    async def find(self, number: int) -> Job:
        async with self.sessions() as session:
            return await session.get_one(Job, number)

    async def announce(self, number: int) -> str:
        job = await self.find(number)
        return f"{job.prompt}, out of {job.drive.kind}"  # expect: detached-access

    async def start_workflow(self, number: int) -> dict[str, Any]:
        job = await self.find(number)
        return await self.workflow_input(job)

    async def workflow_input(self, job: Job) -> dict[str, Any]:
        return {
            "job": job.id,
            "prompt": job.prompt,
            "drive": job.drive.kind,  # expect: detached-access
        }

    async def run(self, number: int) -> str:
        job = await self.find(number)
        self.queued.set()
        async with self.runner:
            return await self.record_attempt(job)  # expect: boundary

    @boundary
    async def record_attempt(self, job: Job) -> str:
        async with self.sessions() as session:
            mine = await session.merge(job)  # expect: reattach
            mine.attempts += 1
            await session.commit()
            return mine.status

    async def cancel(self, number: int) -> None:
        async with self.sessions() as session:
            job = await session.get_one(Job, number)
            job.status = "cancelled"
            await session.commit()

    async def make_plan(self, number: int) -> str:
        async with self.sessions() as session:
            job = await session.get_one(Job, number)  # expect: long-session
            job.plan = await self.planner(job.prompt)
            await session.commit()
            return job.plan


async def main(url: str, planner: Planner = plan_slowly) -> dict[str, Any]:
    engine = connect_asyncio(url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    try:
        await create_tables(engine, Base.metadata)
        await store_first_rows(sessions)
        orchestrator = Orchestrator(sessions, planner)
        return {
            "started": await symptom(orchestrator.start_pending()),
            "announced": await symptom(orchestrator.announce(1)),
            "workflow": await symptom(orchestrator.start_workflow(1)),
            "plan": await symptom(orchestrator.make_plan(1)),
            "run": await symptom(run_what_was_cancelled(orchestrator, 2)),
            "stored": await status_of(sessions, 2),
        }
    finally:
        await engine.dispose()


async def run_what_was_cancelled(orchestrator: Orchestrator, number: int) -> str:
    """A user cancels a job while it waits for the runner."""
    async with orchestrator.runner:
        running = asyncio.create_task(orchestrator.run(number))
        await orchestrator.queued.wait()
        await orchestrator.cancel(number)
    return await running


async def status_of(sessions: async_sessionmaker[AsyncSession], number: int) -> tuple[str, int]:
    async with sessions() as session:
        found = await session.execute(select(Job.status, Job.attempts).where(Job.id == number))
        status, attempts = found.one()
        return status, attempts


if __name__ == "__main__":
    for name, seen in asyncio.run(main(os.environ["DATABASE_URL"])).items():
        print(f"{name}: {seen}")
