"""ASGI: each request is a unit of work, under Starlette and FastAPI by itself."""

# ruff: noqa: B008

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from sessionwatch import FindingError, uninstall, unit_of_work, watching
from sessionwatch.units import scope as scopes
from sessionwatch.units.asgi import UnitOfWorkMiddleware
from sessionwatch.units.scope import current_unit
from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, Tag
from tests.units.work import Seen, found, write, write_async

SPLIT = "split-unit-of-work"


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop")


async def get(app: Any, path: str, method: str = "GET") -> httpx.Response:
    async with client(app) as http:
        return await http.request(method, path)


# -- FastAPI ---------------------------------------------------------------------------------------------


async def test_reports_a_request_with_two_sessions(async_shop: AsyncEngine, watch: Watch) -> None:
    """Two sessions that commit in one handler are split, under the name of the route."""
    app = FastAPI()

    @app.post("/orders/{number}/pay")
    async def pay(number: int) -> str:
        await write_async(async_shop)
        await write_async(async_shop, "paid")
        return "paid"

    assert (await get(app, "/orders/17/pay", "POST")).status_code == 200
    assert found(watch) == [(SPLIT, "POST /orders/{number}/pay")]
    assert watch.findings[0].subject == "POST /orders/{number}/pay"
    assert "17" not in str(watch.findings[0].as_json()["message"])


async def test_reports_sync_endpoints_and_dependencies(shop: Engine, watch: Watch) -> None:
    """A sync dependency and a sync endpoint run in threads, in the request's unit."""
    app = FastAPI()

    def session() -> Iterator[Session]:
        with Session(shop) as session:
            session.add(Tag(name="of the dependency"))
            session.flush()
            yield session

    @app.get("/orders")
    def orders(session: Session = Depends(session)) -> int:
        session.rollback()
        write(shop)
        write(shop, "again")
        return len(session.scalars(select(Order)).all())

    assert (await get(app, "/orders")).json() == 1
    assert found(watch) == [(SPLIT, "GET /orders")]


async def test_ignores_requests_of_their_own(async_shop: AsyncEngine, watch: Watch) -> None:
    """One session a request is right, also for requests at the same time."""
    app = FastAPI()

    @app.get("/orders/{number}")
    async def order(number: int) -> int:
        await write_async(async_shop)
        return number

    async with client(app) as http:
        answers = await asyncio.gather(*(http.get(f"/orders/{number}") for number in range(5)))
    assert [answer.json() for answer in answers] == list(range(5))
    assert watch.findings == []


async def test_the_unit_lasts_until_dependencies_are_torn_down(async_shop: AsyncEngine, watch: Watch) -> None:
    """Whenever FastAPI runs the exit code of a dependency, before or after the response, the unit goes on."""
    app, seen = FastAPI(), Seen()

    async def session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            seen.look()
            yield session
            await session.commit()
            seen.look()

    @app.get("/orders")
    async def orders(session: AsyncSession = Depends(session)) -> int:
        session.add(Tag(name="new"))
        seen.look()
        return 1

    await get(app, "/orders")
    assert seen.same
    assert seen.names == ["GET /orders"] * 3
    assert seen.ended == [True] * 3
    assert watch.findings == []


async def test_a_streamed_response_belongs_to_its_request(async_shop: AsyncEngine, watch: Watch) -> None:
    """The unit lasts as long as the response is made."""
    app, seen = FastAPI(), Seen()

    @app.get("/export")
    async def export() -> StreamingResponse:
        seen.look()

        async def rows() -> AsyncIterator[str]:
            async with AsyncSession(async_shop) as session:
                for order in (await session.scalars(select(Order))).all():
                    seen.look()
                    yield order.status

        return StreamingResponse(rows())

    assert (await get(app, "/export")).text == "new"
    assert seen.same
    assert watch.findings == []


async def test_background_tasks_are_units_of_their_own(shop: Engine, watch: Watch) -> None:
    """A background task that writes in a session of its own, as FastAPI advises, is no part of the request."""
    app, seen = FastAPI(), Seen()

    def mail() -> None:
        seen.look()
        write(shop, "mailed")

    @app.get("/orders")
    async def orders(tasks: BackgroundTasks) -> int:
        seen.look()
        write(shop)
        tasks.add_task(mail)
        tasks.add_task(mail)
        return 1

    await get(app, "/orders")
    assert seen.names == ["GET /orders", "background task mail", "background task mail"]
    assert len({id(unit) for unit in seen.units}) == 3
    assert watch.findings == []


