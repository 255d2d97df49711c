"""The formats of a report: a file of this folder and a line of this table each.

A format's file has ``render(report) -> str``. It is imported when its format is asked for: a program that is run pays
for none of the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

from ..config import nearest
from ..model import ConfigError
from .report import Report
from .safe import text_file

Render = Callable[[Report], str]


class Format(NamedTuple):
    """One line of the table."""

    name: str
    help: str
    module: str  # of this folder
    recorded: bool = False  # shows what sessions did: `sessionwatch run` records that for it


FORMATS: tuple[Format, ...] = (
    Format("text", "for people", "text"),
    Format("json", "JSON Lines, one finding per line", "json_lines"),
    Format("sarif", "SARIF 2.1.0, for code scanning and editors", "sarif"),
    Format("github", "annotations and a job summary, for GitHub Actions", "github"),
    Format("gitlab", "GitLab's code quality report", "gitlab"),
    Format("patch", "the certain edits as a unified diff, for git apply", "patch"),
    Format("html", "one file for a browser, with a picture of the sessions", "html", recorded=True),
    Format("trace", "trace events, for Perfetto", "trace", recorded=True),
)
NAMES = tuple(item.name for item in FORMATS)
RECORDED = frozenset(item.name for item in FORMATS if item.recorded)


def find(name: str) -> Render:
    """What renders a report in the format ``name``. Raises `ConfigError` with the nearest valid name."""
    for item in FORMATS:
        if item.name == name:
            render: Render = importlib.import_module(f".{item.module}", __package__).render
            return render
    raise ConfigError(f"unknown format {name!r}: choose one of {', '.join(NAMES)}.{nearest(name, NAMES)}")


def split(argument: str) -> tuple[str, str]:
    """``FORMAT:FILE`` as format and file. Raises `ConfigError` for anything else."""
    name, colon, file = argument.partition(":")
    if not colon or not file:
        raise ConfigError(f"expected FORMAT:FILE, got {argument!r} (formats: {', '.join(NAMES)})")
    find(name)
    return name, file


def write(path: str, text: str) -> None:
    """Write a report to a file. Raises `ConfigError` if it can't be written."""
    try:
        with text_file(path) as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from error
