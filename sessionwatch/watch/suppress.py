"""What covers findings: ``allow()`` blocks and decorators, inline comments, the baseline. Each gives a reason."""

from __future__ import annotations

import contextlib
import linecache
import re
import sys
import tokenize
from contextvars import Token

from .. import rules
from ..frames import callsite
from ..model import ConfigError, Evidence, Finding, Site
from ..record.allowances import Allowance, current, matching, parse_comment
from ..units.decorating import F, decorate
from .baseline import Baseline

_MEANT = re.compile(r"#\s*sessionwatch\s*:")  # how a comment begins that was meant to be one


class allow:  # noqa: N801 (reads as a verb in a with statement)
    """Allow findings of some rules: as a ``with`` or ``async with`` block, or as a decorator.

    ``reason`` is required and shown in the summary, where allowed findings are still counted. A
    session that is opened inside is covered for its whole life; a change to a detached instance is
    covered where it is made. Raises `sessionwatch.ConfigError` for an unknown rule or an empty reason.
    """

    def __init__(self, *slugs: str, reason: str) -> None:
        if not slugs:
            raise ConfigError("allow() needs at least one rule")
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigError(f"allow({slugs[0]!r}) needs a reason")
        for slug in slugs:
            rules.find(slug)
        place = callsite.site(sys._getframe(1))
        self._allowance = Allowance(slugs, reason.strip(), place.resolve() if place else None)
        self._tokens: list[Token[tuple[Allowance, ...]]] = []

    def __call__(self, function: F) -> F:
        return decorate(lambda: self, function)

    def __enter__(self) -> None:
        self._allowance = _remembered(self._allowance)
        self._tokens.append(current.set((*current.get(), self._allowance)))

    def __exit__(self, type_: object, value: object, traceback: object) -> None:
        token = self._tokens.pop()
        try:
            current.reset(token)
        except ValueError:  # left in another context than it was entered in
            current.set(tuple(item for item in current.get() if item is not self._allowance))

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, type_: object, value: object, traceback: object) -> None:
        self.__exit__(type_, value, traceback)


def allow_at(site: Site, *slugs: str, reason: str) -> allow:
    """`allow` in the name of another place than the one that calls: that of a test's marker."""
    block = allow(*slugs, reason=reason)
    block._allowance.site = site
    return block


def forget(site: Site) -> None:
    """What is allowed at a place was not put to the test: it is not unused, unless it is entered again."""
    for key, allowance in list(_entered.items()):
        if allowance.site == site and not allowance.hits:
            del _entered[key]


_entered: dict[tuple[Site | None, tuple[str, ...], str], Allowance] = {}
_ENTERED_LIMIT = 10_000  # a program that makes up its reasons must not fill memory


def _remembered(allowance: Allowance) -> Allowance:
    """The one that counts for all allowances of this place, with these rules and this reason."""
    key = allowance.site, allowance.rules, allowance.reason
    if key not in _entered and len(_entered) >= _ENTERED_LIMIT:
        return allowance
    return _entered.setdefault(key, allowance)


class Suppressions:
    """What covers a finding: a block that is active, the line's own comment, the baseline."""

    def __init__(self, baseline: str | None = None) -> None:
        self._baseline = Baseline(baseline)
        self._comments: dict[tuple[str, int], Allowance] = {}

    def cover(self, finding: Finding, allowances: tuple[Allowance, ...]) -> None:
        """Note why the finding is allowed, and whether the baseline knows it."""
        allowance = matching(finding.rule, allowances) or self._inline(finding)
        if allowance is not None:
            allowance.hits += 1
            finding.allowed = allowance.reason
        finding.known = finding in self._baseline

    def _inline(self, finding: Finding) -> Allowance | None:
        """The comment at the place, or where it happened in plumbing."""
        for site in dict.fromkeys((finding.site, *finding.chain[:1])):
            found = parse_comment(linecache.getline(site.path, site.line)) if site is not None else None
            if site is not None and found is not None and finding.rule in found[0] and found[1]:
                return self._comments.setdefault((site.path, site.line), Allowance(found[0], found[1], site))
        return None

    @staticmethod
    def mistake(finding: Finding) -> Evidence | None:
        """Why the comment at a finding that is not allowed allows nothing; None without one, or if it is in order."""
        site = finding.site
        line = linecache.getline(site.path, site.line) if site is not None else ""
        if not _MEANT.search(line):
            return None
        slugs, reason = parse_comment(line) or ((), "")
        why = f"write: # sessionwatch: allow {finding.rule} -- the reason" if not reason else ""
        try:
            for slug in slugs:
                rules.find(slug)
        except ConfigError as error:
            why = str(error)
        return Evidence("comment", site, note=f"allows nothing; {why}") if why else None

    def used(self) -> list[Allowance]:
        """Allowances that covered a finding."""
        return [item for item in (*_entered.values(), *self._comments.values()) if item.hits]

    def unused(self) -> list[Allowance]:
        """Allowances that matched nothing: entered blocks, and comments in files that ran."""
        blocks: dict[object, Allowance] = {}
        for allowance in list(_entered.values()):
            kept = blocks.setdefault((allowance.site, allowance.rules), allowance)
            kept.hits = max(kept.hits, allowance.hits)
        comments = [item for path in sorted(callsite.user_files()) for item in comments_in(path)]
        used = {place for place, item in self._comments.items() if item.hits}
        return [item for item in blocks.values() if not item.hits] + [
            item for item in comments if item.site and (item.site.path, item.site.line) not in used
        ]


def comments_in(path: str) -> list[Allowance]:
    """Every inline allowance of a source file."""
    lines = linecache.getlines(path)
    if not any(parse_comment(line) for line in lines):
        return []
    found = []
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(iter(lines).__next__):
            if token.type == tokenize.COMMENT and (parsed := parse_comment(token.string)) is not None:
                found.append(Allowance(parsed[0], parsed[1], Site(path, token.start[0], "")))
    return found
