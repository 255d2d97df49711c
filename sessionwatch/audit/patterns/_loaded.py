"""What of an instance needs the database when it is read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..body import Step, chain, dominates, within
from ..callers import argument_of
from ..use import same
from ..values import Instance, Later, Many, Query, Rows, Session
from ._base import Scope, after_block, ends

if TYPE_CHECKING:
    from ..mapped import Model, Relation
    from ..tree import Function
    from ..use import Opening


def needs_load(scope: Scope, instance: Instance, name: str) -> bool:
    """Whether the attribute is loaded when it is first read, and no option has loaded it with the instance."""
    if instance.eager is None or name in instance.eager:
        return False
    relation = scope.inference.models.relation(instance.model, name)
    return relation.lazy if relation is not None else name in instance.model.deferred


def may_be_present(scope: Scope, step: Step, instance: Instance, relation: Relation) -> bool:
    """Whether the one object of a many-to-one was loaded before, so that the session has it already."""
    if relation.many or relation.target is None:
        return False
    for each in scope.body.calls:
        value = scope.value(each.node) if isinstance(each.node, ast.Call) and each.order < step.order else None
        value = value.of if isinstance(value, Later) else value
        if isinstance(value, Rows | Query) and value.statement.model is not None and value.session is not None:
            model, session = value.statement.model, value.session
        elif isinstance(value, Instance) and value.session is not None and value.how == "loaded":
            model, session = value.model, value.session
        else:
            continue
        if model.name == relation.target and instance.session is not None and same(session, instance.session):
            return True
    return False


def is_mapped(scope: Scope, model: Model, name: str) -> bool:
    """Whether reading the attribute may go to the database."""
    return name in model.columns or name in model.deferred or scope.inference.models.relation(model, name) is not None


def reads(scope: Scope) -> Iterator[tuple[Step, ast.Attribute, Instance]]:
    """Every attribute that is read on an instance, in order, also by ``getattr(order, "items")`` and ``hasattr()``."""
    for step in sorted((*scope.body.reads, *_probes(scope), *_replaced(scope)), key=lambda each: each.order):
        node = step.node
        if isinstance(node, ast.Attribute):
            value = scope.value(node.value)
            if isinstance(value, Instance):
                yield step, node, value


def _replaced(scope: Scope) -> Iterator[Step]:
    """``order.items = []``: a collection is loaded before it is replaced."""
    for step in scope.body.stores:
        value = scope.value(step.node.value) if isinstance(step.node, ast.Attribute) else None
        if isinstance(value, Instance) and isinstance(step.node, ast.Attribute) and value.how == "loaded":
            relation = scope.inference.models.relation(value.model, step.node.attr)
            if relation is not None and relation.many and value.session is not None and value.session.asynchronous:
                yield step


def _probes(scope: Scope) -> Iterator[Step]:
    for step in scope.body.calls:
        call = step.node
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("getattr", "hasattr"):
            name = call.args[1].value if len(call.args) > 1 and isinstance(call.args[1], ast.Constant) else None
            if isinstance(name, str):
                node = ast.copy_location(ast.Attribute(call.args[0], name, ast.Load()), call)
                yield Step(step.order, node, step.parent, step.context)


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


def ended(scope: Scope, step: Step, node: ast.Attribute, instance: Instance) -> Opening | None:
    """The session that had the instance and has ended when it is read."""
    for opening in scope.uses.openings:
        session = opening.session
        loaded = instance.session is not None and same(instance.session, session)
        if not loaded and not (instance.how == "new" and _is_added(scope, node.value, session)):
            continue
        if opening.item is not None:
            if after_block(scope, step, opening.item) and not _is_reopened(scope, step, node, opening):
                return opening
        elif any(
            dominates(each.step, step) and not _in_finally_before(each.step, step) for each in ends(scope, opening)
        ):
            return opening
    return None


def _in_finally_before(end: Step, step: Step) -> bool:
    return any(each.part == "finally" and within(step.context, each.node, "try") for each in chain(end.context))


def _is_reopened(scope: Scope, step: Step, node: ast.Attribute, opening: Opening) -> bool:
    """Whether another session has been given the instance meanwhile."""
    name = ast.unparse(node.value)
    return any(
        each.method in ("add", "merge", "refresh", "add_all")
        and each.step.order < step.order
        and not same(each.session, opening.session)
        and any(ast.unparse(one) == name for one in each.call.args)
        for each in scope.uses.operations
    )


def _is_added(scope: Scope, node: ast.expr, session: Session) -> bool:
    name = ast.unparse(node)
    return any(
        each.method in ("add", "add_all", "refresh") and any(name in _names(one) for one in each.call.args)
        for each in scope.uses.of(session)
    )


def _names(node: ast.expr) -> set[str]:
    return {ast.unparse(each) for each in (node.elts if isinstance(node, ast.List | ast.Tuple) else [node])}


def is_let_go(scope: Scope, step: Step, node: ast.expr) -> bool:
    """Whether ``expunge()`` or ``make_transient()`` has taken it out of its session on purpose."""
    name = ast.unparse(node)
    for each in scope.body.calls:
        call = each.node
        if each.order < step.order and isinstance(call, ast.Call):
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if called == "expunge_all" or (
                called in ("expunge", "make_transient") and any(ast.unparse(one) == name for one in call.args)
            ):
                return True
    return False
