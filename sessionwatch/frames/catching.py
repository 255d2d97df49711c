"""Who catches an exception, read from the source of the functions that it left, when there is a finding."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from . import callsite, source

if TYPE_CHECKING:
    from ..model import RawSite

# Of an exception on its way out: the program expects it (a test), a handler ends it, makes another one of it, or
# somebody may end it whose source is not known. None of these: it left the program's code.
Kind = Literal["expected", "handled", "turned", "unknown", "left"]

_BROAD = frozenset({"BaseException", "Exception", "SQLAlchemyError", "StatementError", "DBAPIError", "DatabaseError"})
_EXPECT = frozenset({"raises", "assertRaises", "assertRaisesRegex", "RaisesExc", "RaisesGroup"})
_NEVER_RETURN = frozenset({"abort", "exit", "_exit", "fail", "skip", "xfail", "reraise"})
_TRIES: tuple[type, ...] = (ast.Try, getattr(ast, "TryStar", ast.Try))
_WITHS = (ast.With, ast.AsyncWith)


class Catch(NamedTuple):
    """What becomes of it, and whether a handler names classes that say what may go wrong."""

    kind: Kind
    narrow: bool = False


def caught(places: Iterable[RawSite], classes: tuple[str, ...]) -> Catch:
    """What becomes of an exception that arose at ``places``, the innermost of the user's code first.

    ``classes``: the names of its class and of those that it derives from.
    """
    for place in places:
        nodes = source.around(place.code, place.lasti)
        if not nodes:
            if not _is_module(place.code):
                return Catch("unknown")
            continue
        where = source.position(place.code, place.lasti)
        found = _in_function(nodes, where, place.code.co_filename, classes)
        if found is not None:
            return found
    return Catch("left")


def _is_module(code: CodeType) -> bool:
    return code.co_name == "<module>" and source.tree(code.co_filename) is not None


def _in_function(nodes: list[ast.AST], where: Any, path: str, classes: tuple[str, ...], depth: int = 0) -> Catch | None:
    """What the blocks of one function make of it; None where it leaves the function."""
    for node in nodes:
        found = None
        if isinstance(node, ast.Call) and source.last_name(node.func) in _EXPECT:
            found = _expected(node, path, classes)
        elif isinstance(node, _TRIES) and any(source.covers(one, where) for one in node.body):  # type: ignore[attr-defined]
            found = _by_handlers(node.handlers, path, classes)  # type: ignore[attr-defined]
        elif isinstance(node, _WITHS) and any(source.covers(one, where) for one in node.body):
            blocks = (_by_block(item.context_expr, path, classes, depth) for item in reversed(node.items))
            found = next((block for block in blocks if block is not None), None)
        if found is not None:
            return found
    return None


# -- except ---------------------------------------------------------------------------------------------


def _by_handlers(handlers: list[ast.ExceptHandler], path: str, classes: tuple[str, ...]) -> Catch | None:
    for handler in handlers:
        names = list(_named(handler.type, path)) if handler.type is not None else ["BaseException"]
        if not _matches(names, classes):
            continue
        last = handler.body[-1]
        if isinstance(last, ast.Raise):
            again = last.exc is None or (isinstance(last.exc, ast.Name) and last.exc.id == handler.name)
            return None if again else Catch("turned")
        if _never_returns(last):
            return Catch("turned")
        return Catch("handled", narrow=not _BROAD & set(names))
    return None


def _named(expression: ast.expr, path: str) -> Iterator[str]:
    """The names of the classes of an ``except``, as far as they are known."""
    if isinstance(expression, ast.Tuple):
        for element in expression.elts:
            yield from _named(element, path)
        return
    known = source.named(path, expression)
    for one in known if isinstance(known, tuple) else (known,):
        yield one.__name__ if isinstance(one, type) else source.last_name(expression)


def _matches(names: list[str], classes: tuple[str, ...]) -> bool:
    return any(name in classes or not name for name in names)


def _never_returns(last: ast.stmt) -> bool:
    if isinstance(last, ast.If):
        return bool(last.orelse) and all(
            isinstance(branch[-1], ast.Raise) or _never_returns(branch[-1]) for branch in (last.body, last.orelse)
        )
    called = last.value if isinstance(last, ast.Expr | ast.Return) else None
    return isinstance(called, ast.Call) and source.last_name(called.func) in _NEVER_RETURN


# -- with -----------------------------------------------------------------------------------------------


def _by_block(expression: ast.expr, path: str, classes: tuple[str, ...], depth: int) -> Catch | None:
    if not isinstance(expression, ast.Call):
        return None  # a session, a lock: something that was made before
    name = source.last_name(expression.func)
    if name in _EXPECT:
        return _expected(expression, path, classes)
    if name == "suppress":
        names = [one for argument in expression.args for one in _named(argument, path)]
        return Catch("handled", narrow=not _BROAD & set(names)) if _matches(names, classes) else None
    return _by_manager(source.named(path, expression.func), classes, depth)


def _expected(call: ast.Call, path: str, classes: tuple[str, ...]) -> Catch | None:
    given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "expected_exception")]
    names = [one for argument in given for one in _named(argument, path)]
    return Catch("expected") if _matches(names, classes) or not names else None


def _by_manager(manager: Any, classes: tuple[str, ...], depth: int) -> Catch | None:
    """What a context manager of the user's own makes of it: a generator around its ``yield``, or ``__exit__()``."""
    if depth > 3:
        return None
    if isinstance(manager, type):
        leave = vars(manager).get("__exit__") or vars(manager).get("__aexit__")
        node = source.function(leave.__code__) if _is_users(leave) else None  # type: ignore[union-attr]
        returns = source.within(node.body, kinds=(ast.Return,)) if node is not None else ()
        return Catch("unknown") if any(not _is_false(one.value) for one in returns) else None
    function: Any = inspect.unwrap(manager) if callable(manager) else None
    node = source.function(function.__code__) if _is_users(function) else None
    for given in source.within(node.body, kinds=(ast.Yield,)) if node is not None else ():
        code: CodeType = function.__code__
        return _around_yield(code, node, given, classes, depth)
    return None


def _around_yield(code: CodeType, node: Any, given: ast.Yield, classes: tuple[str, ...], depth: int) -> Catch | None:
    where = source.Position(given.lineno, given.col_offset, given.end_lineno or 0, given.end_col_offset or 0)
    nodes = [one for one in ast.walk(node) if one is not node and source.covers(one, where)]
    return _in_function(nodes[::-1], where, code.co_filename, classes, depth + 1)


def _is_users(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return isinstance(code, CodeType) and code.co_filename in callsite.user_files()


def _is_false(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and not value.value)
