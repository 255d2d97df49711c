"""Statements: what they select or write, and which relationships their options load."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .values import ClassValue, External, Method, Statement, Value
from .vocabulary import DDL, WRITING_SQL, known

if TYPE_CHECKING:
    from .answers import Answers
    from .mapped import Model
    from .tree import Function

_OTHER_ENTITY = frozenset({"with_only_columns", "with_entities", "values", "add_columns", "columns", "select_entity"})
_WORD = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*([A-Za-z]+)", re.DOTALL)
_TEXT_DML = re.compile(r"\b(insert\s+into|update\s+\S+\s+set|delete\s+from)\b", re.IGNORECASE)


def constructed(inference: Answers, name: str, node: ast.Call, function: Function) -> Value | None:
    """``select(Order)``, ``insert(Order)``, ``text("UPDATE …")`` of SQLAlchemy; None for another name."""
    if name == "select":
        return selected(inference, node.args, function)
    if name in ("insert", "update", "delete"):
        found = entity(inference, node.args[0], function) if node.args else None
        return Statement(name, found, frozenset())
    if name in ("text", "TextClause", "DDL"):
        first = node.args[0] if node.args else None
        return Statement(verb_of(first), None, None, has_where(first))
    if name == "aliased" and node.args:
        return inference.value(node.args[0], function)
    return None


def verb_of(node: ast.expr | None) -> str:
    """What SQL in a string does: insert, update, delete, ddl, select, other; unknown where it is not written there."""
    text = ""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        if node.values and not isinstance(node.values[0], ast.Constant):
            return "unknown"
    elif isinstance(node, ast.BinOp):
        return verb_of(node.left)
    match = _WORD.match(text)
    if match is None:
        return "unknown"
    word = match[1].lower()
    if word in WRITING_SQL:
        return word if word in ("insert", "update", "delete") else "insert"
    if word in ("commit", "rollback", "end"):
        return "commit"
    if word == "with":
        return "insert" if _TEXT_DML.search(text) else "select"
    return "ddl" if word in DDL else "select" if word in ("select", "values", "show", "explain") else "other"


def has_where(node: ast.expr | None) -> bool:
    """Whether SQL in a string has a WHERE, as far as it is written there."""
    text = (
        "".join(each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))
        if node
        else ""
    )
    return "where" in text.lower() or "conflict" in text.lower()


def entity(inference: Answers, node: ast.expr | None, function: Function) -> Model | None:
    """The mapped class that an expression is."""
    value = inference.value(node, function) if node is not None else None
    return inference.models.of(value.cls) if isinstance(value, ClassValue) else None


def selected(inference: Answers, arguments: Sequence[ast.expr], function: Function) -> Statement:
    """A SELECT of these; it has a model where a mapped class comes first."""
    first = arguments[0] if arguments else None
    return Statement("select", entity(inference, first, function), frozenset())


def extended(inference: Answers, base: Statement, name: str, node: ast.Call, function: Function) -> Statement:
    """The statement after one more method in its chain."""
    if name == "options":
        found = eager(inference, node.args, function)
        return replace(base, eager=base.eager | found if base.eager is not None and found is not None else None)
    if name in ("where", "filter", "filter_by"):
        return replace(base, narrowed=True)
    if name in _OTHER_ENTITY:
        return replace(base, model=base.model if base.verb != "select" else None)
    if name in ("limit", "fetch") and node.args:
        told = node.args[0].value if isinstance(node.args[0], ast.Constant) else 0
        return replace(base, limit=told if isinstance(told, int) else 0)
    if name.startswith("on_conflict"):
        return replace(base, verb="update", narrowed=True)
    if name == "returning" and node.args:
        return replace(base, model=entity(inference, node.args[0], function))
    return base


def eager(inference: Answers, arguments: Sequence[ast.expr | None], function: Function) -> frozenset[str] | None:
    """The relationships that loader options name; None where they can't be read."""
    found: set[str] = set()
    for argument in arguments:
        names = _option(inference, argument, function)
        if names is None:
            return None
        found |= names
    return frozenset(found)


def _option(inference: Answers, node: ast.expr | None, function: Function) -> set[str] | None:
    if isinstance(node, ast.List | ast.Tuple):
        parts = [_option(inference, each, function) for each in node.elts]
        return None if any(part is None for part in parts) else set[str]().union(*(part or () for part in parts))
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
        return None
    called = inference.value(node.func, function)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    if not isinstance(called, External | Method) and not (called is None and isinstance(node.func, ast.Attribute)):
        return None
    if isinstance(called, External) and not known(called.name):
        return None
    found: set[str] = set()
    for argument in node.args:
        for each in ast.walk(argument):
            if isinstance(each, ast.Attribute):
                found.add(each.attr)
            elif isinstance(each, ast.Constant) and isinstance(each.value, str):
                found.update(each.value.split("."))
            elif isinstance(each, ast.Starred):
                return None
    if "*" in found:
        return None
    if isinstance(node.func, ast.Attribute):
        inner = _option(inference, node.func.value, function) if isinstance(node.func.value, ast.Call) else set()
        return None if inner is None else found | inner
    return set() if name in ("load_only", "defer", "lazyload", "defaultload", "raiseload") else found


def is_write(statement: Value | None) -> bool:
    """Whether it changes rows."""
    return isinstance(statement, Statement) and statement.verb in ("insert", "update", "delete")
