"""``expire_on_commit`` left on for asyncio."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import config
from ..hands import literal, words
from ..tree import Function, dotted
from ..use import same
from ..values import Instance, Maker, Session
from ._base import Hit, Pattern, Scope

if TYPE_CHECKING:
    from ..use import Opening, Uses


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
    """Whether sessions of this maker that expire commit while an instance is held: True, or False where that is not
    seen; None where each of its sessions turns it off."""
    made = [each.session for each in _openings(scope) if _made_by(each.session, maker)]
    if made and all(each.expires is False for each in made):
        return None
    kept = _is_kept(scope, maker)
    for function in _functions(scope, kept):
        uses = scope.usage.of(function)
        for operation in uses.operations:
            session = operation.session
            known = isinstance(session.source, Maker) and session.source.place is not None
            here = kept and function.module is scope.function.module
            mine = session.expires is True and _made_by(session, maker) if known else here
            if operation.method == "commit" and session.asynchronous and mine and _holds(scope, uses, session):
                return True
    return False


def _holds(scope: Scope, uses: Uses, session: Session) -> bool:
    """Whether a name of the function is bound to an instance that the session has loaded or was given."""
    given = {ast.unparse(each) for one in uses.of(session) if one.method in ("add", "merge") for each in one.call.args}
    for name, bindings in uses.body.bindings.items():
        for binding in bindings:
            value = scope.inference.binding(binding, uses.function)
            if isinstance(value, Instance) and (name in given or (value.session and same(value.session, session))):
                return True
    return False


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
