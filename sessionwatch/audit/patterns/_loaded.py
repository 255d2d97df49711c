"""What of an instance needs the database when it is read."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ..body import Step
from ..infer import argument_of
from ..models import Model, Relation
from ..tree import Function
from ..values import Instance, Many, Value
from ._base import Scope


def lazy(scope: Scope, instance: Instance, name: str) -> Relation | None:
    """The relationship, where it is loaded when it is first read and no option has loaded it with the instance."""
    relation = scope.inference.models.relation(instance.model, name)
    if relation is None or not relation.lazy or instance.eager is None or name in instance.eager:
        return None
    return relation


def is_mapped(scope: Scope, model: Model, name: str) -> bool:
    """Whether reading the attribute may go to the database."""
    return name in model.columns or scope.inference.models.relation(model, name) is not None


def instance_of(value: Value | None) -> Instance | None:
    return value if isinstance(value, Instance) else None


def reads(scope: Scope) -> Iterator[tuple[Step, ast.Attribute, Instance]]:
    """Every attribute that is read on an instance, in order."""
    for step in scope.body.reads:
        node = step.node
        if isinstance(node, ast.Attribute):
            value = scope.value(node.value)
            if isinstance(value, Instance):
                yield step, node, value


def given(scope: Scope, function: Function, argument: ast.arg) -> list[Instance]:
    """The instances that callers in the tree hand over for a parameter."""
    found = []
    for caller, call in scope.inference.callers(function)[:12]:
        node = argument_of(function, argument, call)
        value = scope.inference.value(node, caller) if node is not None else None
        value = value.of if isinstance(value, Many) else value
        if isinstance(value, Instance) and value.how != "parameter":
            found.append(value)
    return found


def parameter_of(scope: Scope, node: ast.expr) -> ast.arg | None:
    """The parameter that a name stands for, also as the element of one."""
    if not isinstance(node, ast.Name):
        return None
    for binding in reversed(scope.body.bindings.get(node.id, ())):
        if isinstance(binding.expr, ast.arg):
            return binding.expr
        if binding.how == "element" and isinstance(binding.expr, ast.Name):
            return parameter_of(scope, binding.expr)
        return None
    return None
