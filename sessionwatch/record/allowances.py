"""What is allowed where: a session's record and an event keep what was allowed when they came to be."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from ..model import Site, shown_path

_COMMENT = re.compile(r"#\s*sessionwatch:\s*allow\s+([a-z][a-z, -]*?)\s*(?:--\s*(.*\S))?\s*$")


@dataclass(slots=True)
class Allowance:
    """One place that allows findings. ``hits`` counts the findings that it covered."""

    rules: tuple[str, ...]
    reason: str
    site: Site | None
    hits: int = 0

    def __str__(self) -> str:
        where = f"{shown_path(self.site.path)}:{self.site.line}" if self.site else "unknown place"
        return f"{where}: allow {', '.join(self.rules)} -- {self.reason or 'no reason given'}"


current: ContextVar[tuple[Allowance, ...]] = ContextVar("sessionwatch_allow", default=())

# The allowances that the current context is inside of. Not a function of ours: every session asks.
active_allowances: Callable[[], tuple[Allowance, ...]] = current.get


def matching(slug: str, allowances: tuple[Allowance, ...]) -> Allowance | None:
    """The innermost of ``allowances`` that covers the rule."""
    for allowance in reversed(allowances):
        if slug in allowance.rules:
            return allowance
    return None


def parse_comment(line: str) -> tuple[tuple[str, ...], str] | None:
    """The rules and the reason of an inline comment; None where the line has none."""
    match = _COMMENT.search(line)
    if match is None:
        return None
    return tuple(part.strip() for part in match[1].split(",") if part.strip()), (match[2] or "").strip()
