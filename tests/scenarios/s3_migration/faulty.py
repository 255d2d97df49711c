"""A ticket desk half way from sync to asyncio.

Sync sessions run inside ``async def``, so the event loop stands still while the database works; the new
sessions expire what they commit; one of them is used by two tasks at once; and a worker thread was given the
session that the loop is still using.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from fastapi import FastAPI, Request
from sqlalchemy import Engine, event, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from tests.scenarios.database import connect, connect_asyncio
from tests.scenarios.s3_migration.client import ask_everything
from tests.scenarios.s3_migration.models import Agent, Ticket, prepare

app = FastAPI()


@app.get("/tickets")
async def open_tickets(request: Request) -> list[str]:
    with request.app.state.sync_sessions() as db:
        tickets = db.query(Ticket).filter(Ticket.status == "open").order_by(Ticket.id).all()  # expect: blocking-io
        return [ticket.title for ticket in tickets]


@app.post("/tickets/{number}/close")
async def close_ticket(number: int, request: Request) -> dict[str, str]:
    async with request.app.state.sessions() as db:
        ticket = await db.get_one(Ticket, number)
        ticket.status = "closed"
        await db.commit()  # evidence: implicit-io expired
        return {"title": ticket.title}  # expect: implicit-io


@app.get("/numbers")
async def numbers(request: Request) -> dict[str, int]:
    async with request.app.state.sessions() as db:
        await db.connection()
        both = await asyncio.gather(count(db, Ticket), count(db, Agent), return_exceptions=True)
        for error in both:
            if isinstance(error, BaseException):
                raise error
        return {"tickets": both[0], "agents": both[1]}


async def count(db: AsyncSession, model: type[DeclarativeBase]) -> int:
    return await db.scalar(select(func.count()).select_from(model)) or 0  # expect: cross-task


@app.get("/report")
async def report(request: Request) -> dict[str, Any]:
    with request.app.state.sync_sessions() as db:
        db.connection()
        summary = asyncio.create_task(asyncio.to_thread(summarise, db))
        await request.app.state.rendezvous.worker_is_in_the_database()
        agent = db.scalar(select(Agent.name))  # expect: blocking-io, cross-task
        return {"agent": agent, "by status": await summary}


def summarise(db: Session) -> dict[str, int]:
    found = db.execute(select(Ticket.status, func.count()).group_by(Ticket.status))
    return dict(found.all())


async def heartbeat(sessions: sessionmaker[Session], beats: int) -> list[str | None]:
    seen = []
    for _ in range(beats):
        with sessions() as db:
            agent = db.query(Agent).first()  # expect: blocking-io
            seen.append(agent.name if agent else None)
        await asyncio.sleep(0)
    return seen


class Rendezvous:
    """A busy database, without the luck: the worker's statement goes on once the loop's is there too."""

    def __init__(self, engine: Engine) -> None:
        self.worker, self.loop = threading.Event(), threading.Event()
        event.listen(engine, "before_cursor_execute", self.meet)

    def meet(self, connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if "GROUP BY" in statement:
            self.worker.set()
            self.loop.wait(10)
        elif self.worker.is_set():
            self.loop.set()

    async def worker_is_in_the_database(self) -> None:
        await asyncio.to_thread(self.worker.wait, 10)


async def main(url: str) -> dict[str, Any]:
    engine, async_engine = connect(url), connect_asyncio(url)
    app.state.sync_sessions = sessionmaker(engine)
    app.state.sessions = async_sessionmaker(async_engine)  # expect: config
    app.state.rendezvous = Rendezvous(engine)
    try:
        await asyncio.to_thread(start, app.state.sync_sessions)
        return await ask_everything(app) | {"heartbeat": await heartbeat(app.state.sync_sessions, 2)}
    finally:
        engine.dispose()
        await async_engine.dispose()


def start(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        prepare(session)


if __name__ == "__main__":
    for name, seen in asyncio.run(main(os.environ["DATABASE_URL"])).items():
        print(f"{name}: {seen}")
