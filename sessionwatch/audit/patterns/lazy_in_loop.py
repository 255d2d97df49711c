"""A lazy relationship that is read in a loop over what a query returned: one more query per row."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import n_plus_one
from ..body import Step, chain
from ..values import Instance, Many, Query, Rows, Value
from ._base import Hit, Pattern, Scope, after_block
from ._loaded import lazy, reads


def find(scope: Scope) -> Iterator[Hit]:
    """The first read of each relationship in each loop."""
    seen: set[tuple[int, str]] = set()
    for step, node, instance in reads(scope):
        loop = _loop(scope, step, node.value)
        relation = scope.inference.models.relation(instance.model, node.attr)
        if loop is None or relation is None or not relation.lazy or instance.detached:
            continue
        if instance.session is not None and (instance.session.asynchronous or _has_ended(scope, step, instance)):
            continue  # that is not slow, it fails
        key = (id(loop), f"{instance.model.name}.{node.attr}")
        if key in seen:
            continue
        name = key[1]
        if instance.session is not None and lazy(scope, instance, node.attr) is not None:
            seen.add(key)
            yield Hit(
                step.line,
                f"{name} is loaded for one {instance.model.name} after the other in this loop",
                _is_sure(instance),
            )
        elif instance.how == "parameter" and instance.session is None and not scope.function.is_async:
            seen.add(key)
            yield Hit(
                step.line,
                f"{name} is loaded for one {instance.model.name} after the other, unless the caller has loaded it",
                False,
            )


def _is_sure(instance: Instance) -> bool:
    return instance.session is not None and instance.session.sure


def _has_ended(scope: Scope, step: Step, instance: Instance) -> bool:
    for opening in scope.uses.openings:
        if (
            opening.item is not None
            and instance.session is not None
            and opening.session.origin is instance.session.origin
        ):
            return after_block(scope, step, opening.item)
    return False


def _loop(scope: Scope, step: Step, node: ast.expr) -> ast.AST | None:
    """The loop whose variable is read, where it goes over more than one row of a query."""
    if not isinstance(node, ast.Name):
        return None
    for binding in reversed(scope.body.bindings.get(node.id, ())):
        if binding.order >= step.order:
            continue
        if binding.how != "element" or not isinstance(binding.expr, ast.expr):
            return None
        around = chain(step.context)
        loop = next((each.node for each in chain(binding.context) if each in around), None)
        return loop if loop is not None and _is_many(scope.value(binding.expr)) else None
    return None


def _is_many(value: Value | None) -> bool:
    return isinstance(value, Many | Rows | Query)


PATTERN = Pattern("lazy-in-loop", "a lazy relationship read in a loop over a query's results", n_plus_one.RULE, find)
