"""Values that change hands, and small questions about calls."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING

from .body import Binding, Body, Step, within
from .tree import Function, dotted
from .values import (
    Connection,
    FunctionValue,
    Instance,
    Maker,
    Many,
    Pair,
    Query,
    Registry,
    Rows,
    Session,
    Value,
)

if TYPE_CHECKING:
    from .answers import Answers


def words(node: ast.Call) -> dict[str, ast.expr]:
    """The keyword arguments."""
    return {word.arg: word.value for word in node.keywords if word.arg is not None}


def literal(node: ast.expr | None) -> object:
    """The value of a constant; ``...`` for everything else."""
    return node.value if isinstance(node, ast.Constant) else ...


def expiring(inference: Answers, node: ast.Call, function: Function) -> bool | None:
    """Whether a sessionmaker's sessions expire at commit; None where its arguments are not all known."""
    given = words(node)
    if "expire_on_commit" in given:
        told = literal(given["expire_on_commit"])
        return told if isinstance(told, bool) else None
    return None if any(word.arg is None for word in node.keywords) else True


def made(inference: Answers, maker: Maker, node: ast.Call, function: Function) -> Session:
    told = expiring(inference, node, function) if "expire_on_commit" in words(node) else maker.expires
    told = None if any(word.arg is None for word in node.keywords) else told
    bound = inference.value(words(node).get("bind"), function)
    return Session(
        maker.asynchronous,
        node,
        "joined" if isinstance(bound, Connection) else "call",
        told,
        sure=maker.sure,
        made=True,
        source=maker,
    )


def result_of(inference: Answers, node: ast.expr | None, function: Function) -> Value | None:
    target = inference.value(node, function)
    return inference.returned(target.function) if isinstance(target, FunctionValue) else None


def as_session(value: Value | None) -> Session | None:
    """The session, also where a registry stands for it."""
    if isinstance(value, Registry):
        return Session(value.asynchronous, value.place, "registry", source=value)
    return value if isinstance(value, Session) else None


def row(rows: Value | None) -> Value | None:
    """One result of a query: an instance, or a row whose first value is one."""
    if not isinstance(rows, Rows | Query) or rows.statement.model is None:
        return None
    one = Instance(rows.statement.model, rows.session, rows.statement.eager)
    return one if isinstance(rows, Query) or rows.scalars else Pair((one,))


# -- values that change hands -------------------------------------------------------------------------------


def as_parameter(value: Value | None, argument: ast.arg) -> Value | None:
    """What a function was given is nobody's to close here."""
    if isinstance(value, Session):
        kept = value.how if value.how == "depends" else "parameter"
        return replace(value, origin=argument, how=kept)
    if isinstance(value, Connection):
        return replace(value, origin=argument, owned=True)
    return replace(value, how="parameter") if isinstance(value, Instance) else value


def as_global(value: Value, binding: Binding) -> Value:
    """A session that a module keeps."""
    if isinstance(value, Session) and binding.how == "value" and value.how in ("call", "with"):
        return replace(value, how="global")
    return value


def handed_out(value: Value | None, node: ast.Call, function: Function | None) -> Value | None:
    """What a function returned, seen by its caller: a session that it opened is the caller's now."""
    if isinstance(value, Session) and value.how in ("call", "with", "unknown"):
        return replace(value, origin=node, how="call", provider=function)
    if isinstance(value, Session) and value.how == "parameter":
        return replace(value, origin=node, how="passed")
    return value


def leaving(inference: Answers, value: Value, step: Step, body: Body) -> Value:
    """An instance that leaves the function whose session loaded it, and is closed there, is detached."""
    if isinstance(value, Many) and isinstance(value.of, Instance):
        inner = leaving(inference, value.of, step, body)
        return Many(inner)
    if not isinstance(value, Instance) or value.session is None or value.session.how != "with":
        return value
    origin = value.session.origin
    for each in body.withs:
        item = each.node
        if isinstance(item, ast.withitem) and item.context_expr is origin and within(step.context, item):
            return replace(value, detached=isinstance(step.node, ast.Return), expired=_committed(body, step, item))
    return value


def _committed(body: Body, step: Step, item: ast.withitem) -> bool:
    """Whether the block commits before it is left here."""
    if not isinstance(item.optional_vars, ast.Name):
        return False
    name = f"{item.optional_vars.id}.commit"
    return any(
        isinstance(call.node, ast.Call) and dotted(call.node.func) == name and call.order < step.order
        for call in body.calls
    )
