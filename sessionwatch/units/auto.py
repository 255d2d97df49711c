"""Frameworks that the program imports, now or later, are wrapped by themselves; none is imported for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

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
    with contextlib.ExitStack() as stack:
        finder = Finder(stack)
        sys.meta_path.insert(0, finder)
        stack.callback(finder.stop)
        for name in MODULES & set(sys.modules):
            finder.imported(name)
        yield


def owner(module: ModuleType | None, entry: Entry) -> Any:
    """The object whose attribute an entry names; None where this version is without it."""
    return getattr(module, entry.owner, None) if entry.owner else module


class Finder:
    """Finds nothing by itself: it looks on while one of the frameworks' modules is imported."""

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self.active = True
        self._undo = undo
        self._asked: set[str] = set()

    def stop(self) -> None:
        self.active = False
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]

    def is_active(self) -> bool:
        return self.active

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in MODULES or name in self._asked or not self.active:
            return None
        self._asked.add(name)  # another finder may begin the search anew
        try:
            return self._spec(name, path, target)
        finally:
            self._asked.discard(name)

    def _spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None) if finder is not self else None
            spec: ModuleSpec | None = find(name, path, target) if find is not None else None
            if spec is not None:
                try:
                    self._look_on(spec.loader, name)
                except (AttributeError, TypeError):  # a loader that takes no attributes
                    pass
                except Exception:
                    failed(f"the units of {name}")
                return spec
        return None

    def _look_on(self, loader: Any, name: str) -> None:
        """Be told when the loader has run the module. What it is told by is gone by then."""
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            try:
                run(module)
            except BaseException as error:
                unseen(error)
                raise
            if self.active:
                self.imported(name)

        loader.exec_module = exec_module

    def imported(self, name: str) -> None:
        """Wrap what the table names of a module."""
        module = sys.modules.get(name)
        try:
            for entry in WRAPPED:
                found = owner(module, entry) if entry.module == name else None
                if found is not None and hasattr(found, entry.name):
                    self._undo.callback(patch(found, entry.name, entry.wrap(self.is_active)))
            if name in CONNECTED and hasattr(module, "task_postrun"):
                self._undo.callback(CONNECTED[name](module))
        except Exception:
            failed(f"the units of {name}")
