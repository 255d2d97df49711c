"""The runner that carries tasks out, and what both halves' tables hold in the end."""

from __future__ import annotations

import asyncio

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.scenarios.s4_task_manager.models import Step, Task


class Runner:
    """Somebody outside who has to be told about tasks, which takes a few turns of the event loop."""

    broken_after: int | None = None  # how often it still answers

    async def prepare(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        if self.broken_after is not None:
            self.broken_after -= 1
            if self.broken_after < 0:
                raise ConnectionError("the runner is away")


async def stored(engine: AsyncEngine) -> dict[str, list[str]]:
    """Titles with states, and steps, as a new connection sees them."""
    async with engine.connect() as connection:
        tasks = await connection.execute(select(Task.title, Task.state).order_by(Task.title))
        steps = await connection.scalars(select(Step.text).order_by(Step.text))
        return {"tasks": [f"{title}: {state}" for title, state in tasks], "steps": list(steps)}
