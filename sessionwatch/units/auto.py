"""Frameworks that the program imports, now or later, are wrapped by themselves; none is imported for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..imports import watched
from ..patching import patch, unseen
from . import asgi, celery, wsgi
from .scope import answers, failed

Wrapper = Callable[[Callable[[], bool]], Callable[[Any], Any]]


@dataclass(slots=True, eq=False, repr=False)
class Entry:
    """One method or function that is wrapped. Absent in some versions of a framework: nothing is lost but its units."""

    module: str
    owner: str  # a class in the module; empty for the module itself
    name: str
    wrap: Wrapper


def wrap_answer(is_active: Callable[[], bool]) -> Callable[[Any], Any]:
    """A framework's function that is given an exception and answers it."""

    def make(original: Any) -> Any:
        def answer(*args: Any, **kwargs: Any) -> Any:
            try:
                if is_active():
                    answers()
            except Exception:
                failed("a framework's answer")
            try:
                return original(*args, **kwargs)
            except BaseException as error:
                unseen(error)
                raise

        return answer

    return make


WRAPPED: tuple[Entry, ...] = (
    Entry("starlette.applications", "Starlette", "__call__", asgi.wrap),  # and FastAPI, which calls it
    Entry("starlette.background", "BackgroundTask", "__call__", asgi.wrap_background("func")),
    Entry("litestar.app", "Litestar", "__call__", asgi.wrap),
    Entry("litestar.background_tasks", "BackgroundTask", "__call__", asgi.wrap_background("fn")),
    Entry("flask.app", "Flask", "__call__", wsgi.wrap),
    Entry("flask.app", "Flask", "full_dispatch_request", wsgi.wrap_dispatch),
    # where an exception is answered, with an answer of its own or without
    Entry("flask.app", "Flask", "handle_user_exception", wrap_answer),
    Entry("starlette._exception_handler", "", "_lookup_exception_handler", wrap_answer),
    Entry(
        "litestar.middleware._internal.exceptions.middleware",
        "ExceptionHandlerMiddleware",
        "handle_request_exception",
        wrap_answer,
    ),
)
CONNECTED: dict[str, Callable[[Any], Callable[[], None]]] = {"celery.signals": celery.connect}
MODULES = frozenset(entry.module for entry in WRAPPED) | frozenset(CONNECTED)


@contextlib.contextmanager
def frameworks() -> Iterator[None]:
    """Wrap the frameworks for as long as the block lasts; what was changed is changed back exactly."""
    with watched(MODULES, _wrap, lambda name: failed(f"the units of {name}")):
        yield


def owner(module: ModuleType | None, entry: Entry) -> Any:
    """The object whose attribute an entry names; None where this version is without it."""
    return getattr(module, entry.owner, None) if entry.owner else module


def _wrap(name: str, is_active: Callable[[], bool], undo: contextlib.ExitStack) -> None:
    """Wrap what the table names of a module."""
    module = sys.modules.get(name)
    for entry in WRAPPED:
        found = owner(module, entry) if entry.module == name else None
        if found is not None and hasattr(found, entry.name):
            undo.callback(patch(found, entry.name, entry.wrap(is_active)))
    if name in CONNECTED and hasattr(module, "task_postrun"):
        undo.callback(CONNECTED[name](module))
