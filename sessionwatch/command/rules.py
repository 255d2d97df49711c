"""``sessionwatch rules`` and ``sessionwatch explain``: what is looked for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..model import MODES
from .tables import add_format, print_json, print_table

if TYPE_CHECKING:
    from .parser import Commands

RULES = """\
List the rules: whether each is a fault or advice, and its level in each mode.

  off     not looked for: nothing of SQLAlchemy is hooked for it
  log     reported, and the program goes on
  raise   an exception at the next safe point; under pytest, the test fails

In strict mode faults are raised and advice is logged. `sessionwatch config` shows the levels that apply here.
"""
RULES_EXAMPLES = """\
examples:
  sessionwatch rules
  sessionwatch rules --format json
  sessionwatch run --rules n-plus-one=off,detached-touch=log shop.py     for one run
  SESSIONWATCH_RULES=all=off,lost-writes=log python shop.py              one rule only

in pyproject.toml:
  [tool.sessionwatch.rules]
  n-plus-one = "raise"
"""
EXPLAIN = """\
Print the page of a rule, as Markdown: what it reports, why that matters, a faulty and a repaired program, when to allow
it; its levels, where it raises, and its settings. A finding's line `more:` names the page to read.
"""
EXPLAIN_EXAMPLES = """\
examples:
  sessionwatch explain lost-writes
  sessionwatch explain long-session | less

the names of the rules: sessionwatch rules
"""


def add(commands: Commands) -> None:
    """Add the two subcommands to the command."""
    text = "list the rules, and what each one is set to in each mode"
    parser = commands.add_parser("rules", help=text, description=RULES, epilog=RULES_EXAMPLES)
    add_format(parser)
    parser.set_defaults(command=_rules)
    text = "the page of one rule: what it reports, why, how to repair it"
    parser = commands.add_parser("explain", help=text, description=EXPLAIN, epilog=EXPLAIN_EXAMPLES)
    parser.add_argument("rule", metavar="RULE", help="its name, as in a finding's first line")
    parser.set_defaults(command=_explain)


def _rules(options: argparse.Namespace) -> int:
    from .. import rules

    rows = [
        {
            "rule": rule.slug,
            "severity": rule.severity,
            **{mode: rule.level_in(mode) for mode in MODES},
            "summary": rule.summary,
        }
        for rule in rules.ALL
    ]
    if options.format == "json":
        print_json(rows)
    else:
        print_table([list(rows[0]), *(list(row.values()) for row in rows)])
    return 0


def _explain(options: argparse.Namespace) -> int:
    from .. import rules

    print(rules.explain(options.rule), end="")
    return 0
