"""``sessionwatch baseline``: findings that a code base is known to have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..model import MODES, ConfigError, project_path, project_root, shown_path
from .tables import print_table, read_findings

if TYPE_CHECKING:
    from .parser import Commands

BASELINE = """\
Keep the findings that a code base is known to have in a file, so that only new ones count.

  sessionwatch run --format json --output findings.jsonl shop.py
  sessionwatch baseline update findings.jsonl      take these findings as known
  pytest --sessionwatch-update-baseline            the same with those of the tests
  sessionwatch baseline show                       list them
  sessionwatch baseline prune findings.jsonl       drop those that no longer happen

It is in use where it is configured: `baseline` below [tool.sessionwatch] in pyproject.toml, SESSIONWATCH_BASELINE, or
sessionwatch_baseline in the pytest configuration. A finding is known by its rule, subject, file and function, by the
nearest caller in another file, and by the unit (the route, the task): a new caller of a helper is a new finding,
another one of the same kind on the same path is known, too. It does not matter in which folder of the project one
starts.
prune keeps what is known of rules that were off in the mode of the run. What depends on time, as how long a transaction
lasts, is not taken without --timed.
"""


def add(commands: Commands) -> None:
    """Add the subcommand to the command."""
    parser = commands.add_parser("baseline", help="findings that are known", description=BASELINE)
    parser.add_argument("action", choices=("update", "show", "prune"))
    parser.add_argument("findings", metavar="FINDINGS.jsonl", nargs="?", help="needed by update and prune")
    parser.add_argument("--baseline", metavar="FILE", help="default: as configured, else sessionwatch-baseline.json")
    parser.add_argument("--timed", action="store_true", help="take findings that depend on time as well")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from .. import config, rules
    from ..output.store import Store
    from ..watch import baseline

    settings = config.load(rules.ALL)
    path = options.baseline or settings.baseline or shown_path(os.path.join(settings.root, baseline.DEFAULT))
    known = baseline.read(path)
    if options.action == "show" and not known:
        print(baseline.notice(path) or f"{path} has no findings in it")
        return 0
    if options.action == "show":
        print_table([["rule", "place", "subject"], *(_row(entry) for entry in known.values())])
        return 0
    if options.findings is None:
        raise ConfigError(f"baseline {options.action} needs FINDINGS.jsonl, as `run --format json` writes it")
    records = read_findings(options.findings)
    told: list[str] = []
    with project_root(settings.root):
        found = [seen.finding for seen in Store.of(records)]
        old = {finding.old_fingerprint for finding in found}
    entries: list[Mapping[str, Any]]
    if options.action == "update":
        with project_root(settings.root):
            taken = [finding for finding in found if finding.allowed is None]
            entries = list(baseline.merged(known.values(), taken, options.timed))
    else:
        levels = {mode: config.load(rules.ALL, keywords={"mode": mode}).levels for mode in MODES}
        kept, told = baseline.prune(known.values(), records, levels, settings.mode, old)
        entries = list(kept)
    print(f"{path}: {baseline.write(path, entries)} known findings (before: {len(known)})")
    for line in told:
        print(line)
    if settings.baseline is None and not baseline.named_by_pytest(os.getcwd(), settings.root):
        with project_root(settings.root):
            line = f'baseline = "{project_path(path)}"'
        print(f"not in use yet; for that, add to pyproject.toml, below [tool.sessionwatch]: {line}")
    return 0


def _row(entry: dict[str, Any]) -> list[str]:
    place = f"{entry['path'] or 'unknown place'} in {entry['function'] or '?'}"
    place += f" < {entry['caller']}" if entry["caller"] else ""
    return [entry["rule"] or "?", place, entry["subject"] or "?"]
