"""What subcommands read and print."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..model import ConfigError
from ..output.escape import visible

if TYPE_CHECKING:
    from ..output.records import Record


def read_findings(path: str) -> list[Record]:
    """The findings of a file that ``run --format json`` has written. Raises `ConfigError` if it can't be read."""
    from ..output import records

    try:
        found = records.read(path)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    records.check(found, path)
    return found


def add_format(parser: argparse.ArgumentParser) -> None:
    """Give a subcommand its ``--format`` of two."""
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for people, or for tools")


def print_json(value: object) -> None:
    """Print a value, for programs to read."""
    import json

    print(json.dumps(value, indent=2))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, the first one being their heads."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
