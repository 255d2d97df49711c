"""Inside a watched process: ``sessionwatch.install()`` as soon as SQLAlchemy's ORM is imported, or an engine is made.

``sitecustomize.py`` beside this file runs when a process starts, and loads this module by its path (the
package may not be importable there) when the process imports SQLAlchemy. No error of ours may reach the
program: it becomes a note, which the report repeats.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import json
import os
import sys
from typing import Any

PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Their import imports the ORM, and hooks go into them, or they are what is called: where a program begins with one,
# it is completed first. A program that calls `sessionwatch.install` itself gets our installation then.
_FIRST = (
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.ext.mutable",
    "sessionwatch.watch.watch",
    "sessionwatch.watch.installation",
)


def start(raw: str) -> None:
    """Arrange the installation. ``raw``: what ``sessionwatch run`` put into ``SESSIONWATCH_RUN``."""
    import wrapt

    arranged = Installation(json.loads(raw))
    for name in ("sqlalchemy.orm", *_FIRST):
        wrapt.register_post_import_hook(arranged, name)
    wrapt.register_post_import_hook(arranged.without_orm, "sqlalchemy.engine.base")


class Installation:
    """Installs once, when SQLAlchemy's ORM has been imported."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._begun = False

    def __call__(self, loaded: object) -> None:
        if self._begun or "sqlalchemy.orm" not in sys.modules or any(_halfway(name, loaded) for name in _FIRST):
            return
        self._begun = True
        try:
            _install(self._settings)
        except Exception as error:
            _note(self._settings["folder"], event="failed", error=f"{type(error).__name__}: {error}")

    def without_orm(self, module: Any) -> None:
        """A program may never import the ORM: then the first connection of an engine is the sign.

        Not the engine's making: `create_engine()` reads the names of the parameters of its ``__init__``.
        """
        engine = module.Engine
        original = engine.connect

        @functools.wraps(original)
        def connect(this: Any, *args: Any, **kwargs: Any) -> Any:
            if vars(engine).get("connect") is connect:
                engine.connect = original
            with contextlib.suppress(ImportError):
                importlib.import_module("sqlalchemy.orm")  # of which we hear
            return original(this, *args, **kwargs)

        engine.connect = connect


def _halfway(name: str, loaded: object) -> bool:
    """Whether the module is being imported at the moment; ``loaded`` is the one that has just become complete."""
    module = sys.modules.get(name)
    if module is None or module is loaded or not getattr(module.__spec__, "_initializing", False):
        return False
    return name != "sqlalchemy.ext.asyncio" or _is_there("greenlet")  # without it, this import fails


def _is_there(name: str) -> bool:
    with contextlib.suppress(Exception):  # a finder of the program's
        return importlib.util.find_spec(name) is not None
    return False


def _import_ours(name: str) -> Any:
    """A module of this package; from the folder of the running command where the program has none of its own."""
    try:
        return importlib.import_module(f"sessionwatch.{name}")
    except ModuleNotFoundError as error:
        if error.name != "sessionwatch":
            raise
    sys.path.append(PARENT)
    try:
        return importlib.import_module(f"sessionwatch.{name}")
    finally:
        sys.path.remove(PARENT)


def _install(settings: dict[str, Any]) -> None:
    module, journal = _import_ours("watch.installation"), _import_ours("output.journal")
    atexit.register(_at_exit, module, settings["folder"])
    watch = module.install(log=False, gives_way=True, recording=settings.get("recording"))
    watch.subscribe(journal.Journal(watch.store, settings["folder"], settings["findings"]))
    _note(settings["folder"], event="watching")


def _at_exit(module: Any, folder: str) -> None:
    """After the watch's own handler, which was registered later."""
    try:
        watch = module.current()
        unused = watch.unused_allowances() if watch is not None else ()
        if unused:
            told = [{"rules": item.rules, "reason": item.reason, "text": str(item)} for item in unused]
            _note(folder, event="ended", unused=told)
    except Exception as error:
        _note(folder, event="failed", error=f"{type(error).__name__}: {error}")


def _note(folder: str, **fields: object) -> None:
    """Append one line for the report; whole, whoever else writes."""
    line = json.dumps({"pid": os.getpid(), **fields}).encode("ascii") + b"\n"
    with contextlib.suppress(OSError), open(os.path.join(folder, "notes.jsonl"), "ab", 0) as file:
        file.write(line)
