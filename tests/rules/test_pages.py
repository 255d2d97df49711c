"""The rules' pages: their examples run, the bad one is found and the good one is not."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, select
from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, joinedload, selectinload, undefer
from sqlalchemy.orm.exc import DetachedInstanceError

import sessionwatch
from sessionwatch import Finding, rules
from sessionwatch.model import Site
from sessionwatch.watch.watch import Watch
from tests.backends import enforce_foreign_keys
from tests.rules import models
from tests.rules.clock import Clock

SLUGS = [rule.slug for rule in rules.ALL]
SECTIONS = ["What it reports", "Why it matters", "Bad", "Good", "When to allow"]


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
    with suppress(DetachedInstanceError, MissingGreenlet, StatementError):
        exec(compile(source, str(path), "exec"), prelude)
    prelude.clear()
    gc.collect()


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


def findings(slug: str, section: str, path: Path, engine: Engine, in_function: bool = False) -> list[Finding]:
    """What an example yields until its program has ended, with the defaults and this rule."""
    source = example(slug, section)
    if in_function:
        source = f"def example():\n{indent(source, '    ')}\nexample()\n"
    models.seed(engine)
    gc.collect()
    output = path.with_suffix(".jsonl")
    with sessionwatch.watching("log", rules={slug: "log"}, log=False, output=output) as watch:
        run(source, path, engine, watch)
    return watch.findings + of_children(output)


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


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An empty SQLite database in memory; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    engine = create_engine("sqlite://")
    enforce_foreign_keys(engine)
    return engine


@pytest.mark.parametrize("slug", SLUGS)
def test_the_bad_example_is_reported(slug: str, tmp_path: Path, memory: Engine) -> None:
    """The bad example yields one finding, of this rule and no other, that points into the example."""
    path = tmp_path / "bad.py"
    found = findings(slug, "Bad", path, memory)
    assert [finding.rule for finding in found] == [slug]
    assert found[0].site is not None
    assert found[0].site.path == str(path)


@pytest.mark.parametrize("in_function", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("slug", SLUGS)
def test_the_good_example_is_silent(slug: str, in_function: bool, tmp_path: Path, memory: Engine) -> None:
    """The good example yields nothing at all, nor does it in a function, whose sessions belong together."""
    assert findings(slug, "Good", tmp_path / "good.py", memory, in_function) == []


@pytest.mark.parametrize("slug", SLUGS)
def test_the_examples_differ(slug: str) -> None:
    """Good is a repair of bad, not a copy."""
    assert example(slug, "Bad") != example(slug, "Good")


@pytest.mark.parametrize("slug", SLUGS)
def test_a_page_has_its_sections_in_order(slug: str) -> None:
    """Every page answers the same questions in the same order."""
    assert re.findall(r"^## (.*)$", rules.find(slug).page, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("slug", SLUGS)
def test_explain_shows_the_page(slug: str) -> None:
    """explain() is the page with the rule's name and its one-sentence summary on top."""
    text = sessionwatch.explain(slug)
    rule = rules.find(slug)
    assert text.startswith(f"# {slug}\n\n{rule.summary}\n\n## What it reports\n")
    assert rule.summary.endswith(".")
    assert text.endswith(rule.page.strip() + "\n")


def test_explain_names_the_nearest_rule() -> None:
    """An unknown rule is refused with the name that was probably meant."""
    with pytest.raises(sessionwatch.ConfigError, match="Did you mean 'lost-writes'"):
        sessionwatch.explain("lost-write")
