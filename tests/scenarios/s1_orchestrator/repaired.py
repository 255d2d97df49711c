"""The orchestrator, repaired: what leaves a session is a plain `Brief`, and each piece of work has its own session."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import selectinload

from sessionwatch import boundary, dto
from tests.scenarios.database import connect_asyncio, create_tables, symptom
from tests.scenarios.s1_orchestrator.models import Base, Job, store_first_rows

Planner = Callable[[str], Awaitable[str]]


@dataclass(frozen=True)
class Motive:
    """What is known of a drive outside of its session."""

    kind: str


@dataclass(frozen=True)
class Brief:
    """All that starting a job takes."""

    id: int
    prompt: str
    status: str
    drive: Motive


async def plan_slowly(prompt: str) -> str:
    """The planning service, far away."""
    await asyncio.sleep(float(os.environ.get("PLANNING_SECONDS", "0")))
    return f"1. {prompt}"


def jobs_with_drives() -> Select[tuple[Job]]:
    return select(Job).options(selectinload(Job.drive)).order_by(Job.id)


class Orchestrator:
    """Finds jobs and starts workflows for them."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], planner: Planner) -> None:
        self.sessions = sessions
        self.planner = planner
        self.runner = asyncio.Lock()  # runs one job at a time
        self.queued = asyncio.Event()

    async def start_pending(self) -> list[str]:
        async with self.sessions() as session:
            jobs = await session.scalars(jobs_with_drives().where(Job.status == "pending"))
            briefs = [dto.extract(job, Brief) for job in jobs]
        return [await self.spawn(brief) for brief in briefs]

    async def spawn(self, brief: Brief) -> str:
        return f"{brief.drive.kind}: {brief.prompt}"

    async def find(self, number: int) -> Brief:
        async with self.sessions() as session:
            job = (await session.scalars(jobs_with_drives().where(Job.id == number))).one()
            return dto.extract(job, Brief)

    async def announce(self, number: int) -> str:
        brief = await self.find(number)
        return f"{brief.prompt}, out of {brief.drive.kind}"

    async def start_workflow(self, number: int) -> dict[str, Any]:
        return await self.workflow_input(await self.find(number))

    async def workflow_input(self, brief: Brief) -> dict[str, Any]:
        return {"job": brief.id, "prompt": brief.prompt, "drive": brief.drive.kind}

    async def run(self, number: int) -> str:
        brief = await self.find(number)
        self.queued.set()
        async with self.runner:
            return await self.record_attempt(brief)

    @boundary
    async def record_attempt(self, brief: Brief) -> str:
        async with self.sessions.begin() as session:
            job = await session.get_one(Job, brief.id, with_for_update=True)
            if job.status == brief.status:
                job.attempts += 1
            return job.status

    async def cancel(self, number: int) -> None:
        async with self.sessions.begin() as session:
            job = await session.get_one(Job, number)
            job.status = "cancelled"

    async def make_plan(self, number: int) -> str:
        brief = await self.find(number)
        plan = await self.planner(brief.prompt)
        async with self.sessions.begin() as session:
            job = await session.get_one(Job, number)
            job.plan = plan
        return plan


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
