"""The parser of our command lines: a mistake is one line, with the nearest name."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn, TypeAlias

FAILED = 2  # the exit status of every mistake in how we are called

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # what each subcommand adds itself to


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating the usage."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **keywords})

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"sessionwatch: error: {message}\n(see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the base class does, but a subcommand tells its own unknown options: it knows the nearest name."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            names = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            first = unknown[0].partition("=")[0]
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{_nearest(first, names)}".rstrip("."))
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Private in argparse: where it looks whether a value is one of the choices."""
        if action.choices is not None and value not in action.choices:
            names = [str(name) for name in action.choices]
            what = (action.option_strings or [str(action.metavar or action.dest)])[0].lstrip("-").lower()
            self.error(f"unknown {what} {value!r}: choose one of {', '.join(names)}.{_nearest(str(value), names)}")


def _nearest(name: str, valid: Iterable[str]) -> str:
    from ..config import nearest

    return nearest(name, valid)
