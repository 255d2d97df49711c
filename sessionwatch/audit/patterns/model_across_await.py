"""A relationship that an ``async def`` reads on an instance: loading it needs an await that is not there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import implicit_io
from ..body import Step, dominates
from ._base import Hit, Pattern, Scope
from ._loaded import ended, given, may_be_present, needs_load, parameter_of, reads

if TYPE_CHECKING:
    from ..values import Instance


def find(scope: Scope) -> Iterator[Hit]:
    """Relationships of instances that a coroutine was given, or has loaded without an option for them."""
    if not scope.function.is_async:
        return
    seen: set[str] = set()
    for step, node, instance in reads(scope):
        text = ast.unparse(node)
        hit = _judged(scope, step, node, instance) if text not in seen else None
        if hit is not None:
            seen.add(text)
            yield hit


def _judged(scope: Scope, step: Step, node: ast.Attribute, instance: Instance) -> Hit | None:
    name = f"{instance.model.name}.{node.attr}"
    relation = scope.inference.models.relation(instance.model, node.attr)
    if relation is None or not relation.lazy or instance.detached or ended(scope, step, node, instance) is not None:
        return None
    if instance.how == "new":
        return _of_new(scope, step, node, instance)
    session = instance.session
    if session is not None and session.asynchronous and session.how != "joined":
        if may_be_present(scope, step, instance, relation):
            return None
        if needs_load(scope, instance, node.attr) and not _was_loaded(scope, step, node):
            return Hit(
                step.line, f"{name} is loaded when it is read, which an AsyncSession can't do here", session.sure
            )
        return None
    argument = parameter_of(scope, node.value) if instance.how == "parameter" else None
    if argument is None or _was_loaded(scope, step, node):
        return None
    handed = given(scope, scope.function, argument)
    if handed and all(not needs_load(scope, each, node.attr) for each in handed):
        return None
    if any(each.session is not None and not each.session.asynchronous for each in handed):
        return None
    open_ones = [
        each for each in handed if each.session is not None and each.session.asynchronous and not each.detached
    ]
    certain = any(needs_load(scope, each, node.attr) for each in open_ones)
    if handed and not certain and all(each.detached for each in handed):
        return None
    return Hit(
        step.line,
        f"{name} is read on an instance that was handed over, and is loaded only if the caller did so",
        certain,
    )


def _of_new(scope: Scope, step: Step, node: ast.Attribute, instance: Instance) -> Hit | None:
    """A relationship of a new object, which was never set and is read after the object was written."""
    owner = ast.unparse(node.value)
    for each in scope.uses.operations:
        if each.method not in ("add", "add_all") or not each.session.asynchronous or _is_set(scope, node):
            continue
        if any(owner == ast.unparse(one) for one in each.call.args):
            written = (one for one in scope.uses.of(each.session) if one.method in ("flush", "commit"))
            if any(dominates(one.step, step) for one in written) and not _was_loaded(scope, step, node):
                name = f"{instance.model.name}.{node.attr}"
                text = f"{name} of a new object is loaded when it is read, which an AsyncSession can't do here"
                return Hit(step.line, text, each.session.sure)
    return None


def _is_set(scope: Scope, node: ast.Attribute) -> bool:
    """Whether the constructor was given the relationship, or anything that can't be read."""
    for binding in scope.body.bindings.get(node.value.id, ()) if isinstance(node.value, ast.Name) else ():
        call = binding.expr
        if not isinstance(call, ast.Call) or any(word.arg in (None, node.attr) for word in call.keywords):
            return True
    return not isinstance(node.value, ast.Name)


def _was_loaded(scope: Scope, late: Step, node: ast.Attribute) -> bool:
    """Whether ``refresh(order, ["items"])`` or ``awaitable_attrs`` has loaded it before, or it was set here."""
    owner = ast.unparse(node.value)
    for each in scope.uses.operations:
        if each.method == "refresh" and each.step.order < late.order and ast.unparse(each.call.args[0]) == owner:
            told = " ".join(
                ast.unparse(one) for one in (*each.call.args[1:], *(word.value for word in each.call.keywords))
            )
            if node.attr in told:
                return True
    loaded = f"{owner}.awaitable_attrs.{node.attr}"
    read = any(ast.unparse(each.node) == loaded for each in scope.body.reads if each.order < late.order)
    stored = any(ast.unparse(each.node) == ast.unparse(node) for each in scope.body.stores if each.order < late.order)
    return read or stored


PATTERN = Pattern(
    "model-across-await", "a relationship read in a coroutine, on an instance from elsewhere", implicit_io.RULE, find
)
