"""The rules' pages: their examples run, the bad one is found and the good one is not."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from textwrap import indent

import pytest
from sqlalchemy import Engine, create_engine

import sessionwatch
from sessionwatch import Finding, config, rules
from sessionwatch.model import MODES
from tests.backends import enforce_foreign_keys
from tests.rules import models
from tests.rules.examples import example, of_children, run

SLUGS = [rule.slug for rule in rules.ALL]
SECTIONS = ["What it reports", "Why it matters", "Bad", "Good", "When to allow"]


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
    assert text.endswith(f"{rule.page.strip()}\n\n{rules.settings_of(rule)}")


@pytest.mark.parametrize("slug", SLUGS)
def test_explain_ends_with_levels_and_settings(slug: str, tmp_path: Path) -> None:
    """explain() says what the rule is set to in each mode and where it raises, and what it prints can be pasted."""
    text = sessionwatch.explain(slug).partition("## Levels and settings\n")[2]
    rule = rules.find(slug)
    assert all(f"`{rule.level_in(mode)}` in mode {mode}" in text for mode in MODES)
    assert rule.safe_point in text
    assert all(f"`{slug}.{name}`" in text and setting.help in text for name, setting in rule.settings.items())
    (tmp_path / "pyproject.toml").write_text(text.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    loaded, bare = (config.load(rules.ALL, environ={}, start=folder) for folder in (tmp_path, tmp_path.parent))
    assert (loaded.levels, loaded.settings) == (bare.levels, bare.settings)


def test_explain_names_the_nearest_rule() -> None:
    """An unknown rule is refused with the name that was probably meant."""
    with pytest.raises(sessionwatch.ConfigError, match="Did you mean 'lost-writes'"):
        sessionwatch.explain("lost-write")
