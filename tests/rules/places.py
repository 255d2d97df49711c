"""What the rules' tests ask of findings: where they point, and whether the pool is idle."""

from __future__ import annotations

import sys
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from sessionwatch import Finding, rules
from sessionwatch.model import Level
from sessionwatch.watch.watch import Watch


def line(marker: str) -> int:
    """The one line of the calling file that ends in the comment ``# marker``."""
    path = Path(sys._getframe(1).f_code.co_filename)
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [number for number, text in enumerate(lines, 1) if text.endswith(f"# {marker}")]
    assert len(found) == 1, f"{marker!r} marks the lines {found}"
    return found[0]


def only(watch: Watch, rule: str) -> Finding:
    """The only finding, which is one of ``rule``."""
    assert [finding.rule for finding in watch.findings] == [rule], [finding.message for finding in watch.findings]
    return watch.findings[0]


def labels(finding: Finding) -> list[str]:
    """The labels of the evidence, in their order."""
    return [item.label for item in finding.evidence]


def evidence_line(finding: Finding, label: str) -> int:
    """The line of the first evidence with this label."""
    site = next(item.site for item in finding.evidence if item.label == label)
    assert site is not None
    return site.line


def is_idle(engine: Engine | AsyncEngine) -> bool:
    """Whether every connection is back in the pool, where the pool can tell."""
    pool = engine.pool if isinstance(engine, Engine) else engine.sync_engine.pool
    checked_out = getattr(pool, "checkedout", None)
    return checked_out is None or checked_out() == 0


def alone(slug: str, level: Level = "log") -> dict[str, Level]:
    """Levels with one rule on and every other one off."""
    return {rule.slug: level if rule.slug == slug else "off" for rule in rules.ALL}
