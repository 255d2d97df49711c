"""What is done once a module is there: now, or when the program imports it. Nothing is imported for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .patching import unseen

Then = Callable[[str, Callable[[], bool], contextlib.ExitStack], None]


@contextlib.contextmanager
def watched(names: Collection[str], then: Then, failed: Callable[[str], None]) -> Iterator[Finder]:
    """Call ``then`` with the name of each module that is there or will be, for as long as the block lasts.

    It is also given a test whether the block still lasts, and a stack: what it puts there is undone at the block's end.
    ``failed`` is told, while an exception is handled, for which module something of ours has failed.
    """
    with contextlib.ExitStack() as undo:
        finder = Finder(names, then, failed, undo)
        sys.meta_path.insert(0, finder)
        undo.callback(finder.stop)
        for name in set(names) & set(sys.modules):
            finder.imported(name)
        yield finder


class Finder:
    """Finds nothing by itself: it looks on while one of the modules is imported."""

    def __init__(
        self, names: Collection[str], then: Then, failed: Callable[[str], None], undo: contextlib.ExitStack
    ) -> None:
        self.active = True
        self._names, self._then, self._failed, self._undo = frozenset(names), then, failed, undo
        self._asked: set[str] = set()

    def stop(self) -> None:
        self.active = False
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]

    def is_active(self) -> bool:
        return self.active

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._names or name in self._asked or not self.active:
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
                    self._failed(name)
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
        """Do what is to be done; where the block has ended meanwhile, in another thread, it is undone at once."""
        done = contextlib.ExitStack()
        self._undo.callback(done.close)
        try:
            self._then(name, self.is_active, done)
        except Exception:
            self._failed(name)
        if not self.active:
            done.close()
