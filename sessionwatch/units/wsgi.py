"""A request of a WSGI application is a unit of work, until its response is closed, or exhausted if it has no close."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..border import settle
from ..patching import unseen
from . import scope as units
from .naming import OTHER, WITHOUT_ROUTE, method_of
from .scope import FrameworkUnit, Unit, are_answers_heard, current_unit, failed

__tracebackhide__ = True  # pytest: the story is in the message
Environ = dict[str, Any]
App = Callable[[Environ, Any], Iterable[bytes]]
_OVER: Any = object()


class UnitOfWorkMiddleware:
    """WSGI middleware: each request is a unit of work.

    Args:
        app: the application.
        route: returns the template of the route of an environ, None where there is none.

    Not needed for Flask under `sessionwatch.install`: it is found by itself. Both together are one unit a
    request.
    """

    def __init__(self, app: App, route: Callable[[Environ], str | None] = lambda environ: None) -> None:
        self.app = app
        self.route = route

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        try:
            return serve(self.app, environ, start_response, self.route)
        except BaseException as error:
            unseen(error)
            raise


class Status:
    """The status of a response, as the application gave it to the server; 0 where nobody wants to know it."""

    def __init__(self) -> None:
        self.code = 0

    def noting(self, start_response: Any) -> Any:
        """``start_response`` that notes the status on its way."""
        if not are_answers_heard():
            return start_response

        def noted(status: str, *args: Any, **kwargs: Any) -> Any:
            try:
                self.code = int(status[:3])
            except Exception:
                failed("the answer of a request")
            return start_response(status, *args, **kwargs)

        return noted

    def taken(self, unit: Unit | None) -> None:
        """The server has a part of the body: the client will have the status."""
        code, self.code = self.code, 0
        try:
            if unit is not None:
                unit.sent(code)
        except Exception:
            failed("the answer of a request")


class Body:
    """A response's body that ends its unit where it ends itself. The unit is current while its parts are made.

    A server closes what it has exhausted, or what failed, and programs end their sessions there.
    """

    def __init__(self, unit: FrameworkUnit, body: Iterable[bytes], status: Status) -> None:
        self._unit = unit
        self._status = status
        self._body = body
        self._parts = iter(body)
        self._closes = hasattr(body, "close")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        original, called, part = next, False, _OVER  # an exception would have to be told from one of ours
        try:
            try:
                with self._unit:
                    part = original(self._parts, _OVER)
                    called = True
            except BaseException:
                units.taken(self._unit) if self._closes else self._unit.end()
                raise
            if part and part is not _OVER and self._status.code:
                self._status.taken(self._unit.unit)
            if part is _OVER:
                units.taken(self._unit) if self._closes else self._unit.end()
        except BaseException as crossed:
            late = settle(crossed, original, units, "the body of a response", called, part)
            if late is None:
                raise
            part = late(self._parts, _OVER)
        if part is _OVER:
            raise StopIteration
        return part  # type: ignore[no-any-return]

    def close(self) -> None:
        original, called = getattr(self._body, "close", _nothing), False
        try:
            try:
                with self._unit:
                    called = True
                    original()
            finally:
                self._unit.end()
        except BaseException as crossed:
            late = settle(crossed, original, units, "the body of a response", called)
            if late is None:
                raise
            late()

    def __del__(self) -> None:  # some test clients neither read nor close what they don't need
        if not sys.is_finalizing():
            try:
                self._unit.end()
            except Exception:
                failed("the body of a response")


def _nothing() -> None:
    """The ``close`` of a body that has none."""


def serve(
    app: App,
    environ: Environ,
    start_response: Any,
    route: Callable[[Environ], str | None],
    lodges: bool = False,
) -> Iterable[bytes]:
    """Call the application in a unit. ``lodges``: sessions that it leaves open belong to something wider."""
    original, called, body = app, False, None
    try:
        unit, status, starts = _begin(environ, start_response, route, lodges)
        mine = unit.unit
        try:
            with unit:
                called = True
                body = original(environ, starts)
        except BaseException:
            unit.end()
            raise
        return body if mine is None else _lasting(unit, body, status, environ)
    except BaseException as crossed:
        late = settle(crossed, original, units, "a WSGI application", called, body)
        if late is None:
            raise
        return late(environ, start_response)  # type: ignore[no-any-return]


def _begin(
    environ: Environ, start_response: Any, route: Callable[[Environ], str | None], lodges: bool
) -> tuple[FrameworkUnit, Status, Any]:
    """The unit of a request, its answer's status, and the ``start_response`` that notes it."""
    units.end_taken()
    key = ("wsgi", id(environ.get("wsgi.input")))  # middlewares copy the environ; the input stays the same object
    name = WITHOUT_ROUTE.get(environ.get("REQUEST_METHOD", ""), OTHER)
    unit = FrameworkUnit("request", name, _name, key, about=(environ, route))
    mine, status = unit.unit, Status()
    if mine is not None:
        mine.lodges = "all" if lodges else ""
    return unit, status, start_response if mine is None else status.noting(start_response)


