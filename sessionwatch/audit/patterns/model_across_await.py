"""A relationship that an ``async def`` reads on an instance: loading it needs an await that is not there."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import implicit_io
from ..body import Step
from ..values import Instance
from ._base import Hit, Pattern, Scope
from ._loaded import given, lazy, parameter_of, reads


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
    if relation is None or not relation.lazy or instance.detached:
        return None
    session = instance.session
    if session is not None and session.asynchronous and session.how != "joined":
        if lazy(scope, instance, node.attr) is not None and not _was_loaded(scope, step, node):
            return Hit(
                step.line, f"{name} is loaded when it is read, which an AsyncSession can't do here", session.sure
            )
        return None
    argument = parameter_of(scope, node.value) if instance.how == "parameter" else None
    if argument is None or _was_loaded(scope, step, node):
        return None
    handed = given(scope, scope.function, argument)
    if handed and all(lazy(scope, each, node.attr) is None for each in handed):
        return None
    if any(each.session is not None and not each.session.asynchronous for each in handed):
        return None
    open_ones = [
        each for each in handed if each.session is not None and each.session.asynchronous and not each.detached
    ]
    certain = any(lazy(scope, each, node.attr) is not None for each in open_ones)
    if handed and not certain and all(each.detached for each in handed):
        return None
    return Hit(
        step.line,
        f"{name} is read on an instance that was handed over, and is loaded only if the caller did so",
        certain,
    )


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
