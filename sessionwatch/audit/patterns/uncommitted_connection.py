"""``engine.connect()`` that writes without a commit."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import lost_writes
from .. import statements
from ..values import Connection, Statement
from ._base import Hit, Pattern, Scope, is_always_raised

if TYPE_CHECKING:
    from ..use import Operation

_SETTLED = frozenset({"commit", "rollback", "begin", "begin_nested", "begin_twophase", "get_transaction"})


def find(scope: Scope) -> Iterator[Hit]:
    """Connections of this function that run INSERT, UPDATE, DELETE or DDL and are left without a commit."""
    by_origin: dict[int, list[Operation]] = {}
    for operation in scope.uses.connections:
        by_origin.setdefault(id(operation.session.origin), []).append(operation)
    for operations in by_origin.values():
        connection = _connection(scope, operations[0])
        if connection is None or _is_settled(scope, operations, connection):
            continue
        writes = [each for each in operations if each.writes]
        ddl = [each for each in operations if _is_ddl(scope, each)]
        last = (writes or ddl)[-1] if writes or ddl else None
        if last is not None and not is_always_raised(scope, last.step):
            what = "writes rows" if writes else "changes tables"
            certain = any(each.surely for each in writes)
            yield Hit(_line(connection, operations, last), f"a connection {what} and ends without commit()", certain)


def _connection(scope: Scope, operation: Operation) -> Connection | None:
    func = operation.call.func
    value = scope.value(func.value) if isinstance(func, ast.Attribute) else None
    return value if isinstance(value, Connection) else None


def _is_settled(scope: Scope, operations: list[Operation], connection: Connection) -> bool:
    if connection.begun or connection.autocommit or connection.owned:
        return True
    if any(each.method in _SETTLED or _sets_autocommit(each) for each in operations):
        return True
    for step in scope.body.calls:  # handed on: others may commit
        for argument in step.node.args if isinstance(step.node, ast.Call) else ():
            value = scope.value(argument) if isinstance(argument, ast.Name) else None
            if isinstance(value, Connection) and value.origin is connection.origin:
                return True
    returned = [scope.value(getattr(step.node, "value", None)) for step in (*scope.body.returns, *scope.body.yields)]
    return any(isinstance(each, Connection) and each.origin is connection.origin for each in returned)


def _sets_autocommit(operation: Operation) -> bool:
    return operation.method == "execution_options" and "AUTOCOMMIT" in ast.unparse(operation.call)


def _is_ddl(scope: Scope, operation: Operation) -> bool:
    if operation.method not in ("execute", "exec_driver_sql") or not operation.call.args:
        return False
    first = operation.call.args[0]
    value = scope.value(first)
    if isinstance(value, Statement):
        return value.verb == "ddl"
    return operation.method == "exec_driver_sql" and statements.verb_of(first) == "ddl"


def _line(connection: Connection, operations: list[Operation], last: Operation) -> int:
    origin = connection.origin
    closing = [each.line for each in operations if each.method == "close"]
    if isinstance(origin, ast.Call) and not closing:
        return origin.lineno
    return closing[-1] if closing else last.line


PATTERN = Pattern("uncommitted-connection", "engine.connect() that writes without commit", lost_writes.RULE, find)
