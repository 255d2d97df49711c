"""The baseline: findings that a code base is known to have, so that only new ones count.

A JSON file, sorted, one finding a line, made to be committed and reviewed. A finding is recognised by
its fingerprint, which has no line number in it: the baseline survives edits above a place. Who called is a part
of it: what a helper loses for one caller is known of that caller only.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import rules
from ..model import MODES, ConfigError, Finding, Level, Mode, project_root
from ..output.safe import read_regular, replace_file

if TYPE_CHECKING:
    from ..config import Config
    from ..model import Rule

FIELDS = ("fingerprint", "rule", "subject", "path", "function", "caller", "unit")
DEFAULT = "sessionwatch-baseline.json"

# where pytest looks for its configuration
_PYTESTS = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")

Entry = dict[str, Any]


def entry(finding: Finding) -> Entry:
    """What the baseline keeps of a finding; its path is seen from the project's root."""
    caller = finding.caller
    return {
        "fingerprint": finding.fingerprint,
        "rule": finding.rule,
        "subject": finding.subject,
        "path": finding.site.project_path if finding.site else None,
        "function": finding.function,
        "caller": f"{caller.project_path} in {caller.function}" if caller is not None else "",
        "unit": finding.unit,
    }


class Baseline:
    """The findings that a file knows. One of schema 1 knows them by their places alone, until it is updated."""

    def __init__(self, path: str | None) -> None:
        entries = read(path) if path else {}
        self._old = frozenset(key for key, item in entries.items() if is_old(item))
        self._known = frozenset(entries)

    def __contains__(self, finding: Finding) -> bool:
        if finding.fingerprint in self._known:
            return True
        return bool(self._old) and finding.old_fingerprint in self._old


def is_old(item: Entry) -> bool:
    """Whether an entry is of schema 1, which did not know who called."""
    return item["caller"] is None


def merged(known: Iterable[Entry], found: Iterable[Finding], timed: bool = False) -> list[Entry]:
    """What an update writes: what is known, and what was found; a finding of today takes the place of its old entry.

    What depends on time, as how long a transaction lasts, is left out unless ``timed``.
    """
    taken = [item for item in found if timed or not rules.find(item.rule).timed]
    replaced = {item.old_fingerprint for item in taken}
    kept = [item for item in known if not (is_old(item) and item["fingerprint"] in replaced)]
    return [*kept, *map(entry, taken)]


def read(path: str) -> dict[str, Entry]:
    """The entries of a baseline file by fingerprint; none if the file does not exist yet.

    Raises `sessionwatch.ConfigError` if it can't be read or is no baseline.
    """
    try:
        data: Any = json.loads(read_regular(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"baseline {path} can't be read: {why}") from error
    items = data.get("findings") if isinstance(data, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) and "fingerprint" in item for item in items):
        raise ConfigError(f"baseline {path} can't be read: it is not a baseline of sessionwatch")
    return {str(item["fingerprint"]): {**dict.fromkeys(FIELDS), **item} for item in items}


def notice(path: str | None) -> str | None:
    """What to say of a baseline that is configured and is not there, or is old; its name may have been mistyped."""
    old = False
    if path is None:
        return None
    if not os.path.exists(path):
        return f"the baseline {path} does not exist yet: no finding is known by it"
    with contextlib.suppress(ConfigError):  # told by whoever needs it
        old = any(map(is_old, read(path).values()))
    if old:
        return (
            f"the baseline {path} was written by an older version, which did not know who called: "
            "it matches by place alone until the next update"
        )
    return None


def named_by_pytest(folder: str, root: str) -> bool:
    """Whether pytest's configuration names a baseline, in ``folder`` or above it, up to ``root``."""
    folders = itertools.takewhile(lambda above: above.is_relative_to(root), (Path(folder), *Path(folder).parents))
    return any(_mentions(above / name, "sessionwatch_baseline") for above in folders for name in _PYTESTS)


