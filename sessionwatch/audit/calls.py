"""What a call gives: of SQLAlchemy's constructors and methods, and of functions and classes of the tree."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING

from . import methods, statements
from .hands import expiring, handed_out, literal, made, result_of, words
from .values import (
    ClassValue,
    Connection,
    Engine,
    External,
    Flask,
    FunctionValue,
    Instance,
    Later,
    Maker,
    Manager,
    Many,
    Method,
    Object,
    Pair,
    Registry,
    Returning,
    Rows,
    Session,
    Stream,
    Value,
)
from .vocabulary import known

if TYPE_CHECKING:
    from .answers import Answers
    from .tree import Function

_PASSED = frozenset({"list", "sorted", "tuple", "set", "reversed", "iter", "frozenset"})
_MAKERS = {"sessionmaker": False, "async_sessionmaker": True}
_LEGACY_ENTERED = frozenset({"enter_context", "enter_async_context"})


def result(inference: Answers, node: ast.Call, function: Function) -> Value | None:
    """What the call gives where it stands."""
    called = inference.value(node.func, function)
    match called:
        case External():
            return _external(inference, called.name, node, function)
        case FunctionValue():
            return inference.call_of(called.function, node)
        case ClassValue():
            return _constructed(inference, called, node, function)
        case Method():
            return methods.result(inference, called, node, function)
        case Maker():
            return made(inference, called, node, function)
        case Registry():
            return Session(called.asynchronous, called.place or node, "registry", source=called)
        case Returning():
            return handed_out(called.of, node, None)
    return _builtin(inference, node, function)


# -- constructors -------------------------------------------------------------------------------------------


def _external(inference: Answers, name: str, node: ast.Call, function: Function) -> Value | None:
    last = known(name)
    if last in ("Session", "AsyncSession"):
        return _new_session(inference, last == "AsyncSession", node, function)
    if last in _MAKERS:
        return _new_maker(inference, _MAKERS[last], node, function)
    if last in ("scoped_session", "async_scoped_session"):
        return Registry(last == "async_scoped_session", node)
    if last in ("create_engine", "create_async_engine", "engine_from_config", "async_engine_from_config"):
        given = " ".join(ast.unparse(word) for word in node.keywords)
        return Engine("async" in last, node, "autocommit" in given.lower())
    if last == "AsyncEngine":
        return Engine(True, node)
    if last == "SQLAlchemy":
        return Flask()
    if last == "object_session" or last == "async_object_session":
        return Session(last.startswith("async"), node, "attribute")
    made = statements.constructed(inference, last, node, function) if last else None
    return made if made is not None else _library(inference, name, node, function)


def _new_session(inference: Answers, asynchronous: bool, node: ast.Call, function: Function) -> Session:
    given = words(node)
    bound = inference.value(node.args[0] if node.args else given.get("bind"), function)
    source = bound if isinstance(bound, Engine) else None
    binds = given.get("binds")
    several = [inference.value(each, function) for each in binds.values] if isinstance(binds, ast.Dict) else []
    joined = isinstance(bound, Connection) or any(not isinstance(each, Engine) for each in several)
    expires = literal(given.get("expire_on_commit")) is not False
    return Session(asynchronous, node, "joined" if joined else "call", expires, made=True, source=source)


def _new_maker(inference: Answers, asynchronous: bool, node: ast.Call, function: Function) -> Maker:
    given = words(node)
    cls = inference.value(given.get("class_"), function)
    if isinstance(cls, External):
        asynchronous = known(cls.name) == "AsyncSession"
    elif isinstance(cls, ClassValue) and isinstance(special := inference.attributes.special(cls.cls), Maker):
        asynchronous = special.asynchronous
    return Maker(asynchronous, node, expiring(inference, node, function))


def _constructed(inference: Answers, cls: ClassValue, node: ast.Call, function: Function) -> Value | None:
    model = inference.models.of(cls.cls)
    if model is not None:
        return Instance(model, how="new", eager=None)
    special = inference.attributes.special(cls.cls)
    if isinstance(special, Maker):
        return _new_session(inference, special.asynchronous, node, function)
    if special is not None:
        return Flask()
    return Object(cls.cls)


def _library(inference: Answers, name: str, node: ast.Call, function: Function) -> Value | None:
    """Functions of the standard library and of frameworks that pass a value on."""
    last = name.rpartition(".")[2]
    first = node.args[0] if node.args else None
    if last in ("Depends", "Security", "Provide"):
        return _provided(inference, first or words(node).get("dependency"), function)
    if last in ("closing", "aclosing"):
        return Manager(inference.value(first, function), last == "aclosing")
    if last in ("contextmanager", "asynccontextmanager"):  # called by hand: scope = contextmanager(get_session)
        target = inference.value(first, function)
        if isinstance(target, FunctionValue):
            manager = Manager(inference.yielded(target.function), target.function.is_async, target.function)
            return Returning(manager)
        return None
    if last == "get_bind":  # of Alembic: whoever runs the migration commits
        return Connection(False, node, owned=True)
    if last == "partial":
        return inference.value(first, function)
    if last in ("to_thread", "run_in_threadpool", "run_sync"):
        return Later(result_of(inference, first, function))
    if last in ("create_task", "ensure_future", "shield", "wait_for"):
        inner = inference.value(first, function)
        return inner if isinstance(inner, Later) else None
    return None


def _provided(inference: Answers, node: ast.expr | None, function: Function) -> Value | None:
    """What a dependency hands out."""
    target = inference.value(node, function)
    if isinstance(target, FunctionValue):
        provider = target.function
        generator = inference.body(provider).is_generator
        found = inference.yielded(provider) if generator else inference.returned(provider)
        if isinstance(found, Session):
            return replace(found, origin=node, how="depends", provider=provider)
        return replace(found, how="parameter") if isinstance(found, Instance) else found
    if isinstance(target, Maker):
        return Session(target.asynchronous, node, "depends", target.expires)
    return None


def _builtin(inference: Answers, node: ast.Call, function: Function) -> Value | None:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if isinstance(node.func, ast.Attribute) and node.func.attr in _LEGACY_ENTERED and node.args:
        found = inference.entered(inference.value(node.args[0], function), node.args[0])
        return Later(found) if node.func.attr == "enter_async_context" else found
    first = inference.value(node.args[0], function) if node.args else None
    if name in _PASSED:
        element = inference.element(first)
        return Many(element) if element is not None else None
    if name in ("next", "anext") and isinstance(first, Stream | Many | Rows):
        element = inference.element(first)
        if isinstance(element, Session):
            element = replace(element, origin=node, provider=getattr(first, "function", None))
        return Later(element) if name == "anext" else element
    if name == "enumerate":
        element = inference.element(first)
        return Many(Pair((None, element))) if element is not None else None
    if name == "zip":
        return Many(Pair(tuple(inference.element(inference.value(each, function)) for each in node.args)))
    if name == "cast" and len(node.args) == 2:
        return inference.value(node.args[1], function)
    return None
