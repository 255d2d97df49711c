"""What an audit has in common with an earlier one, and with the findings of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..model import ConfigError
from ..output import records
from .result import SCHEMA, Audit, Entry


@dataclass(slots=True)
class Changes:
    """Since an earlier audit: what went, what came, and how many stayed."""

    earlier: str
    gone: list[Entry] = field(default_factory=list)
    new: list[Entry] = field(default_factory=list)
    stayed: int = 0
    operations: int = 0  # the difference
    legacy_queries: int = 0
    sync_in_async: int = 0


def since(audit: Audit, path: str) -> Changes:
    """Compare with an audit that ``--format json`` has written. Raises `ConfigError` for anything else.

    Entries are matched by anti-pattern, file, function and message, so that lines may move.
    """
    earlier = _read(path)
    before = [_entry(each) for each in earlier.anti_patterns if each.get("allowed") is None]
    now = [each for each in audit.entries if each.counts]
    gone, new = _rest(before, now), _rest(now, before)
    totals, old = audit.totals(), earlier.totals
    names = ("operations", "legacy_queries", "sync_in_async")
    differences = {name: totals[name] - int(old.get(name, 0)) for name in names}
    return Changes(path, gone, new, len(now) - len(new), **differences)


def _rest(items: Iterable[Entry], others: Iterable[Entry]) -> list[Entry]:
    """Those of ``items`` that ``others`` does not have, one for one."""
    left = Counter(each.key for each in others)
    found = []
    for each in items:
        if left[each.key]:
            left[each.key] -= 1
        else:
            found.append(each)
    return found


@dataclass(slots=True)
class _Earlier:
    anti_patterns: list[dict[str, str]]
    totals: dict[str, int]


def _read(path: str) -> _Earlier:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or not {"anti_patterns", "totals", "schema"} <= found.keys():
        raise ConfigError(f"{path} is no audit: write one with `sessionwatch audit PATH --format json`")
    if found["schema"] != SCHEMA:
        raise ConfigError(f"{path} has schema {found['schema']!r}; this version reads {SCHEMA}")
    return _Earlier(found["anti_patterns"], found["totals"])


def _entry(record: Mapping[str, str]) -> Entry:
    return Entry(
        record["pattern"],
        record["rule"],
        record["path"],
        int(record["line"]),
        record["function"],
        record["confidence"],
        record["message"],
    )


def mark_seen(audit: Audit, path: str) -> int:
    """Note which entries a run has met, by the JSON Lines that it wrote; how many it has.

    A finding is the same where it has the rule and one of its places: the line, or the function of its own place.
    """
    try:
        found = records.read(path)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    lines: set[tuple[str, str, int]] = set()
    functions: set[tuple[str, str, str]] = set()
    for record in found:
        for path_, line in _places(record):
            lines.add((record["rule"], path_, line))
        functions.add((record["rule"], record.get("path") or "", record.get("function") or ""))
    for entry in audit.entries:
        by_line = (entry.rule, entry.path, entry.line) in lines
        entry.seen = by_line or (entry.rule, entry.path, entry.function) in functions
    return sum(bool(entry.seen) for entry in audit.entries)


def _places(record: records.Record) -> Iterator[tuple[str, int]]:
    """A finding's own place, its evidence's, and its callers'."""
    places: list[Mapping[str, object]] = [record]
    for part in (record.get("evidence"), record.get("chain")):
        places += part if isinstance(part, list) else []
    for place in places:
        path, line = place.get("path"), place.get("line")
        if isinstance(path, str) and isinstance(line, int):
            yield path, line