def _name(environ: Environ, route: Callable[[Environ], str | None]) -> str | None:
    template = route(environ)
    return f"{method_of(environ.get('REQUEST_METHOD'))} {template}" if template is not None else None


def _lasting(unit: FrameworkUnit, body: Iterable[bytes], status: Status, environ: Environ) -> Iterable[bytes]:
    """The body, which ends the unit where it ends itself."""
    if unit.unit is not None:
        unit.unit.request = None  # the call has returned: what comes now in this thread is another request
    if isinstance(body, (list, tuple, bytes)) or _is_file(body, environ):
        unit.end()
        return body
    try:
        made = Body(unit, body, status)
    except Exception:  # nothing that can be iterated: the server's error
        unit.end()
        return body
    try:
        units.lasts(unit)
    except Exception:
        failed("the body of a response")
    return made


def _is_file(body: object, environ: Environ) -> bool:
    """Whether the server sends the body by itself, as long as it is not wrapped."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def wrap(is_active: Callable[[], bool]) -> Callable[[Any], Any]:
    """``__call__`` of a framework's application class."""

    def make(original: Any) -> Any:
        def __call__(self: Any, environ: Environ, start_response: Any) -> Any:  # noqa: N807
            try:
                if not is_active():
                    return original(self, environ, start_response)
                lodges = _in_a_wider_context(self, environ)
                return serve(original.__get__(self), environ, start_response, _nowhere, lodges)
            except BaseException as crossed:
                late = settle(crossed, original, units, "a WSGI application", called=False)
                if late is None:
                    raise
                return late(self, environ, start_response)

        return __call__

    return make


def _nowhere(environ: Environ) -> None:
    """Flask's route is known by `wrap_dispatch`."""


def _in_a_wider_context(app: object, environ: Environ) -> bool:
    """Whether the application context that a request of Flask's works in ends later than the request.

    It is taken over where one was pushed around the client, as tests do, and kept where the client is a with block's.
    """
    if "werkzeug.debug.preserve_context" in environ:
        return True
    flask = sys.modules.get("flask")
    try:
        return flask is not None and flask.has_app_context() and flask.current_app._get_current_object() is app
    except (AttributeError, RuntimeError):
        return False


def wrap_dispatch(is_active: Callable[[], bool]) -> Callable[[Any], Any]:
    """``Flask.full_dispatch_request``: the route is known here, and not any more when the request has ended."""

    def make(original: Any) -> Any:
        def full_dispatch_request(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                if is_active():
                    try:
                        _tell_name()
                    except Exception:
                        failed("Flask.full_dispatch_request")
                return original(self, *args, **kwargs)
            except BaseException as crossed:
                late = settle(crossed, original, units, "Flask.full_dispatch_request")
                if late is None:
                    raise
                return late(self, *args, **kwargs)

        return full_dispatch_request

    def _tell_name() -> None:
        unit = current_unit()
        request = sys.modules["flask"].request
        if unit is not None and request.url_rule is not None:
            name = f"{method_of(request.method)} {request.url_rule.rule}"
            view = sys.modules["flask"].current_app.view_functions.get(request.endpoint)
            unit.ask(_first, _second, name, view)

    return make


def _first(name: str, _: object) -> str:
    return name


def _second(_: object, view: Any) -> Any:
    return view
