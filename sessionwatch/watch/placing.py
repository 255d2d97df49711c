"""Where a finding stands: its chain, the place that it points to, and what has to change.

Files of the user's own that only pass calls on are *plumbing* (``through``): a finding points to the nearest caller
outside of them.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, FrameType

from .. import rules
from ..frames import callsite, chain
from ..model import Evidence, Finding, Site, function_of

THROUGH = "through"


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A glob of ``through`` that no file matches; is told like an allowance that covered nothing."""

    glob: str
    rules: tuple[str, ...] = ()
    reason: str = ""
    site: None = None

    def __str__(self) -> str:
        return f'through = ["{self.glob}"] matches no file'


class Plumbing:
    """The files that ``through`` names, by globs that are relative to the project's root."""

    def __init__(self, globs: Iterable[str], root: str) -> None:
        self._globs = tuple(globs)
        self._root = root
        self._patterns = [re.compile(_pattern(os.path.join(root, glob))) for glob in self._globs]
        self._known: dict[str, bool] = {}

    def __call__(self, site: Site) -> bool:
        """Whether a place is in such a file."""
        if not self._patterns:
            return False
        found = self._known.get(site.path)
        if found is None:
            path = os.path.abspath(site.path).replace(os.sep, "/")
            found = self._known[site.path] = any(pattern.fullmatch(path) for pattern in self._patterns)
        return found

    def unmatched(self) -> list[Unmatched]:
        """The globs that match no file at all."""
        return [Unmatched(glob) for glob in self._globs if not _exists(self._root, glob)]


def _exists(root: str, glob: str) -> bool:
    try:
        return any(Path(root).glob(glob))
    except (OSError, ValueError, NotImplementedError):  # an absolute one
        return os.path.exists(glob)


def _pattern(glob: str) -> str:
    """A glob as a regular expression: ``*`` and ``?`` within a folder, ``**`` over several."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob.replace(os.sep, "/"))
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(meaning.get(part, re.escape(part)) for part in parts)


def place(finding: Finding, plumbing: Plumbing, frame: FrameType | None, handler: object) -> None:
    """Complete a finding that was made just now, at or inside ``frame`` (None where the stack is anybody's).

    ``handler``: the function of the user's that a framework runs the finding's unit for.
    """
    site = finding.site
    if site is None:
        return
    frames = _chain(site, frame)
    outermost = _entry(handler)
    if outermost is not None and not any(outer.name == outermost.name for outer in frames):
        frames = (*(frames or (site,))[: chain.LIMIT - 1], outermost)
    finding.chain = frames
    outside = next((outer for outer in frames if not plumbing(outer)), site)
    evidence = tuple(_marked(item, plumbing) for item in finding.evidence)
    if outside is not site and plumbing(site):
        finding.site = outside
        evidence = (Evidence(THROUGH, site), *evidence)
    finding.evidence = evidence
    finding.changes = _changes(finding, plumbing)


def _chain(site: Site, frame: FrameType | None) -> tuple[Site, ...]:
    frames = chain.outwards(site, frame) if frame is not None else ()
    if not frames and site.callers:
        frames = (site, *(caller.resolve() for caller in site.callers))
    return frames


def _entry(handler: object) -> Site | None:
    """Where a function of the user's begins, under whatever decorators."""
    function = inspect.unwrap(handler) if callable(handler) else None
    function = getattr(function, "__func__", function)
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None or not callsite.is_users(code, getattr(function, "__globals__", {})):
        return None
    return Site(code.co_filename, code.co_firstlineno, function_of(code))


def _marked(item: Evidence, plumbing: Plumbing) -> Evidence:
    if item.site is None or not plumbing(item.site):
        return item
    return replace(item, note=f"{item.note}, {THROUGH}" if item.note else THROUGH)


def _changes(finding: Finding, plumbing: Plumbing) -> Site | None:
    """What has to change: never plumbing, but the nearest caller outside of it, where that is known."""
    for label in rules.find(finding.rule).changes:
        for item in finding.evidence:
            if item.label == label and item.site is not None:
                around = (item.site, *(caller.resolve() for caller in item.site.callers))
                return next((outer for outer in around if not plumbing(outer)), None)
    return None
