"""Programs of a few lines that run by themselves: the examples of the rules' pages, and others like them."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, NullPool, StaticPool, create_engine, select
from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, joinedload, selectinload, undefer
from sqlalchemy.orm.exc import DetachedInstanceError

from sessionwatch import Finding, rules
from sessionwatch.model import Site
from sessionwatch.watch.watch import Watch
from tests.backends import enforce_foreign_keys
from tests.rules import models
from tests.rules.clock import Clock
from tests.services import POSTGRESQL


def example(slug: str, section: str) -> str:
    """The one Python block of a section of a rule's page."""
    found = re.findall(rf"^## {section}\n```python\n(.*?)^```$", rules.find(slug).page, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{slug} has {len(found)} examples under {section}"
    return str(found[0])


def run(source: str, path: Path, engine: Engine, watch: Watch) -> None:
    """Run an example as a program of its own: its names are gone when it ends."""
    path.write_text(source, encoding="utf-8")
    prelude: dict[str, Any] = {**vars(models), "engine": engine, "Session": Session, "select": select}
    prelude["database"] = f"sqlite:///{path.with_suffix('.db')}"
    prelude |= {"selectinload": selectinload, "joinedload": joinedload, "undefer": undefer, "__file__": str(path)}
    prelude |= {"asyncio": asyncio, "AsyncSession": AsyncSession, "async_engine": asynchronous(path, source)}
    prelude["sleep"] = Clock(watch).sleep
    if "TestClient" in source:
        prelude["engine"] = in_a_file(path)
    if "memory_engine" in source:
        prelude["memory_engine"] = in_memory()
    if "asyncpg_url" in source:
        prelude["asyncpg_url"] = POSTGRESQL.url().set(drivername="postgresql+asyncpg")
    process = os.getpid()
    try:
        with suppress(DetachedInstanceError, MissingGreenlet, StatementError):
            exec(compile(source, str(path), "exec"), prelude)
    finally:
        if os.getpid() != process:  # a child that an exception kept from its own end
            os._exit(0)
    prelude.clear()
    gc.collect()


def in_memory() -> Engine:
    """A database in memory, whose one connection all sessions share."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    enforce_foreign_keys(engine)
    models.seed(engine)
    return engine


def in_a_file(path: Path) -> Engine:
    """A database of its own for an example that answers requests, which run in threads."""
    engine = create_engine(f"sqlite:///{path.with_suffix('.db')}")
    enforce_foreign_keys(engine)
    models.seed(engine)
    return engine


def asynchronous(path: Path, source: str) -> AsyncEngine | None:
    """A database of its own for an example that runs ``async def main()``."""
    if "async_engine" not in source:
        return None
    file = path.with_suffix(".db")
    seeding = create_engine(f"sqlite:///{file}", poolclass=NullPool)
    enforce_foreign_keys(seeding)
    models.seed(seeding)
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}", poolclass=NullPool)
    enforce_foreign_keys(engine.sync_engine)
    return engine


def of_children(output: Path) -> list[Finding]:
    """What processes that an example forked have written."""
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return [
        Finding(
            line["rule"],
            line["severity"],
            line["subject"],
            line["message"],
            Site(line["path"], line["line"], line["function"]),
            (),
            line["fix"],
        )
        for line in lines
        if line["pid"] != os.getpid()
    ]
