"""What a call gives: of SQLAlchemy's constructors and methods, and of functions and classes of the tree."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace

from . import statements
from .answers import Answers
from .body import Binding, Body, Step, within
from .tree import Function, dotted
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
    Query,
    Registry,
    Returning,
    Rows,
    Session,
    Statement,
    Stream,
    Value,
)
from .vocabulary import ALL, ONE, known

_PASSED = frozenset({"list", "sorted", "tuple", "set", "reversed", "iter", "frozenset"})
_MAKERS = {"sessionmaker": False, "async_sessionmaker": True}
_LEGACY_ENTERED = frozenset({"enter_context", "enter_async_context"})


def words(node: ast.Call) -> dict[str, ast.expr]:
    """The keyword arguments."""
    return {word.arg: word.value for word in node.keywords if word.arg is not None}


def literal(node: ast.expr | None) -> object:
    """The value of a constant; ``...`` for everything else."""
    return node.value if isinstance(node, ast.Constant) else ...


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
            return _method(inference, called, node, function)
        case Maker():
            return _made(inference, called, node, function)
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
    joined = isinstance(bound, Connection) or "binds" in given
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


def expiring(inference: Answers, node: ast.Call, function: Function) -> bool | None:
    """Whether a sessionmaker's sessions expire at commit; None where its arguments are not all known."""
    given = words(node)
    if "expire_on_commit" in given:
        told = literal(given["expire_on_commit"])
        return told if isinstance(told, bool) else None
    return None if any(word.arg is None for word in node.keywords) else True


def _made(inference: Answers, maker: Maker, node: ast.Call, function: Function) -> Session:
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
    if last == "partial":
        return inference.value(first, function)
    if last in ("to_thread", "run_in_threadpool", "run_sync"):
        return Later(_called(inference, first, function))
    if last in ("create_task", "ensure_future", "shield", "wait_for"):
        inner = inference.value(first, function)
        return inner if isinstance(inner, Later) else None
    return None


def _called(inference: Answers, node: ast.expr | None, function: Function) -> Value | None:
    target = inference.value(node, function)
    return inference.returned(target.function) if isinstance(target, FunctionValue) else None


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


# -- methods ------------------------------------------------------------------------------------------------


def _method(inference: Answers, method: Method, node: ast.Call, function: Function) -> Value | None:
    handler = _METHODS.get(type(method.owner))
    return handler(inference, method.owner, method.name, node, function) if handler is not None else None


def as_session(value: Value | None) -> Session | None:
    """The session, also where a registry stands for it."""
    if isinstance(value, Registry):
        return Session(value.asynchronous, value.place, "registry", source=value)
    return value if isinstance(value, Session) else None


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
            return _called(inference, first, function)
        case "__enter__" | "__aenter__":
            return session
    return None


def _of_maker(inference: Answers, owner: Value, name: str, node: ast.Call, function: Function) -> Value | None:
    if isinstance(owner, Maker) and name == "begin":
        made = _made(inference, owner, node, function)
        return Manager(replace(made, begun=True), owner.asynchronous)
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
