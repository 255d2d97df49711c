"""Litestar: each request is a unit of work by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from litestar import Litestar, Request, Response, Router, get, post
from litestar.background_tasks import BackgroundTask
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, Tag
from tests.units.work import Seen, found, write_async


async def answer(app: Litestar, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop") as client:
        return await client.request(method, path)


async def test_reports_a_request_with_two_sessions(async_shop: AsyncEngine, watch: Watch) -> None:
    """Two sessions that commit in one handler are split, under the name of the route."""

    @post("/{number:int}/pay")
    async def pay(request: Request[Any, Any, Any]) -> str:
        await write_async(async_shop)
        await write_async(async_shop, "paid")
        return "paid"

    app = Litestar([Router("/orders", route_handlers=[pay])])
    assert (await answer(app, "/orders/17/pay", "POST")).status_code == 201
    assert found(watch) == [("split-unit-of-work", "POST /orders/{number}/pay")]


async def test_ignores_a_dependencys_session(async_shop: AsyncEngine, watch: Watch) -> None:
    """One session a request, torn down by its provider, in one unit; the background task has its own."""
    seen = Seen()

    async def provide() -> AsyncGenerator[AsyncSession, None]:
        async with AsyncSession(async_shop) as session:
            yield session
            await session.commit()
            seen.look()

    async def later() -> None:
        seen.look()
        await write_async(async_shop)

    @get("/orders", dependencies={"session": provide})
    async def orders(session: Any) -> Response[int]:
        session.add(Tag(name="new"))
        seen.look()
        number = len((await session.scalars(select(Order))).all())
        return Response(number, background=BackgroundTask(later))

    assert (await answer(Litestar([orders]), "/orders")).json() == 1
    assert sorted(str(name) for name in seen.names) == ["GET /orders", "GET /orders", "background task later"]
    assert watch.findings == []


@pytest.mark.parametrize("path", ["/secret", "/secret/path"])
async def test_no_route(path: str, watch: Watch) -> None:
    """A path without a route is never part of a name."""
    seen = Seen()

    def leaves(_: object, __: object) -> Response[str]:
        seen.look()
        return Response("not here", status_code=404)

    app = Litestar([], exception_handlers={404: leaves})  # type: ignore[dict-item]
    await answer(app, path)
    assert seen.names == ["GET (no route)"]
