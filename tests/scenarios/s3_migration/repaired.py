"""The ticket desk, arrived: an asyncio session for each task, ``run_sync`` around the sync code that is left."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastapi import FastAPI, Request
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from tests.scenarios.database import connect, connect_asyncio
from tests.scenarios.s3_migration.client import ask_everything
from tests.scenarios.s3_migration.models import Agent, Ticket, prepare

app = FastAPI()


@app.get("/tickets")
async def open_tickets(request: Request) -> list[str]:
    async with request.app.state.sessions() as db:
        tickets = await db.run_sync(open_ones)
        return [ticket.title for ticket in tickets]


def open_ones(db: Session) -> list[Ticket]:
    """Not migrated yet."""
    return db.query(Ticket).filter(Ticket.status == "open").order_by(Ticket.id).all()


@app.post("/tickets/{number}/close")
async def close_ticket(number: int, request: Request) -> dict[str, str]:
    async with request.app.state.sessions() as db:
        ticket = await db.get_one(Ticket, number)
        ticket.status = "closed"
        await db.commit()
        return {"title": ticket.title}


@app.get("/numbers")
async def numbers(request: Request) -> dict[str, int]:
    sessions = request.app.state.sessions
    tickets, agents = await asyncio.gather(count(sessions, Ticket), count(sessions, Agent))
    return {"tickets": tickets, "agents": agents}


async def count(sessions: async_sessionmaker[AsyncSession], model: type[DeclarativeBase]) -> int:
    async with sessions() as db:
        return await db.scalar(select(func.count()).select_from(model)) or 0


@app.get("/report")
async def report(request: Request) -> dict[str, Any]:
    async with request.app.state.sessions() as db:
        summary = asyncio.create_task(asyncio.to_thread(summarise, request.app.state.sync_sessions))
        agent = await db.scalar(select(Agent.name))
        return {"agent": agent, "by status": await summary}


def summarise(sessions: sessionmaker[Session]) -> dict[str, int]:
    """Runs in a worker thread, in a session of its own."""
    with sessions() as db:
        found = db.execute(select(Ticket.status, func.count()).group_by(Ticket.status))
        return dict(found.all())


async def heartbeat(sessions: async_sessionmaker[AsyncSession], beats: int) -> list[str | None]:
    seen = []
    for _ in range(beats):
        async with sessions() as db:
            seen.append(await db.scalar(select(Agent.name).limit(1)))
        await asyncio.sleep(0)
    return seen


async def main(url: str) -> dict[str, Any]:
    engine, async_engine = connect(url), connect_asyncio(url)
    app.state.sync_sessions = sessionmaker(engine)
    app.state.sessions = async_sessionmaker(async_engine, expire_on_commit=False)
    try:
        await asyncio.to_thread(start, app.state.sync_sessions)
        return await ask_everything(app) | {"heartbeat": await heartbeat(app.state.sessions, 2)}
    finally:
        engine.dispose()
        await async_engine.dispose()


def start(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        prepare(session)


if __name__ == "__main__":
    for name, seen in asyncio.run(main(os.environ["DATABASE_URL"])).items():
        print(f"{name}: {seen}")
