"""A ``rollback()`` in a function that was given its session: it takes what the caller wrote, too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import discarded_writes
from ..body import chain, within
from ..use import begun_blocks, same
from ._base import Hit, Pattern, Scope

if TYPE_CHECKING:
    from ..tree import Function
    from ..values import Session


def find(scope: Scope) -> Iterator[Hit]:
    """Rollbacks in handlers of functions that do not own the session and then return normally."""
    if scope.body.is_generator or scope.is_test:
        return
    for operation in scope.uses.operations:
        if operation.method != "rollback" or operation.session.how not in ("parameter", "attribute"):
            continue
        handler = next((each for each in chain(operation.step.context) if each.part == "handler"), None)
        tried = next((each.node for each in chain(operation.step.context) if each.part == "handlers"), None)
        if handler is None or tried is None or _raises(handler.node) or not _works(scope, tried, operation.session):
            continue
        owns = any(each.method == "commit" for each in scope.uses.of(operation.session))
        certain = any(_loses(scope, caller, call) for caller, call in scope.inference.callers(scope.function))
        if certain or not owns:
            who = "its caller has written before" if certain else "its caller may have written before"
            yield Hit(
                operation.line,
                f"rolls back a session that it was given and returns, and {who}",
                certain and operation.session.sure,
            )


def _raises(handler: ast.AST) -> bool:
    return any(isinstance(each, ast.Raise) for each in ast.walk(handler))


def _works(scope: Scope, tried: ast.AST, session: Session) -> bool:
    """Whether the try block works with the session."""
    direct = any(
        same(each.session, session) and within(each.step.context, tried, "try") for each in scope.uses.operations
    )
    return direct or any(
        same(each.session, session) and within(each.step.context, tried, "try") for each in scope.uses.handed
    )


def _loses(scope: Scope, caller: Function, call: ast.Call) -> bool:
    """Whether a caller wrote before this call, in the same session, and commits after it."""
    uses = scope.usage.of(caller)
    step = next((each for each in uses.body.calls if each.node is call), None)
    handed = next((each for each in uses.handed if each.call is call), None)
    if step is None or handed is None:
        return False
    mine = uses.of(handed.session)
    written = [each for each in mine if each.writes and each.step.order < step.order]
    last = max(
        (each.step.order for each in mine if each.method == "commit" and each.step.order < step.order), default=0
    )
    committed = any(each.method == "commit" and each.step.order > step.order for each in mine)
    committed = committed or handed.session.begun or bool(begun_blocks(uses, handed.session))
    return any(each.step.order > last for each in written) and committed


PATTERN = Pattern("helper-rollback", "a rollback() in a helper", discarded_writes.RULE, find)
