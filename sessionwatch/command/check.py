"""``sessionwatch check MODULE:OBJECT``: the settings of an engine or a sessionmaker, without running the program."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from ..config import nearest
from ..hooks.makers import Makers, patch_engine_created, patch_made, remembered
from ..hooks.patch import patch
from ..hooks.reading import read
from ..model import ConfigError, Finding, Options
from ..record.events import Misconfigured
from ..record.ledger import Ledger
from ..record.tracker import Tracker
from ..rules import config as rule
from ..watch.suppress import Suppressions

WANTED = "an engine, a sessionmaker or a scoped_session, sync or asyncio"


def check(target: str, baseline: str | None = None) -> list[Finding]:
    """The findings about the object that ``MODULE:OBJECT`` names; those that are allowed have a reason.

    Imports the module, with the working directory on the path. Connects only to SQLite, to ask whether foreign
    keys are enforced, and only where mapped tables declare some. Raises `ConfigError` for a target that can't
    be imported, and for one that is no engine or sessionmaker.
    """
    makers = Makers(Tracker(lambda event, allowances: None, Ledger(1, 1)))
    with _noting(makers):
        found = _imported(target)
    suppressions = Suppressions(baseline)
    findings = [finding for event in _look(found, target, makers) for finding in rule.check(event, Options())]
    for finding in findings:
        suppressions.cover(finding, ())
    return findings


def _noting(makers: Makers) -> ExitStack:
    """Note the lines that make engines and sessionmakers while the program is imported."""
    kinds: list[tuple[Any, Any]] = [(sessionmaker, lambda made: made.class_)]
    with suppress(ImportError):  # without greenlet there is no asyncio side
        importlib.import_module("greenlet")  # first: SQLAlchemy's import leaves its parts behind where it fails
        from sqlalchemy.ext.asyncio import async_sessionmaker

        kinds.append((async_sessionmaker, lambda made: made))
    stack = ExitStack()
    stack.callback(patch(Dialect, "engine_created", patch_engine_created(makers.tracker, (remembered(makers),))))
    for owner, key in kinds:
        stack.callback(patch(owner, "__init__", patch_made(makers, key)))
    return stack


def _imported(target: str) -> Any:
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise ConfigError(f"{target!r} is not of the form MODULE:OBJECT, for example shop.db:SessionLocal")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"can't import {module_name}: {error.msg}") from error
    except Exception as error:
        raise ConfigError(f"importing {module_name} failed: {type(error).__name__}: {error}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"{module_name} has no {path!r}.{nearest(name, dir(found))}")
        found = getattr(found, name)
    return found


def _look(found: Any, target: str, makers: Makers) -> Iterator[Misconfigured]:
    found = getattr(found, "session_factory", found) if _is_scoped(found) else found
    engine = getattr(found, "sync_engine", found)
    if not isinstance(engine, Engine):
        if not isinstance(getattr(found, "kw", None), dict):
            raise ConfigError(f"{target} is {_article(found)}; give {WANTED}")
        yield from _of_maker(found, makers)
        engine = getattr(found.kw.get("bind"), "sync_engine", found.kw.get("bind"))
    if isinstance(engine, Engine):
        yield from _of_engine(engine, makers)


def _is_scoped(found: Any) -> bool:
    return isinstance(found, scoped_session) or type(found).__name__ == "async_scoped_session"


def _article(found: Any) -> str:
    name = type(found).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _of_maker(maker: Any, makers: Makers) -> Iterator[Misconfigured]:
    asynchronous = not isinstance(maker, sessionmaker)
    made = makers.made.get(maker if asynchronous else maker.class_)
    if asynchronous and maker.kw.get("expire_on_commit", True):
        yield Misconfigured("expire", "async_sessionmaker", made, None)
    if not maker.kw.get("autoflush", True):
        yield Misconfigured("autoflush", "", made, None)


def _of_engine(engine: Engine, makers: Makers) -> Iterator[Misconfigured]:
    made = makers.made.get(engine.dialect)
    sqlite = engine.dialect.name == "sqlite"
    if sqlite and _foreign_keys_declared() and not _enforced(engine):
        yield Misconfigured("foreign-keys", engine.dialect.driver, made, None)
    if isinstance(engine.pool, StaticPool) and not (sqlite and _in_memory(engine)):
        yield Misconfigured("static", "StaticPool", made, None)


def _foreign_keys_declared() -> bool:
    tables = (table for registry in read.registries() for table in registry.metadata.tables.values())
    return any(table.foreign_keys for table in tables)


def _in_memory(engine: Engine) -> bool:
    database = engine.url.database or ""
    return database in ("", ":memory:") or "mode=memory" in str(engine.url)


def _enforced(engine: Engine) -> bool:
    path = engine.url.database or ""
    new = not _in_memory(engine) and not os.path.exists(path)
    try:
        return asyncio.run(_ask_async(engine)) if engine.dialect.is_async else _ask(engine)
    except SQLAlchemyError as error:
        first = str(getattr(error, "orig", error)).splitlines()[0]
        raise ConfigError(f"can't connect to {engine.url.render_as_string()}: {first}") from error
    finally:
        if new and os.path.exists(path) and os.path.getsize(path) == 0:  # made by the connection
            os.remove(path)


def _ask(engine: Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql("PRAGMA foreign_keys").scalar())


async def _ask_async(engine: Engine) -> bool:
    from sqlalchemy.ext.asyncio import AsyncEngine

    asynchronous = AsyncEngine(engine)
    try:
        async with asynchronous.connect() as connection:
            return bool((await connection.exec_driver_sql("PRAGMA foreign_keys")).scalar())
    finally:
        await asynchronous.dispose()
