"""A lazy relationship that is read in a loop over what a query returned: one more query per row."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import n_plus_one
from ..body import Context, Step, chain
from ..use import same
from ..values import Instance, Many, Query, Rows, Session, Value
from ._base import Hit, Pattern, Scope, in_loop
from ._loaded import ended, is_mapped, may_be_present, needs_load, reads

if TYPE_CHECKING:
    from ..mapped import Model

_FEW = 5  # parents, as the rule counts them


def find(scope: Scope) -> Iterator[Hit]:
    """The first read of each attribute in each loop, awaited ones too, and ``get()`` in a loop."""
    seen: set[tuple[int, str]] = set()
    for step, node, instance in reads(scope):
        loop = _loop(scope, step, node.value)
        key = (id(loop), f"{instance.model.name}.{node.attr}")
        hit = _judged(scope, step, node, instance) if loop is not None and key not in seen else None
        if hit is not None:
            seen.add(key)
            yield hit
    for step, node, instance in _awaitable(scope):
        loop = _loop(scope, step, node.value.value) if isinstance(node.value, ast.Attribute) else None
        if loop is not None and needs_load(scope, instance, node.attr):
            yield Hit(step.line, _text(instance, node.attr), instance.session is not None and instance.session.sure)
    yield from _gets(scope)


def _awaitable(scope: Scope) -> Iterator[tuple[Step, ast.Attribute, Instance]]:
    """``await order.awaitable_attrs.items``."""
    for step in scope.body.reads:
        node = step.node
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            value = scope.value(node.value.value) if node.value.attr == "awaitable_attrs" else None
            if isinstance(value, Instance):
                yield step, node, value


def _text(instance: Instance, name: str) -> str:
    return f"{instance.model.name}.{name} is loaded for one {instance.model.name} after the other in this loop"


def _judged(scope: Scope, step: Step, node: ast.Attribute, instance: Instance) -> Hit | None:
    session = instance.session
    if instance.detached or (session is not None and (session.asynchronous or ended(scope, step, node, instance))):
        return None  # that is not slow, it fails
    relation = scope.inference.models.relation(instance.model, node.attr)
    limit = _limit(scope, node.value, step)
    if (limit is not None and 0 < limit < _FEW) or (relation and may_be_present(scope, step, instance, relation)):
        return None
    if session is not None and (needs_load(scope, instance, node.attr) or _is_expired(scope, step, node, session)):
        return Hit(step.line, _text(instance, node.attr), session.sure and limit != 0)
    lazy = relation is not None and relation.lazy
    if lazy and instance.how == "parameter" and session is None and not scope.function.is_async:
        return Hit(step.line, f"{_text(instance, node.attr)}, unless the caller has loaded it", False)
    return None


def _is_expired(scope: Scope, step: Step, node: ast.Attribute, session: Session) -> bool:
    """Whether a commit or rollback stands between the query and the loop."""
    if not is_mapped(scope, _model(scope, node), node.attr) or not isinstance(node.value, ast.Name):
        return False
    source = next((each.expr for each in scope.body.bindings.get(node.value.id, ()) if each.how == "element"), None)
    made = scope.body.bindings.get(source.id, ()) if isinstance(source, ast.Name) else ()
    loops = [each.order for each in scope.body.loops if getattr(each.node, "iter", None) is source]
    if len(made) != 1 or not loops:
        return False
    return any(
        made[0].order < each.step.order < loops[0]
        for each in scope.uses.of(session)
        if (each.method == "commit" and session.expires is True) or each.method in ("rollback", "expire_all")
    )


def _model(scope: Scope, node: ast.Attribute) -> Model:
    value = scope.value(node.value)
    assert isinstance(value, Instance)
    return value.model


def _gets(scope: Scope) -> Iterator[Hit]:
    """One ``session.get()`` per round."""
    for each in scope.uses.operations:
        opened = next((one for one in scope.uses.openings if same(one.session, each.session)), None)
        around = opened.step.context if opened is not None else None
        if each.method in ("get", "get_one") and in_loop(each.step.context, around) and _is_for(each.step, around):
            yield Hit(each.line, f"{each.method}() is called for one key after the other in this loop", False)


def _is_for(step: Step, around: Context | None) -> bool:
    """In a for loop or comprehension, not in a while loop, which may wait for something."""
    outer = {id(each.node) for each in chain(around)}
    return any(
        each.part in ("loop", "comprehension") and not isinstance(each.node, ast.While) and id(each.node) not in outer
        for each in chain(step.context)
    )


def _limit(scope: Scope, node: ast.expr, step: Step) -> int | None:
    """The LIMIT of the query that is looped over."""
    for binding in reversed(scope.body.bindings.get(node.id, ()) if isinstance(node, ast.Name) else ()):
        if binding.order < step.order and isinstance(binding.expr, ast.expr):
            value = scope.value(binding.expr)
            return value.statement.limit if isinstance(value, Query | Rows) else None
    return None


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
