"""``expire_on_commit`` left on for asyncio."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import config
from ..calls import literal, words
from ..tree import dotted
from ..values import Maker
from ._base import Hit, Pattern, Scope


def find(scope: Scope) -> Iterator[Hit]:
    """Makers of AsyncSessions that do not turn it off."""
    for step in scope.body.calls:
        call = step.node
        value = scope.value(call) if isinstance(call, ast.Call) else None
        if (
            not isinstance(value, Maker)
            or value.place is not call
            or not value.asynchronous
            or value.expires is not True
        ):
            continue
        if isinstance(call, ast.Call) and not _is_configured(scope, call):
            yield Hit(step.line, "an async sessionmaker expires what it commits: pass expire_on_commit=False")


def _is_configured(scope: Scope, maker: ast.Call) -> bool:
    """Whether ``Name.configure(expire_on_commit=False)`` follows, in this module."""
    names = {name for name, bindings in scope.body.bindings.items() if any(each.expr is maker for each in bindings)}
    names |= {
        dotted(target) or ""
        for function, node in scope.function.module.assignments
        if node.value is maker and function is scope.function
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    for function in scope.function.module.functions:
        for step in scope.inference.body(function).calls:
            call = step.node
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "configure":
                if dotted(call.func.value) in names and literal(words(call).get("expire_on_commit")) is False:
                    return True
    return False


PATTERN = Pattern("expiring-async", "expire_on_commit left on for asyncio", config.RULE, find)
