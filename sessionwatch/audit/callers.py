"""Who calls whom, as far as names tell."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .tree import Function, Module


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


def calls_in(module: Module) -> Iterator[tuple[Function, ast.Call]]:
    for function in module.functions:
        for node in own_nodes(function.node):
            if isinstance(node, ast.Call):
                yield function, node


def own_nodes(root: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    waiting = list(ast.iter_child_nodes(root))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
