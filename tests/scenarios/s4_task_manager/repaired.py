"""The task manager, repaired: one session and one transaction for the whole of an operation.

The factory of sessions is injected. ``service`` is the same manager behind HTTP.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import selectinload

from tests.scenarios.database import connect_asyncio, create_tables, symptom
from tests.scenarios.s4_task_manager.models import Base, Step, Task
from tests.scenarios.s4_task_manager.runner import Runner, stored


class NewTask(BaseModel):
    """What a client asks for."""

    title: str
    steps: list[str] = []


class TaskOut(BaseModel):
    """A task as it is answered."""

    id: int
    title: str
    state: str
    steps: list[str]


class TaskManager:
    """Stores tasks and tells the runner about them."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], runner: Runner) -> None:
        self.sessions = sessions
        self.runner = runner

    async def create(self, title: str) -> int:
        async with self.sessions.begin() as session:
            task = Task(title=title)
            session.add(task)
            await session.flush()
            return task.id

    async def create_and_start(self, title: str, steps: list[str] | None = None) -> TaskOut:
        async with self.sessions.begin() as session:
            task = Task(title=title, steps=[Step(text=text) for text in steps or []])
            session.add(task)
            await session.flush()
            await self.runner.prepare()
            task.state = "running"
            return answer(task)

    async def show(self, number: int) -> TaskOut:
        async with self.sessions() as session:
            return answer(await session.get_one(Task, number, options=[selectinload(Task.steps)]))

    async def create_follow_up(self, title: str) -> int:
        return await self.create(title)

    async def add_step(self, number: int, text: str) -> str:
        async with self.sessions.begin() as session:
            session.add(Step(task_id=number, text=text))
        return text


def answer(task: Task) -> TaskOut:
    return TaskOut(id=task.id, title=task.title, state=task.state, steps=[step.text for step in task.steps])


service = FastAPI()


@service.post("/tasks", status_code=201)
async def create_task(new: NewTask, request: Request) -> TaskOut:
    manager: TaskManager = request.app.state.manager
    try:
        return await manager.create_and_start(new.title, new.steps)
    except IntegrityError as error:
        raise HTTPException(409, "there is a task of that title") from error


@service.get("/tasks/{number}")
async def show_task(number: int, request: Request) -> TaskOut:
    manager: TaskManager = request.app.state.manager
    return await manager.show(number)


async def main(url: str) -> dict[str, Any]:
    engine = connect_asyncio(url)
    runner = Runner()
    try:
        await create_tables(engine, Base.metadata)
        manager = TaskManager(async_sessionmaker(engine, expire_on_commit=False), runner)
        seen = {
            "created": await symptom(manager.create("Dig")),
            "started": (await manager.create_and_start("Build")).state,
            "step": await symptom(manager.add_step(999, "Measure")),
            "followed up": await symptom(manager.create_follow_up("Sweep")),
        }
        runner.broken_after = 0
        seen |= {"not started": await symptom(manager.create_and_start("Paint"))}
        return seen | await stored(engine)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    for name, seen in asyncio.run(main(os.environ["DATABASE_URL"])).items():
        print(f"{name}: {seen}")
