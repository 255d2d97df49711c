"""A FastAPI application as a service has it: a session by dependency, a query with a relationship, a change, a commit.

It is called without a server: what HTTP costs would only bring every ratio closer to one.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import lru_cache
from typing import Any

from fastapi import Depends, FastAPI
from opentelemetry import trace
from pydantic import BaseModel
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, selectinload, sessionmaker

from . import sdk
from .databases import Database
from .models import WITH_ITEMS, Order

Message = dict[str, Any]
# as the span of such a session has them
ATTRIBUTES = {
    "sessionwatch.outcome": "committed",
    "sessionwatch.session.kind": "async",
    "sessionwatch.session.id": "S1",
    "sessionwatch.statements": 3,
    "sessionwatch.flushes": 1,
    "sessionwatch.rows.written": 1,
    "sessionwatch.unit": "POST /orders/{key}",
    "code.file.path": __file__,
    "code.line.number": 1,
    "code.function.name": "opened",
}


class Answer(BaseModel):
    """An order with its items."""

    id: int
    status: str
    note: str | None
    total: int
    items: list[str]


def _query(key: int) -> Select[tuple[Order]]:
    return select(Order).where(Order.id == key).options(selectinload(Order.items))


def _raised(order: Order) -> Answer:
    order.total = order.total % 1000 + 1
    return Answer(
        id=order.id,
        status=order.status,
        note=order.note,
        total=order.total,
        items=[item.name for item in order.items],
    )


@lru_cache(1)
def application(db: Database) -> Any:
    """The application, within spans of the requests."""
    app = FastAPI()
    make, make_async = sessionmaker(db.engine), async_sessionmaker(db.async_engine, expire_on_commit=False)

    def opened() -> Iterator[Session]:
        with make() as session:
            yield session

    async def async_opened() -> AsyncIterator[AsyncSession]:
        async with make_async() as session:
            yield session

    @app.post("/orders/{key}")
    def order(key: int, session: Session = Depends(opened)) -> Answer:  # noqa: B008
        answer = _raised(session.scalars(_query(key)).one())
        session.commit()
        return answer

    @app.post("/async/orders/{key}")
    async def async_order(key: int, session: AsyncSession = Depends(async_opened)) -> Answer:  # noqa: B008
        answer = _raised((await session.scalars(_query(key))).one())
        await session.commit()
        return answer

    return _traced(app)


def _traced(app: Any) -> Callable[..., Awaitable[None]]:
    """A server's span around each request, as an instrumentation of the framework makes it."""
    tracer = trace.get_tracer("benchmarks")

    async def traced(scope: Message, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span(scope["path"], kind=trace.SpanKind.SERVER):
            await app(scope, receive, send)
            if sdk.makes_span:
                now = time.time_ns()
                tracer.start_span("sessionwatch.session", attributes=ATTRIBUTES, start_time=now).end(now)

    return traced


async def _request(app: Any, path: str) -> None:
    """One request; raises where the answer is not the right one."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": []}
    scope |= {"server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "state": {}}
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    if sent[0]["status"] != 200 or not json.loads(body)["items"]:
        raise RuntimeError(f"{path}: {sent[0]['status']}, {body[:200]!r}")


def requests(db: Database, path: str, n: int) -> Iterator[Callable[[], object]]:
    """The function to measure: ``n`` requests one after the other, and one export of what they left."""
    app = application(db)

    async def all_of_them() -> None:
        for key in itertools.islice(itertools.cycle(range(1, WITH_ITEMS + 1)), n):
            await _request(app, path.format(key=key))

    def run() -> None:
        db.loop.run_until_complete(all_of_them())
        sdk.export()

    yield run
