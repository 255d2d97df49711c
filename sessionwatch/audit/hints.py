"""What an annotation says: ``Session``, ``Annotated[AsyncSession, Depends(get_db)]``, ``list[Order] | None``."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING

from .values import (
    ClassValue,
    Connection,
    Engine,
    External,
    Flask,
    Instance,
    Later,
    Maker,
    Manager,
    Many,
    Object,
    Pair,
    Query,
    Registry,
    Returning,
    Rows,
    Session,
    Statement,
    Stream,
    Value,
)
from .vocabulary import ASYNC_MANAGERS, LATER, MANAGERS, MANY, OPTIONAL, STREAMS, known

if TYPE_CHECKING:
    from .answers import Answers
    from .tree import Function

_UNKNOWN = Statement("unknown", eager=None)
_TYPES: dict[str, Value] = {
    "Session": Session(False),
    "AsyncSession": Session(True),
    "scoped_session": Registry(False),
    "async_scoped_session": Registry(True),
    "sessionmaker": Maker(False),
    "async_sessionmaker": Maker(True),
    "Engine": Engine(False),
    "AsyncEngine": Engine(True),
    "Connection": Connection(False),
    "AsyncConnection": Connection(True),
    "SQLAlchemy": Flask(),
    "Query": Query(None, _UNKNOWN),
    "Result": Rows(None, _UNKNOWN),
}


def value(inference: Answers, node: ast.expr | None, function: Function) -> Value | None:
    """What a variable of that annotation holds."""
    match node:
        case None:
            return None
        case ast.Constant() if isinstance(node.value, str):
            try:
                return value(inference, ast.parse(node.value, mode="eval").body, function)
            except SyntaxError:
                return None
        case ast.BinOp():
            return value(inference, node.left, function) or value(inference, node.right, function)
        case ast.Subscript():
            return _subscript(inference, node, function)
        case ast.Name() | ast.Attribute():
            return _named(inference, node, function)
    return None


def _named(inference: Answers, node: ast.expr, function: Function) -> Value | None:
    alias = _alias(inference, node, function)
    if alias is not None:
        key = ("alias", alias[0])
        if key in inference.busy:
            return None
        inference.busy.add(key)
        try:
            return value(inference, *alias)
        finally:
            inference.busy.discard(key)
    return of_type(inference, inference.value(node, function))


def of_type(inference: Answers, type_: Value | None) -> Value | None:
    """An object of the class that ``type_`` is."""
    if isinstance(type_, External):
        return _TYPES.get(known(type_.name))
    if isinstance(type_, Maker):  # a class of sessions
        return Session(type_.asynchronous, expires=type_.expires, sure=type_.sure)
    if isinstance(type_, ClassValue):
        model = inference.models.of(type_.cls)
        if model is not None:
            return Instance(model, how="parameter")
        special = inference.attributes.special(type_.cls)
        return of_type(inference, special) if special is not None else Object(type_.cls)
    return None


def _alias(inference: Answers, node: ast.expr, function: Function) -> tuple[ast.expr, Function] | None:
    """Where a name stands for an annotation: ``SessionDep = Annotated[...]``, here or in another module."""
    if not isinstance(node, ast.Name):
        return None
    module, name = function.module, node.id
    for _ in range(4):
        bindings = inference.body(module.code).bindings.get(name, ())
        for binding in reversed(bindings):
            if isinstance(binding.expr, ast.Subscript | ast.BinOp):
                return binding.expr, module.code
        full = module.imports.get(name)
        other = inference.tree.module_named(full.rpartition(".")[0], module) if full and not bindings else None
        if full is None or other is None or other is module:
            return None
        module, name = other, full.rpartition(".")[2]
    return None


def _subscript(inference: Answers, node: ast.Subscript, function: Function) -> Value | None:
    outer = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if outer == "Annotated":
        return _annotated(inference, parts, function)
    if outer in {"type", "Type"}:
        return inference.value(parts[0], function)
    if outer == "Callable":
        return Returning(value(inference, parts[-1], function)) if len(parts) > 1 else None
    if outer in {"tuple", "Tuple"} and not any(_is_ellipsis(part) for part in parts):
        return Pair(tuple(value(inference, part, function) for part in parts))
    inner = value(inference, parts[0], function)
    if outer in OPTIONAL:
        return inner
    if outer == "Union":
        for part in parts:
            if (found := value(inference, part, function)) is not None:
                return found
        return None
    if outer in STREAMS:
        return Stream(inner)
    if outer in MANAGERS or outer in ASYNC_MANAGERS:
        return Manager(inner, outer in ASYNC_MANAGERS) if inner is not None else None
    if outer in LATER:
        return Later(value(inference, parts[-1], function))
    if outer in MANY:
        return Many(inner) if inner is not None else None
    found = value(inference, node.value, function)
    if isinstance(found, Query | Rows) and isinstance(inner, Instance):  # Query[Order]
        return replace(found, statement=Statement("select", inner.model, None))
    if isinstance(found, Maker) and isinstance(inner, Session):
        return replace(found, asynchronous=inner.asynchronous)
    return found


def _annotated(inference: Answers, parts: list[ast.expr], function: Function) -> Value | None:
    for part in parts[1:]:
        if isinstance(part, ast.Call):
            found = inference.value(part, function)  # Depends(...)
            if found is not None:
                return found
    return value(inference, parts[0], function)


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