async def test_reports_a_leak_at_the_end_of_its_request(async_shop: AsyncEngine, watch: Watch) -> None:
    """A session that the handler leaves open with its connection is a leak when the request has ended."""
    app = FastAPI()
    kept = []

    @app.get("/leak")
    async def leak() -> int:
        session = AsyncSession(async_shop)
        kept.append(session)
        return len((await session.scalars(select(Order))).all())

    await get(app, "/leak")
    assert found(watch) == [("session-leak", "GET /leak")]
    await kept[0].scalars(select(Order))
    assert found(watch)[1:] == []  # its transaction is still the old one
    await kept[0].close()


async def test_strict_never_raises_into_the_server(async_shop: AsyncEngine, strict: Watch) -> None:
    """What is found at a request's end is noted: the response has been sent."""
    app = FastAPI()
    kept = []

    @app.get("/leak")
    async def leak() -> int:
        kept.append(AsyncSession(async_shop))
        return len((await kept[0].scalars(select(Order))).all())

    answer = await get(app, "/leak")
    assert (answer.status_code, answer.json()) == (200, 1)
    assert found(strict) == [("session-leak", "GET /leak")]
    await kept[0].close()


async def test_strict_raises_within_the_request(async_shop: AsyncEngine, strict: Watch) -> None:
    """A finding in the handler still raises where it happens."""
    app = FastAPI()

    @app.get("/lose")
    async def lose() -> None:
        async with AsyncSession(async_shop) as session:
            session.add(Tag(name="lost"))
            await session.flush()

    with pytest.raises(FindingError, match="lost-writes"):
        await get(app, "/lose")
    assert found(strict) == [("lost-writes", "GET /lose")]
    assert current_unit() is None


async def test_ignores_a_task_that_outlives_its_request(async_shop: AsyncEngine, watch: Watch) -> None:
    """A task that goes on after the response keeps its sessions: those open at the end, and those made later."""
    app, seen = FastAPI(), Seen()
    opened, ended = asyncio.Event(), asyncio.Event()
    tasks = []

    async def later() -> None:
        async with AsyncSession(async_shop) as session:
            await session.scalars(select(Order))
            opened.set()
            await ended.wait()
            seen.look()
            session.add(Tag(name="later"))
            await session.commit()
            await session.scalars(select(Order))
        await write_async(async_shop)

    @app.get("/orders")
    async def orders() -> int:
        tasks.append(asyncio.create_task(later()))
        await opened.wait()
        return 1

    await get(app, "/orders")
    ended.set()
    await tasks[0]
    assert seen.units == [None]
    assert watch.findings == []


async def test_reports_use_after_the_request(async_shop: AsyncEngine, watch: Watch) -> None:
    """A session that the request opened and something else uses afterwards."""
    app = FastAPI()
    kept: list[AsyncSession] = []

    @app.get("/orders")
    async def orders() -> int:
        kept.append(AsyncSession(async_shop))
        number = len((await kept[0].scalars(select(Order))).all())
        await kept[0].commit()
        return number

    await get(app, "/orders")
    await kept[0].scalars(select(Order))
    await kept[0].close()
    assert found(watch) == [("use-after-close", "GET /orders")]


# -- names -----------------------------------------------------------------------------------------------


