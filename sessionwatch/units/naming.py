"""What a request is called: its method and the template of its route, never the path that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "QUERY"})
_NO_ROUTE = "(no route)"
OTHER, WEBSOCKET = f"OTHER {_NO_ROUTE}", f"WEBSOCKET {_NO_ROUTE}"
WITHOUT_ROUTE = {method: f"{method} {_NO_ROUTE}" for method in _METHODS}  # what a request is called until it is found


def method_of(value: object) -> str:
    """The request's method. A client may send any word as one, so that an unknown one is ``OTHER``."""
    return str(value) if value in _METHODS else "OTHER"


def asgi_name(scope: Mapping[str, Any], route: Callable[[Any], str | None]) -> str | None:
    """The method and the route's template, as ``route`` finds it; None before the routing."""
    template = route(scope)
    if template is None:
        return None
    method = "WEBSOCKET" if scope["type"] == "websocket" else method_of(scope.get("method"))
    return f"{method} {template}"


def asgi_route(scope: Mapping[str, Any]) -> str | None:
    """The route's template that Starlette, FastAPI or Litestar has left in the scope; None before the routing."""
    template = scope.get("path_template")  # Litestar
    if template:
        return str(template)
    route, endpoint = scope.get("route"), scope.get("endpoint")
    if route is None and endpoint is None:
        return None
    included = scope.get("fastapi", {}).get("effective_route_context")  # FastAPI's lazily included routers
    if included is not None and getattr(included, "original_route", None) is route:
        return str(included.path)
    path = getattr(route, "path", None)
    if path is None or "app_root_path" in scope:  # an old Starlette, or within a mount
        path = _found(getattr(scope.get("router"), "routes", ()), _is(route, endpoint)) or path
    return str(path) if path is not None else None


def asgi_handler(scope: Mapping[str, Any], *_: object) -> Any:
    """The function that answers, as Starlette, FastAPI or Litestar has left it in the scope; None before routing."""
    handler = scope.get("route_handler")  # Litestar
    return getattr(handler, "fn", None) or scope.get("endpoint")


def _is(route: Any, endpoint: Any) -> Callable[[Any], bool]:
    if route is not None:
        return lambda candidate: candidate is route
    return lambda candidate: getattr(candidate, "endpoint", None) is endpoint


def _found(routes: Any, wanted: Callable[[Any], bool]) -> str | None:
    """The whole template of the wanted route, with those of the mounts around it."""
    for route in routes or ():
        path = getattr(route, "path", "")
        if wanted(route):
            return str(path)
        inner = _found(getattr(route, "routes", ()), wanted)
        if inner is not None:
            return f"{path}{inner}"
    return None
