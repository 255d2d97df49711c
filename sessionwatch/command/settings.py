"""``sessionwatch config``: the configuration that applies, and every key that there is."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..model import ConfigError
from .keys import Key, keys
from .tables import print_json, print_table

if TYPE_CHECKING:
    from .parser import Commands

CONFIG = """\
Show the configuration that applies in this folder, and where each value comes from. A keyword argument of install()
comes before the environment, that before [tool.sessionwatch] in the nearest pyproject.toml, that before the default.

With --all: every key, what it takes, its default, its environment variable and what it is for.
"""
EXAMPLES = """\
examples:
  sessionwatch config                                      what applies here
  sessionwatch config --all                                everything that can be set
  sessionwatch config --all --format markdown              as tables, for a page
  SESSIONWATCH_MODE=strict sessionwatch config             what would apply with this variable

in pyproject.toml:
  [tool.sessionwatch]
  mode = "log"
  rules = { n-plus-one = "off" }
  settings = { long-session.seconds = 10 }

in the environment:
  SESSIONWATCH_RULES=n-plus-one=off SESSIONWATCH_SETTINGS=long-session.seconds=10 python shop.py
"""
_WIDTH = 100


def add(commands: Commands) -> None:
    """Add the subcommand to the command."""
    text = "the configuration that applies here, and where each value comes from"
    parser = commands.add_parser("config", help=text, description=CONFIG, epilog=EXAMPLES)
    parser.add_argument("--all", action="store_true", help="every key, with its default and its help")
    parser.add_argument(
        "--format",
        choices=("text", "json", "markdown"),
        default="text",
        help="for people, for tools, or (with --all) for a page",
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    if options.all:
        _print_all(options.format)
        return 0
    if options.format == "markdown":
        raise ConfigError("config --format markdown needs --all")
    from .. import config, rules
    from ..hooks.table import TABLE
    from ..watch.needs import Lacks

    effective = config.load(rules.ALL)
    Lacks(TABLE).switch_off(effective)
    plain = {name: getattr(effective, name) for name in ("mode", "output", "baseline", "source", "through")}
    values: dict[str, Any] = {
        **plain,
        **{f"rules.{slug}": level for slug, level in effective.levels.items()},
        **{f"settings.{name}": value for name, value in effective.settings.items()},
    }
    if options.format == "json":
        print_json({name: {"value": value, "from": effective.origins[name]} for name, value in values.items()})
    else:
        rows = [[name, _shown(value), effective.origins[name]] for name, value in values.items()]
        print_table([["name", "value", "from"], *rows])
    return 0


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


# -- every key --------------------------------------------------------------------------------------


def _print_all(form: str) -> None:
    if form == "json":
        print_json([key.as_json() for key in keys()])
    elif form == "markdown":
        print("\n".join(markdown()))
    else:
        print("\n".join(_text()))


def _text() -> Iterator[str]:
    """Two or more lines a key, none above 100 columns."""
    for key in keys():
        left = f"{key.name} = {_toml(key)}"
        right = f'{key.variable}="{key.example}"'
        yield f"{left:<45} {right}" if len(left) < 45 and len(right) <= _WIDTH - 46 else left
        if len(left) >= 45 or len(right) > _WIDTH - 46:
            yield f"    {right}"
        told = f"{key.takes}{_by_mode(key)}: {key.help}"
        yield from textwrap.wrap(told, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)


def _by_mode(key: Key) -> str:
    """The defaults of modes that differ from the one shown."""
    others = [f"{value} in mode {mode}" for mode, value in key.defaults.items() if value != key.default]
    return f" (default {', '.join(others)})" if others else ""


def _toml(key: Key) -> str:
    if key.default is None:
        return "(not set)"
    return f'"{key.default}"' if isinstance(key.default, str) else str(key.default).lower()


def markdown() -> Iterator[str]:
    """One table of all keys, a line each."""
    yield "| key | takes | default | environment | what it is for |"
    yield "|---|---|---|---|---|"
    for key in keys():
        default = f"`{_toml(key)}`" if key.default is not None else "not set"
        cells = [f"`{key.name}`", key.takes, f"{default}{_by_mode(key)}", f'`{key.variable}="{key.example}"`', key.help]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