def mounted(seen: Seen) -> FastAPI:
    """Routes of all kinds, each of which looks at its unit."""

    async def look(request: Request) -> PlainTextResponse:
        seen.look()
        return PlainTextResponse("x")

    app, inner, router, outer = FastAPI(), FastAPI(), APIRouter(prefix="/orders"), APIRouter()
    router.add_api_route("/{number}", lambda number: seen.look())
    inner.add_api_route("/deep/{number}", lambda number: seen.look())
    outer.include_router(router, prefix="/v1")
    app.include_router(outer, prefix="/api")
    app.mount("/tenants/{tenant}", inner)
    app.mount("/plain", Starlette(routes=[Mount("/in", routes=[Route("/each/{item:int}", look)])]))
    return app


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/v1/orders/secret", "GET /api/v1/orders/{number}"),
        ("/tenants/acme/deep/secret", "GET /tenants/{tenant}/deep/{number}"),
        ("/plain/in/each/3", "GET /plain/in/each/{item:int}"),
    ],
)
async def test_the_name_is_the_routes_template(path: str, name: str, watch: Watch) -> None:
    """Also for included routers and mounted applications: one unit, with the inner route's name."""
    seen = Seen()
    assert (await get(mounted(seen), path)).status_code == 200
    (unit,) = seen.units
    assert unit is not None
    assert (seen.names, unit.name, unit.outer) == ([name], name, None)


async def test_the_name_outlives_its_request_without_holding_it(watch: Watch) -> None:
    """After the end a unit has its name, and nothing of the request's scope."""
    seen = Seen()
    await get(mounted(seen), "/api/v1/orders/1")
    (unit,) = seen.units
    assert unit is not None
    assert (unit.name, unit._asked) == ("GET /api/v1/orders/{number}", [])


@pytest.mark.parametrize(("method", "name"), [("GET", "GET (no route)"), ("SECRET", "OTHER (no route)")])
async def test_no_route(method: str, name: str, watch: Watch) -> None:
    """A path without a route is never part of a name, and neither is a method that a client made up."""
    seen = Seen()
    app = FastAPI()

    async def look(request: Request, call_next: Any) -> Any:
        seen.look()
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=look)
    assert (await get(app, "/secret/path", method)).status_code == 404
    assert seen.names == [name]
    assert [unit.name for unit in seen.units if unit] == [name]