def _mentions(path: Path, word: str) -> bool:
    try:
        return word in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def prune(
    known: Iterable[Entry],
    records: Sequence[Mapping[str, Any]],
    levels: Mapping[Mode, Mapping[str, Level]],
    configured: Mode,
    old: Container[str] = (),
) -> tuple[list[Entry], list[str]]:
    """The entries that stay, and what to say of those that stay though nothing among ``records`` is theirs.

    Their rules were off: by ``levels``, the configuration mode by mode, none of the records' modes has them on.
    Without records, it is the ``configured`` mode that counts. ``old``: the records' fingerprints of schema 1.
    """
    found, told = ({record[name] for record in records} for name in ("fingerprint", "rule"))
    modes = [mode for mode in MODES if mode in {record.get("mode") for record in records}] or [configured]
    kept: list[Entry] = []
    off: dict[tuple[Mode, ...], list[str]] = {}  # a rule an entry, by the modes that have it on
    for item in known:
        slug = item["rule"]
        on = tuple(mode for mode in MODES if levels[mode].get(slug, "off") != "off")
        if item["fingerprint"] in found or (is_old(item) and item["fingerprint"] in old):
            kept.append(item)
        elif slug in levels[configured] and slug not in told and not set(on).intersection(modes):
            kept.append(item)
            off.setdefault(on, []).append(slug)
    way = (
        "prune them with a file of a run in"
        if records
        else "the file is empty: set SESSIONWATCH_MODE if its run was in"
    )
    return kept, [_why(slugs, modes, f"{way} {' or '.join(on)}" if on else "") for on, slugs in off.items()]


def absent(config: Config, findings: Sequence[Finding]) -> list[Entry]:
    """The entries of the baseline in use that nothing of a run matches: those that `prune` would drop."""
    known = read(config.baseline) if config.baseline else {}
    if not known:
        return []
    levels = {mode: {rule.slug: _level(config, rule, mode) for rule in rules.ALL} for mode in MODES}
    with project_root(config.root):
        records = [{"fingerprint": item.fingerprint, "rule": item.rule, "mode": item.mode} for item in findings]
        old = {item.old_fingerprint for item in findings}
    kept, _ = prune(known.values(), records, levels, config.mode, old)
    names = {item["fingerprint"] for item in kept}
    return [item for name, item in known.items() if name not in names]


def _level(config: Config, rule: Rule, mode: Mode) -> Level:
    """That of a rule in a mode which need not be the configuration's: what was set by hand is so in every mode."""
    slug = rule.slug
    by_default = config.origins[f"rules.{slug}"].startswith("default of mode")
    return rule.level_in(mode) if by_default and mode != config.mode else config.levels[slug]


def _why(slugs: list[str], modes: list[Mode], way: str) -> str:
    names = ", ".join(dict.fromkeys(slugs))
    if not way:
        return f"kept {len(slugs)} of rules that are switched off: {names}"
    return f"kept {len(slugs)} of rules that are off in mode {' and '.join(modes)}: {names} ({way})"


def write(path: str, entries: Iterable[Mapping[str, Any]]) -> int:
    """Write a baseline file; returns how many findings it has.

    Raises `sessionwatch.ConfigError` if it can't be written.
    """
    unique = {item["fingerprint"]: {name: item.get(name) for name in FIELDS} for item in entries}
    for item in unique.values():
        if is_old(item):  # stays so
            del item["caller"], item["unit"]
    order = sorted(unique.values(), key=lambda item: [str(item.get(name)) for name in ("rule", "path", "fingerprint")])
    lines = ",\n".join("  " + json.dumps(item) for item in order)
    text = f'{{"schema": 2, "findings": [\n{lines}\n]}}\n' if lines else '{"schema": 2, "findings": []}\n'
    try:
        replace_file(path, text)
    except OSError as error:
        raise ConfigError(f"baseline {path} can't be written: {error.strerror}") from error
    return len(order)
