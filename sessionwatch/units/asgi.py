"""A request or a websocket of an ASGI application is a unit of work, until the application's call has returned.

That is after the teardown of dependencies and after background tasks, whatever the framework's version.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import Token
from types import FrameType
from typing import Any

from ..border import settle
from ..frames import callsite
from ..patching import unseen
from . import scope as units
from .naming import OTHER, WEBSOCKET, WITHOUT_ROUTE, asgi_handler, asgi_name, asgi_route
from .scope import (
    FrameworkUnit,
    Sessions,
    Starting,
    Unit,
    are_answers_heard,
    begun,
    current,
    failed,
    over,
    process_ends,
    starting,
)

__tracebackhide__ = True  # pytest: the story is in the message
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
_AROUND = 12  # frames around a framework's application that are looked at


class UnitOfWorkMiddleware:
    """ASGI 3 middleware: each request and each websocket is a unit of work. The end of the lifespan exports what waits.

    Args:
        app: the application.
        route: returns the template of the route of a scope, None where there is none, for frameworks that
            leave it elsewhere than Starlette, FastAPI and Litestar do.

    Not needed for those three under `sessionwatch.install`: they are found by themselves. Both together are
    one unit a request.
    """

    def __init__(self, app: App, route: Callable[[Scope], str | None] = asgi_route) -> None:
        self.app = app
        self.route = route

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        try:
            await serve(self.app, scope, receive, send, self.route)
        except BaseException as error:
            unseen(error)
            raise


async def serve(app: App, scope: Scope, receive: Any, send: Any, route: Callable[[Scope], str | None]) -> None:
    """Call the application in a unit."""
    original, called, unit, token = app, False, None, None
    try:
        unit, sending = _request(scope, send, route)
        token = current.set(unit) if unit is not None else None
        called = True
        await original(scope, receive, sending)
        if unit is not None:
            mine, unit = unit, None
            _ends(mine, token, scope, receive, send)
    except BaseException as crossed:
        if unit is not None:
            try:
                _ends(unit, token, scope, receive, send)
            except Exception:
                failed("an ASGI application")
        late = settle(crossed, original, units, "an ASGI application", called)
        if late is None:
            raise
        await late.awaited(scope, receive, send)


def _ends(unit: Unit, token: Token[Unit | None] | None, *given: Any) -> None:
    """End the unit of a request, to be called by what was called with what was ``given``.

    Where a session of it is open still, it matters whether an application of the program's own is around the
    framework's: it may end its registry's session.
    """
    try:
        if any(record.closed_how is None for record in unit.records()):
            _look_around(unit, sys._getframe(2), given)
    except Exception:
        failed("an ASGI application")
    over(unit, token)


def _look_around(unit: Unit, frame: FrameType, given: tuple[Any, ...]) -> None:
    for outer in itertools.islice(callsite.stack(frame), _AROUND):
        kind = callsite.kind_of(outer)
        if kind == callsite.USER and any(one is value for one in given for value in outer.f_locals.values()):
            unit.lodges = "registries"
        if kind in (callsite.USER, callsite.STOP):
            return


def _lifespan(scope: Scope, send: Any) -> Any:
    """``send`` of a lifespan, which tells when the server starts to serve, and of the end.

    uvicorn then ends the process by the signal that it got itself.
    """
    if scope.get("type") != "lifespan":
        return send
    start = Starting()
    starting.set(start)

    async def sending(message: Any) -> None:
        if message.get("type") == "lifespan.startup.complete":
            start.over = True
        if message.get("type") in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            process_ends(over=False)
        await send(message)

    return sending


def _request(scope: Scope, send: Any, route: Callable[[Scope], str | None]) -> tuple[Unit | None, Any]:
    """The unit of a request, and its ``send``; None within the call of the same request, and for what is none.

    A websocket serves many messages, each of which may have a session of its own.
    """
    kind = scope.get("type")
    sessions: Sessions = "one"
    if kind == "http":
        name = WITHOUT_ROUTE.get(scope.get("method", ""), OTHER)
    elif kind == "websocket":
        name, sessions = WEBSOCKET, "many"
    else:
        return None, _lifespan(scope, send)
    key = ("asgi", id(scope.get("headers")))  # middlewares copy the scope; the headers stay the same list
    unit = begun("request", name, asgi_name, key, sessions, asgi_handler, (scope, route))
    return unit, _answering(unit, send) if unit is not None and are_answers_heard() else send


def _answering(unit: Unit, send: Any) -> Any:
    """``send`` that tells the unit when the last part of a response has been sent."""
    status = 0

    def sending(message: Any) -> Awaitable[None]:
        nonlocal status
        try:
            kind = message["type"]
            if kind == "http.response.start":
                status = int(message["status"])
            elif (kind == "http.response.body" and not message.get("more_body")) or kind == "http.response.pathsend":
                return _last(unit, status, send, message)
        except Exception:
            failed("the answer of a request")
        return send(message)  # type: ignore[no-any-return]

    return sending


async def _last(unit: Unit, status: int, send: Any, message: Any) -> None:
    try:
        await send(message)
    except BaseException as error:
        unseen(error)
        raise
    try:
        unit.sent(status)
    except Exception:
        failed("the answer of a request")


def wrap(is_active: Callable[[], bool]) -> Callable[[Any], Any]:
    """``__call__`` of a framework's application class."""

    def make(original: Any) -> Any:
        async def __call__(self: Any, scope: Scope, receive: Any, send: Any) -> None:  # noqa: N807
            called, unit, token, sending = False, None, None, send
            try:
                if is_active():
                    unit, sending = _request(scope, send, asgi_route)
                    token = current.set(unit) if unit is not None else None
                called = True
                await original(self, scope, receive, sending)
                if unit is not None:
                    mine, unit = unit, None
                    _ends(mine, token, scope, receive, send)
            except BaseException as crossed:
                if unit is not None:
                    try:
                        _ends(unit, token, scope, receive, send)
                    except Exception:
                        failed("an ASGI application")
                late = settle(crossed, original, units, "an ASGI application", called)
                if late is None:
                    raise
                await late.awaited(self, scope, receive, send)

        return __call__

    return make


def wrap_background(attribute: str) -> Callable[[Callable[[], bool]], Callable[[Any], Any]]:
    """``BackgroundTask.__call__``: work after the response is a unit of its own, with its own sessions."""

    def wrap(is_active: Callable[[], bool]) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            async def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
                called, result = False, None
                try:
                    if not is_active():
                        called = True
                        return await original(self, *args, **kwargs)
                    unit = FrameworkUnit("task", f"background task {_called(self, attribute)}")
                    try:
                        with unit:
                            called = True
                            result = await original(self, *args, **kwargs)
                    finally:
                        unit.end()
                    return result
                except BaseException as crossed:
                    late = settle(crossed, original, units, "a background task", called, result)
                    if late is None:
                        raise
                    return await late.awaited(self, *args, **kwargs)

            return __call__

        return make

    return wrap


def _called(task: Any, attribute: str) -> str:
    try:
        function = getattr(task, attribute)
        function = getattr(function, "func", function)  # functools.partial
        return str(getattr(function, "__qualname__", type(function).__qualname__)).rpartition("<locals>.")[2]
    except Exception:
        failed("a unit's name")
        return "(no name)"