async def test_plain_starlette_behind_middleware(async_shop: AsyncEngine, watch: Watch) -> None:
    """The name is known at the commit, also where a middleware runs the endpoint in a task of its own."""

    async def pay(request: Request) -> PlainTextResponse:
        await write_async(async_shop)
        await write_async(async_shop)
        return PlainTextResponse("paid")

    async def passing(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app = Starlette(routes=[Route("/orders/{number}", pay)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    assert (await get(app, "/orders/1")).text == "paid"
    assert found(watch) == [(SPLIT, "GET /orders/{number}")]


# -- the middleware --------------------------------------------------------------------------------------


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


async def test_the_middleware_for_other_frameworks(async_shop: AsyncEngine, watch: Watch) -> None:
    """Any ASGI application, with a function that knows where its framework leaves the route."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["found"] = "/orders/<number>"
        await write_async(async_shop)
        await write_async(async_shop)
        await answer(scope, receive, send)

    assert (await get(UnitOfWorkMiddleware(app, lambda scope: scope.get("found")), "/orders/1")).text == "x"
    assert found(watch) == [(SPLIT, "GET /orders/<number>")]


async def test_the_middleware_and_the_framework_are_one_unit(watch: Watch) -> None:
    """Added by hand to an application that is wrapped by itself, it changes nothing."""
    seen = Seen()
    app = mounted(seen)
    app.add_middleware(UnitOfWorkMiddleware)
    await get(UnitOfWorkMiddleware(app), "/api/v1/orders/1")
    assert seen.names == ["GET /api/v1/orders/{number}"]
    assert seen.units[0] is not None
    assert seen.units[0].outer is None


async def test_a_request_within_a_request_is_its_own_unit(watch: Watch) -> None:
    """An application that calls another one through a client in the same process makes two requests."""
    seen = Seen()
    app, other = FastAPI(), mounted(seen)

    @app.get("/gateway")
    async def gateway() -> int:
        seen.look()
        return (await get(other, "/api/v1/orders/1")).status_code

    assert (await get(app, "/gateway")).json() == 200
    assert seen.names == ["GET /gateway", "GET /api/v1/orders/{number}"]
    assert seen.units[0] is not seen.units[1]


async def test_a_request_in_a_units_block_is_its_own_unit(watch: Watch) -> None:
    """A test that declares a unit around a client's call does not swallow the request."""
    seen = Seen()
    with unit_of_work("test") as unit:
        await get(mounted(seen), "/api/v1/orders/1")
        assert current_unit() is unit
    assert seen.names == ["GET /api/v1/orders/{number}"]


async def test_each_wait_of_a_request_passes_one_function_of_ours(watch: Watch) -> None:
    """Between the server and the application lies no more: a coroutine is entered anew whenever it goes on."""

    async def waits(request: Request) -> PlainTextResponse:
        for _ in range(int(request.path_params["times"])):
            await asyncio.sleep(0)
        return PlainTextResponse("x")

    app = Starlette(routes=[Route("/{times}", waits)])
    counted = []
    for times in (1, 11):
        seen: list[str] = []
        with _profiled(lambda frame, seen=seen: seen.append(frame.f_code.co_filename)):
            await get(app, f"/{times}")
        counted.append(sum("/sessionwatch/units/" in name for name in seen))
    assert counted[1] - counted[0] == 10


@contextlib.contextmanager
def _profiled(entered: Callable[[FrameType], None]) -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: entered(frame) if event == "call" else None)
    try:
        yield
    finally:
        sys.setprofile(before)


async def test_lifespan_is_no_unit(watch: Watch) -> None:
    """What starts with the application belongs to no request."""
    seen = Seen()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.look()

    await UnitOfWorkMiddleware(app)({"type": "lifespan"}, None, None)
    assert seen.units == [None]


async def test_the_hosts_error_passes(watch: Watch) -> None:
    """An error of the application leaves the unit as it is, without a frame of ours on its way."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await UnitOfWorkMiddleware(app)({"type": "http"}, None, None)
    assert not [entry for entry in caught.traceback if "sessionwatch/units" in str(entry.path)]
    assert current_unit() is None


async def test_an_error_of_ours_passes_the_call_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the unit can't be begun or named, the application is called all the same, and the error is counted."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    uninstall()
    monkeypatch.delenv("SESSIONWATCH_TESTING", raising=False)
    with watching(log=False) as watch:
        assert (await get(UnitOfWorkMiddleware(answer, broken), "/")).text == "x"
        with monkeypatch.context() as patched:
            patched.setattr(scopes, "Unit", broken)
            assert (await get(UnitOfWorkMiddleware(answer), "/")).text == "x"
        assert set(watch.status()["internal_errors"]) == {"a unit's name", "the unit of a request"}


async def test_without_an_installation() -> None:
    """The middleware alone serves its application."""
    uninstall()
    assert (await get(UnitOfWorkMiddleware(answer), "/")).text == "x"


def test_the_former_address_is_kept() -> None:
    """`sessionwatch.adapters` gives the same middleware as `sessionwatch.units`."""
    for name in ("asgi", "wsgi"):
        before, now = (importlib.import_module(f"sessionwatch.{place}.{name}") for place in ("adapters", "units"))
        assert before.UnitOfWorkMiddleware is now.UnitOfWorkMiddleware


def around(inner: Any, registry: Any) -> Any:
    """An application of the program's own around the framework's."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await inner(scope, receive, send)
        finally:
            registry.remove()

    return app


async def test_ignores_a_registrys_session_that_an_outer_application_removes(shop: Engine, watch: Watch) -> None:
    """The unit ends before it: the session is the outer one's, request after request."""
    app, registry = FastAPI(), scoped_session(sessionmaker(shop))

    @app.get("/orders")
    async def orders() -> int:
        return len(registry.scalars(select(Order)).all())

    for _ in range(2):
        assert (await get(around(app, registry), "/orders")).text == "1"
    assert [finding for finding in watch.findings if finding.rule != "blocking-io"] == []


async def test_reports_a_leak_within_an_outer_application(shop: Engine, watch: Watch) -> None:
    """A session that is no registry's cannot be ended there; and one that nobody around removes is left open."""
    app, registry, kept = FastAPI(), scoped_session(sessionmaker(shop)), []

    @app.get("/own")
    async def own() -> None:
        kept.append(Session(shop))
        kept[-1].scalars(select(Order)).all()

    @app.get("/orders")
    async def orders() -> None:
        registry.scalars(select(Order)).all()

    await get(around(app, registry), "/own")
    await get(app, "/orders")
    assert [unit for rule, unit in found(watch) if rule == "session-leak"] == ["GET /own", "GET /orders"]
    registry.remove()
    kept[0].close()
