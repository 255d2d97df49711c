"""What a method of SQLAlchemy gives: of sessions, engines, queries, results, statements."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from . import statements
from .hands import as_session, literal, made, result_of, row, words
from .values import (
    Connection,
    Engine,
    Instance,
    Later,
    Maker,
    Manager,
    Many,
    Method,
    Query,
    Registry,
    Rows,
    Session,
    Statement,
    Stream,
    Value,
)
from .vocabulary import ALL, ONE

if TYPE_CHECKING:
    from .answers import Answers
    from .tree import Function

# -- methods ------------------------------------------------------------------------------------------------


def result(inference: Answers, method: Method, node: ast.Call, function: Function) -> Value | None:
    handler = _METHODS.get(type(method.owner))
    return handler(inference, method.owner, method.name, node, function) if handler is not None else None


def _of_session(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    session = as_session(owner)
    if session is None:
        return None
    if isinstance(owner, Registry) and name in ("remove", "configure"):
        return None
    found = _session_result(inference, session, name, node, function)
    plain = name in ("query", "begin", "begin_nested", "add", "add_all", "__enter__", "registry")
    return Later(found) if session.asynchronous and not plain and found is not None else found


def _session_result(
    inference: Answers, session: Session, name: str, node: ast.Call, function: Function
) -> Value | None:
    first = node.args[0] if node.args else None
    match name:
        case "query":
            return Query(session, statements.selected(inference, node.args, function))
        case "get" | "get_one":
            entity = first or words(node).get("entity")
            found = statements.entity(inference, entity, function)
            options = words(node).get("options")
            eager = statements.eager(inference, [options], function) if options is not None else frozenset[str]()
            return Instance(found, session, eager) if found is not None else None
        case "merge":
            merged = inference.value(first, function)
            return (
                replace(merged, session=session, eager=None, detached=False) if isinstance(merged, Instance) else None
            )
        case "execute" | "stream" | "scalars" | "stream_scalars" | "scalar" | "exec":
            statement = inference.value(first or words(node).get("statement"), function)
            statement = statement if isinstance(statement, Statement) else Statement("unknown", eager=None)
            rows = Rows(session, statement, name in ("scalars", "stream_scalars", "scalar", "exec"))
            return row(rows) if name == "scalar" else rows
        case "connection":
            return Connection(session.asynchronous, node, owned=True)
        case "begin" | "begin_nested":
            return Manager(None, session.asynchronous)
        case "run_sync":
            return result_of(inference, first, function)
        case "__enter__" | "__aenter__":
            return session
    return None


def _of_maker(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    if isinstance(owner, Maker) and name == "begin":
        return Manager(replace(made(inference, owner, node, function), begun=True), owner.asynchronous)
    return None


def _of_engine(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    if not isinstance(owner, Engine):
        return None
    if name == "connect":
        return Connection(owner.asynchronous, node, autocommit=owner.autocommit)
    if name == "begin":
        connection = Connection(owner.asynchronous, node, begun=True, autocommit=owner.autocommit)
        return Manager(connection, owner.asynchronous)
    if name == "execution_options":
        return replace(owner, autocommit=literal(words(node).get("isolation_level")) == "AUTOCOMMIT")
    return None


def _of_connection(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    if not isinstance(owner, Connection):
        return None
    if name == "execution_options":
        autocommit = literal(words(node).get("isolation_level")) == "AUTOCOMMIT"
        found = replace(owner, autocommit=autocommit or owner.autocommit)
        return Later(found) if owner.asynchronous else found
    if name in ("begin", "begin_nested"):
        return Manager(None, owner.asynchronous)
    return None


def _of_query(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    if not isinstance(owner, Query):
        return None
    if name in ONE:
        return row(owner)
    if name in ALL:
        element = row(owner)
        return Many(element) if element is not None else None
    if name in ("count", "exists", "delete", "update", "statement", "subquery", "cte", "with_entities", "add_columns"):
        return None
    return replace(owner, statement=statements.extended(inference, owner.statement, name, node, function))


def _of_statement(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    if not isinstance(owner, Statement) or name in ("subquery", "cte", "alias", "exists", "scalar_subquery"):
        return None
    return statements.extended(inference, owner, name, node, function)


def _of_rows(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    if not isinstance(owner, Rows):
        return None
    found: Value | None = None
    if name == "scalars":
        return replace(owner, scalars=True)
    if name == "unique":
        return owner
    if name in ONE:
        found = row(replace(owner, scalars=owner.scalars or name.startswith("scalar")))
    elif name in ALL:
        element = row(owner)
        found = Many(element) if element is not None else None
    return Later(found) if _streams(owner, node) and found is not None else found


def _streams(rows: Rows, node: ast.Call) -> bool:
    """``(await session.stream(...)).all()`` has to be awaited once more; `Await` sees through both."""
    return False if rows.session is None else rows.session.asynchronous and "stream" in ast.unparse(node.func)


def _of_many(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    return owner.of if isinstance(owner, Many) and name in ("pop", "first") else None


def _of_manager(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    if not isinstance(owner, Manager) or name not in ("__enter__", "__aenter__"):
        return None
    found = inference.entered(owner, node)
    return Later(found) if name == "__aenter__" else found


def _of_stream(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    if not isinstance(owner, Stream) or name not in ("__next__", "__anext__", "send", "asend"):
        return None
    found = replace(owner.of, origin=node) if isinstance(owner.of, Session) else owner.of
    return Later(found) if "a" in name.strip("_")[:1] else found


_METHODS: dict[type, Callable[[Answers, Value, str, ast.Call, Function], Value | None]] = {
    Session: _of_session,
    Registry: _of_session,
    Maker: _of_maker,
    Engine: _of_engine,
    Connection: _of_connection,
    Query: _of_query,
    Statement: _of_statement,
    Rows: _of_rows,
    Many: _of_many,
    Manager: _of_manager,
    Stream: _of_stream,
}
