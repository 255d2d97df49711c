"""What only a name says: never sure, so nothing that rests on it is reported as certain."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from .values import External, Maker, Session, Value

if TYPE_CHECKING:
    from .answers import Answers
    from .body import Binding
    from .tree import Function

_SESSION = re.compile(r"_?(?:db_?|sql_?|orm_?|async_?|sa_?)*sess(?:ion)?_?", re.IGNORECASE)
_DB = re.compile(r"_?(?:async_?)?db")
_OTHERS = frozenset(
    {"requests", "aiohttp", "httpx", "boto3", "botocore", "aioboto3", "cassandra", "neo4j", "tensorflow"}
)
_MAKER = re.compile(r"_?(?:db|async)?_?session_?(?:local|maker|factory)", re.IGNORECASE)
# Methods that a session has, and HTTP sessions, caches and the like have not.
_TELLING = frozenset({"query", "commit", "rollback", "flush", "scalars", "scalar", "add_all", "expunge", "merge"})
_TELLING |= {"refresh", "begin_nested", "expunge_all", "get_one"}


def named(inference: Answers, name: str, function: Function, order: float) -> Value | None:
    """A variable that is called like a session and has methods called that a session has."""
    likely = _SESSION.fullmatch(name) or (_DB.fullmatch(name) and _mentions_sqlalchemy(function))
    if not likely or not _mentions_sqlalchemy(function):
        return None
    body = inference.body(function)
    bindings = [each for each in body.bindings[name] if each.order < order] or body.bindings[name]
    told = False
    awaited = False
    for step in body.calls:
        called = step.node.func if isinstance(step.node, ast.Call) else None
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == name:
            told = told or called.attr in _TELLING
            awaited = awaited or step.awaited
    if _is_something_else(inference, bindings[-1], function):
        return None
    if not told or bindings[-1].how not in ("argument", "entered", "value", "element"):
        return None
    return Session(awaited, origin=bindings[-1].expr, how=_how(bindings[-1].how), sure=False)


def _is_something_else(inference: Answers, binding: Binding, function: Function) -> bool:
    """Whether an annotation says that it is none, or it comes from a library that has sessions of its own."""
    expr = binding.expr
    if isinstance(expr, ast.arg):
        told = ast.unparse(expr.annotation) if expr.annotation is not None else "Any"
        return "session" not in told.lower() and told.rpartition(".")[2] not in ("Any", "object", "None")
    made = inference.value(expr.func, function) if isinstance(expr, ast.Call) else None
    return isinstance(made, External) and made.name.partition(".")[0] in _OTHERS


def attribute_named(inference: Answers, node: ast.Attribute, function: Function) -> Value | None:
    """``self.session`` and ``app.db_session``, of which nothing else is known, where a session's methods are called."""
    if not _SESSION.fullmatch(node.attr) or not _mentions_sqlalchemy(function):
        return None
    text = ast.unparse(node)
    called = [
        (step.node.func, step.awaited)
        for step in inference.body(function).calls
        if isinstance(step.node, ast.Call) and isinstance(step.node.func, ast.Attribute)
    ]
    mine = [(func, awaited) for func, awaited in called if func.attr in _TELLING and ast.unparse(func.value) == text]
    if not mine:
        return None
    return Session(any(awaited for _, awaited in mine), origin=None, how="attribute", sure=False)


def global_named(name: str) -> Value | None:
    """A module's variable that is called ``SessionLocal``, ``async_session_factory`` and the like."""
    if _MAKER.fullmatch(name):
        return Maker("async" in name.lower(), sure=False)
    return None


def _how(binding: str) -> str:
    return {"argument": "parameter", "entered": "with"}.get(binding, "unknown")


def _mentions_sqlalchemy(function: Function) -> bool:
    names = (*function.module.imports.values(), *function.module.stars)
    return any(name.partition(".")[0] in {"sqlalchemy", "sqlmodel", "flask_sqlalchemy"} for name in names)
