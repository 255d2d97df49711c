"""Who calls whom, as far as names tell."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tree import Function


def argument_of(function: Function, argument: ast.arg, call: ast.Call) -> ast.expr | None:
    """The expression that a call hands over for a parameter."""
    for word in call.keywords:
        if word.arg == argument.arg:
            return word.value
    names = [each.arg for each in function.arguments]
    skip = 1 if function.is_method else 0
    position = names.index(argument.arg) - skip
    plain = not any(isinstance(each, ast.Starred) for each in call.args)
    return call.args[position] if plain and 0 <= position < len(call.args) else None
