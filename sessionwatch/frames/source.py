"""The program's source, asked when there is a finding: what an instruction belongs to. Nothing is imported or run."""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from ..syntax import parse

_REMEMBERED = 64  # files
_LONGEST = 60  # characters of a call that is repeated
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Position(NamedTuple):
    """Where an instruction is written: lines from 1, columns in bytes."""

    line: int
    column: int
    last_line: int
    last_column: int


def position(code: CodeType, lasti: int) -> Position | None:
    """Where an instruction is written; None where the code does not say."""
    found = next(itertools.islice(code.co_positions(), max(lasti, 0) // 2, None), (None,) * 4)
    first, last, begin, end = found
    if first is None or last is None or begin is None or end is None:
        return None
    return Position(first, begin, last, end)


_parsed: dict[str, tuple[int, ast.Module]] = {}  # by file, with the text's hash


def tree(path: str) -> ast.Module | None:
    """A file as it is now, None where it can't be read."""
    lines = linecache.getlines(path)
    text = hash(tuple(lines))
    known = _parsed.get(path)
    if known is not None and known[0] == text:
        return known[1]
    module: ast.Module | None = parse("".join(lines)) if lines else None
    if module is not None:
        if len(_parsed) >= _REMEMBERED:
            _parsed.clear()
        _parsed[path] = (text, module)
    return module


def around(code: CodeType, lasti: int) -> list[ast.AST]:
    """The nodes of a function that an instruction lies in, innermost first, the function's own node last.

    Empty where the source is missing, or is another one by now.
    """
    where, module = position(code, lasti), tree(code.co_filename)
    if where is None or module is None:
        return []
    found: list[ast.AST] = []
    for node in _down(module, where):
        if isinstance(node, _FUNCTIONS):
            found.clear()
        found.append(node)
    name = code.co_name
    if found and not name.startswith("<") and getattr(found[0], "name", name) != name:
        return []
    return found[::-1]


def _down(node: ast.AST, where: Position) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if covers(child, where):
            yield child
            yield from _down(child, where)
            return
        if not hasattr(child, "lineno"):  # an argument list, a comprehension's part, a with block's item
            yield from _down(child, where)


def covers(node: ast.AST, where: Position) -> bool:
    """Whether a place is within a node."""
    if not hasattr(node, "lineno"):
        return False
    begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
    return begin <= (where.line, where.column) and (where.last_line, where.last_column) <= end


def function(code: CodeType) -> Any:
    """The node of a function; None where the source is missing."""
    module = tree(code.co_filename)
    for node in ast.walk(module) if module is not None else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if code.co_firstlineno in (first, node.lineno):
                return node
    return None


def within(nodes: list[Any], *, kinds: tuple[type, ...]) -> Iterator[Any]:
    """Nodes of some kinds in a body, not those of functions that are defined in there."""
    waiting: list[Any] = list(nodes)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, kinds):
            yield node
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            waiting[:0] = ast.iter_child_nodes(node)


def named(path: str, expression: ast.expr) -> Any:
    """What a name, or attributes of a name, stand for in the module of a file; None where that is not known."""
    names: list[str] = []
    while isinstance(expression, ast.Attribute):
        names.append(expression.attr)
        expression = expression.value
    if not isinstance(expression, ast.Name):
        return None
    module = _module(path)
    found: Any = vars(module).get(expression.id) if module is not None else None
    for name in reversed(names):
        found = (
            getattr(found, name, None)
            if isinstance(found, ModuleType)
            else vars(found).get(name)
            if isinstance(found, type)
            else None
        )
    return found


def _module(path: str) -> ModuleType | None:
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and module.__dict__.get("__file__") == path:
            return module
    return None


def last_name(expression: ast.AST) -> str:
    """The last part of a name: ``IntegrityError`` of ``exc.IntegrityError``; empty for anything else."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def asked_object(code: CodeType, lasti: int) -> str | None:
    """What an instruction calls, or calls a method of: ``Db`` of ``Db()`` and of ``Db.execute(…)``."""
    called = _called(code, lasti)
    if called is None:
        return None
    target = called.func
    if isinstance(target, ast.Attribute):
        target = target.value
    return ast.unparse(target) if isinstance(target, ast.Name | ast.Attribute) else None


def factory_call(code: CodeType, lasti: int) -> str | None:
    """``maker()`` or ``make(tenant)``, where an instruction calls something of the program's own by its name."""
    called = _called(code, lasti)
    if called is None or not is_dotted(called.func) or last_name(called.func) == "begin":
        return None
    if (called.args or called.keywords) and last_name(called.func) in ("Session", "AsyncSession"):
        return None
    return _short(called)


def call_of(code: CodeType, name: str) -> str | None:
    """How a function, or a module, calls something of a name: ``db.session()``; None where it does not."""
    node = function(code) or (tree(code.co_filename) if code.co_name == "<module>" else None)
    calls = within(node.body, kinds=(ast.Call,)) if node is not None else ()
    return next((_short(one) for one in calls if last_name(one.func) == name), None)


def read_object(code: CodeType, lasti: int) -> str | None:
    """What an instruction reads an attribute of: ``order`` of ``order.items``."""
    nodes = around(code, lasti)
    read = nodes[0] if nodes else None
    return ast.unparse(read.value) if isinstance(read, ast.Attribute) and is_dotted(read.value) else None


def _short(call: ast.Call) -> str | None:
    text = ast.unparse(call)
    return text if len(text) <= _LONGEST else None


def method_object(code: CodeType, lasti: int, methods: frozenset[str]) -> str | None:
    """What an instruction calls one of these methods of, or hands such a method of on: ``to_thread(session.close)``."""
    called = _called(code, lasti)
    for target in (called.func, *called.args) if called is not None else ():
        if isinstance(target, ast.Attribute) and target.attr in methods and is_dotted(target.value):
            return ast.unparse(target.value)
    return None


def is_dotted(node: ast.AST | None) -> bool:
    """Whether an expression is a name, or attributes of a name."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _called(code: CodeType, lasti: int) -> ast.Call | None:
    nodes = around(code, lasti)
    called = nodes[0] if nodes else None
    while isinstance(called, ast.Await):
        called = called.value
    return called if isinstance(called, ast.Call) else None
