"""A sync session or connection that goes to the database inside ``async def``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import blocking_io
from ..values import FunctionValue, Session
from ._base import Hit, Pattern, Scope

if TYPE_CHECKING:
    from ..tree import Function
    from ..use import Usage

_CONNECTION_IO = frozenset({"execute", "scalar", "scalars", "commit", "rollback", "exec_driver_sql", "stream"})
_DEPTH = 3  # calls from the coroutine to the statement


def find(scope: Scope) -> Iterator[Hit]:
    """Statements of sync sessions and connections, here or in a sync function that is called here."""
    if not scope.function.is_async:
        return
    for operation in scope.uses.operations:
        if operation.io and not operation.session.asynchronous and not operation.step.awaited:
            what = operation.method.replace("query.", "query(...).")
            yield Hit(operation.line, f"{what}() of a sync session holds up the event loop", operation.session.sure)
    for operation in scope.uses.connections:
        if operation.method in _CONNECTION_IO and not operation.session.asynchronous and not operation.step.awaited:
            yield Hit(operation.line, f"{operation.method}() of a sync connection holds up the event loop")
    for step in scope.body.calls:
        target = scope.value(step.node.func) if isinstance(step.node, ast.Call) and not step.awaited else None
        if isinstance(target, FunctionValue) and _blocks(scope.usage, target.function, _DEPTH, frozenset()):
            name = target.function.name.rpartition(".")[2]
            text = f"{name}() works with a sync session and holds up the event loop"
            yield Hit(step.line, text, _is_sure(scope.usage, target.function))


def _blocks(usage: Usage, function: Function, depth: int, seen: frozenset[Function]) -> bool:
    """Whether a sync function, or one that it calls, runs a statement of a sync session."""
    if depth == 0 or function in seen or function.is_async or usage.inference.body(function).is_generator:
        return False
    uses = usage.of(function)
    if any(_is_sync_io(each.session, each.io) for each in uses.operations):
        return True
    for step in uses.body.calls:
        if isinstance(step.node, ast.Call):
            target = usage.inference.value(step.node.func, function)
            if isinstance(target, FunctionValue) and _blocks(usage, target.function, depth - 1, seen | {function}):
                return True
    return False


def _is_sync_io(session: Session, io: bool) -> bool:
    return io and not session.asynchronous


def _is_sure(usage: Usage, function: Function) -> bool:
    """Certain where the called function itself runs the statement, by a session that is no guess."""
    return any(_is_sync_io(each.session, each.io) and each.session.sure for each in usage.of(function).operations)


PATTERN = Pattern("sync-in-async", "a sync session inside async def", blocking_io.RULE, find)
