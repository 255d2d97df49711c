"""A session that a function opens and that nobody closes: its connection goes back when the collector comes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import session_leak
from ..body import may_follow
from ..tree import dotted
from ..use import same
from ._base import Hit, Pattern, Scope, ends

if TYPE_CHECKING:
    from ..use import Opening

_GIVES_BACK = ("commit", "rollback", "close", "reset", "invalidate", "remove", "close_all")


def find(scope: Scope) -> Iterator[Hit]:
    """Sessions that a function made, worked with, and dropped in a transaction."""
    if not scope.function.is_def or scope.body.is_generator:
        return
    for opening in scope.uses.openings:
        if opening.item is not None or opening.session.how != "call" or _is_somebody_elses(scope, opening):
            continue
        mine = scope.uses.of(opening.session)
        work = [each for each in mine if each.io and each.method not in _GIVES_BACK]
        given = [each.step for each in scope.uses.handed if same(each.session, opening.session)]
        last = max((*(each.step for each in work), *given), key=lambda step: step.order, default=None)
        if last is None or any(each.method in _GIVES_BACK and may_follow(last, each.step) for each in mine):
            continue
        if not ends(scope, opening):
            yield Hit(opening.line, "a session is opened and never closed", opening.session.sure)


def _is_somebody_elses(scope: Scope, opening: Opening) -> bool:
    """Whether it is returned, kept, entered later, used by a function inside, or given to code that may close it."""
    session = opening.session
    if scope.uses.escaped(session) or not (session.made or session.provider is not None):
        return True
    if isinstance(opening.step.parent, ast.Call) or _all_are_closed(scope):
        return True
    for step in scope.body.withs:
        if isinstance(step.node, ast.withitem):
            value = scope.inference.entered(scope.value(step.node.context_expr), step.node.context_expr)
            if getattr(value, "origin", None) in (session.origin, step.node.context_expr):
                name = ast.unparse(step.node.context_expr)
                if name in scope.body.bindings or "closing" in name:
                    return True
    for handing in scope.uses.handed:
        if same(handing.session, session):
            effects = scope.usage.given(handing)
            if effects.unknown or effects.closes or effects.commits or effects.rolls_back:
                return True
    inner = (scope.usage.of(each) for each in scope.function.inner.values())
    return any(same(each.session, session) for uses in inner for each in uses.operations)


def _all_are_closed(scope: Scope) -> bool:
    """By ``close_all_sessions()``."""
    calls = [each.node for each in scope.body.calls if isinstance(each.node, ast.Call)]
    return any((dotted(each.func) or "").endswith(("close_all_sessions", "close_all")) for each in calls)


PATTERN = Pattern("never-closed", "a session that nobody closes", session_leak.RULE, find)
