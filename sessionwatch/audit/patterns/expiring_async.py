"""``expire_on_commit`` left on for asyncio."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import config
from ..hands import literal, words
from ..tree import Function, dotted
from ..use import Opening
from ..values import Maker, Session
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
            told = _expiring(scope, value)
            if told is not None:
                yield Hit(step.line, "an async sessionmaker expires what it commits: pass expire_on_commit=False", told)


def _expiring(scope: Scope, maker: Maker) -> bool | None:
    """Whether sessions of this maker that expire do commit: True, or False for "nobody is seen to"; None where each of
    its sessions turns it off."""
    made = [each.session for each in _openings(scope) if _made_by(each.session, maker)]
    if made and all(each.expires is False for each in made):
        return None
    kept = _is_kept(scope, maker)
    for function in _functions(scope, kept):
        for operation in scope.usage.of(function).operations:
            session = operation.session
            known = isinstance(session.source, Maker) and session.source.place is not None
            mine = session.expires is True and _made_by(session, maker) if known else kept
            if operation.method == "commit" and session.asynchronous and mine:
                return True
    return any(each.begun and _writes(scope, each) for each in made)


def _writes(scope: Scope, session: Session) -> bool:
    return scope.usage.effects(scope.function, session).writes


def _openings(scope: Scope) -> list[Opening]:
    return [each for function in scope.function.module.functions for each in scope.usage.of(function).openings]


def _made_by(session: Session, maker: Maker) -> bool:
    return isinstance(session.source, Maker) and session.source.place is maker.place


def _is_kept(scope: Scope, maker: Maker) -> bool:
    """Whether others can get at it: it is a module's, in an attribute, returned, or handed to a call."""
    if not scope.function.is_def or any(node.value is maker.place for _, node in scope.function.module.assignments):
        return True
    handed = [each for step in scope.body.calls if isinstance(step.node, ast.Call) for each in step.node.args]
    handed += [each.node.value for each in scope.body.returns if isinstance(each.node, ast.Return) and each.node.value]
    values = (scope.value(each) for each in handed)
    return any(isinstance(each, Maker) and each.place is maker.place for each in values)


def _functions(scope: Scope, kept: bool) -> list[Function]:
    if not kept:
        return scope.function.module.functions
    return [each for module in scope.inference.tree.modules.values() for each in module.functions]


def _is_configured(scope: Scope, maker: ast.Call) -> bool:
    """Whether ``Name.configure(expire_on_commit=False)`` follows, in this module."""
    names = {name for name, bindings in scope.body.bindings.items() if any(each.expr is maker for each in bindings)}
    names |= {
        dotted(target) or ""
        for function, node in scope.function.module.assignments
        if node.value is maker and function is scope.function
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    bodies = (scope.inference.body(function) for function in scope.function.module.functions)
    calls = [step.node for body in bodies for step in body.calls if isinstance(step.node, ast.Call)]
    return any(
        isinstance(call.func, ast.Attribute)
        and call.func.attr == "configure"
        and dotted(call.func.value) in names
        and literal(words(call).get("expire_on_commit")) is False
        for call in calls
    )


PATTERN = Pattern("expiring-async", "expire_on_commit left on for asyncio", config.RULE, find)
