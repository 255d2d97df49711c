"""An attribute that is read after the session that loaded the instance has ended."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import detached_access, detached_touch
from ..body import Step, within
from ..values import Instance
from ._base import Hit, Pattern, Scope
from ._loaded import ended, given, is_let_go, is_mapped, needs_load, parameter_of, reads

if TYPE_CHECKING:
    from ..body import Binding
    from ..use import Opening


def find(scope: Scope) -> Iterator[Hit]:
    """Reads behind the block or the close(), and reads of what another function let out of its block."""
    seen: set[tuple[str, str]] = set()
    for step, node, instance in reads(scope):
        model, name = instance.model, node.attr
        key = (ast.unparse(node.value), name)
        if key in seen or not is_mapped(scope, model, name) or is_let_go(scope, step, node.value):
            continue
        hit = _judged(scope, step, node, instance)
        if hit is not None and (hit.certain or isinstance(node.value, ast.Name)):
            seen.add(key)
            yield hit


def _judged(scope: Scope, step: Step, node: ast.Attribute, instance: Instance) -> Hit | None:
    opening = ended(scope, step, node, instance)
    if opening is not None:
        return _of_own(scope, step, node, instance, opening)
    if instance.detached:
        return _hit(scope, step, node, instance, instance.expired, "the block that loaded it has ended")
    argument = parameter_of(scope, node.value) if instance.how == "parameter" else None
    for handed in given(scope, scope.function, argument) if argument is not None else ():
        if handed.detached and needs_load(scope, handed, node.attr):
            return _hit(scope, step, node, handed, handed.expired, "a caller hands it over after its block has ended")
    return None


def _hit(scope: Scope, step: Step, node: ast.Attribute, instance: Instance, expired: bool, why: str) -> Hit:
    name = f"{instance.model.name}.{node.attr}"
    if needs_load(scope, instance, node.attr):
        return Hit(
            step.line, f"{name} is loaded when it is read, and {why}", instance.session is None or instance.session.sure
        )
    if expired and instance.session is not None and instance.session.expires is not False:
        certain = instance.session.expires is True and instance.session.sure
        return Hit(step.line, f"{name} has expired, and {why}", certain)
    return Hit(step.line, f"{name} is read, and {why}", False, detached_touch.RULE)


def _of_own(scope: Scope, step: Step, node: ast.Attribute, instance: Instance, opening: Opening) -> Hit | None:
    if _was_read_inside(scope, step, node, opening):
        return None
    expired = _expired(scope, node.value, opening)
    session = opening.session
    found = Instance(instance.model, session, instance.eager, True, expired, instance.how)
    if instance.how == "new" and not expired:
        return None
    if instance.how == "new":
        found = Instance(instance.model, session, None, True, expired)
    return _hit(scope, step, node, found, expired, "the session has ended")


def _was_read_inside(scope: Scope, late: Step, node: ast.Attribute, opening: Opening) -> bool:
    """Whether the block has read, and so loaded, the same attribute after its last commit."""
    text = ast.unparse(node)
    commits = [each.step.order for each in scope.uses.of(opening.session) if each.method == "commit"]
    last = max((each for each in commits if each < late.order), default=0)
    within_block = [each for each in scope.body.reads if opening.item is None or within(each.context, opening.item)]
    if any(last < step.order < late.order and ast.unparse(step.node) == text for step in within_block):
        return True
    owner = ast.unparse(node.value)
    for each in scope.uses.of(opening.session):
        named = " ".join(ast.unparse(one) for one in each.call.args[1:])
        if each.method == "refresh" and last < each.step.order < late.order and node.attr in named:
            return ast.unparse(each.call.args[0]) == owner
    inner = [each for each in scope.function.module.functions if each.outer is scope.function]
    return any(ast.unparse(step.node) == text for each in inner for step in scope.inference.body(each).reads)


def _expired(scope: Scope, node: ast.expr, opening: Opening) -> bool:
    """Whether the block committed once it had the instance, and did not refresh it after that."""
    if opening.session.begun:
        return True
    name = ast.unparse(node)
    uses, state = list(scope.uses.of(opening.session)), False
    asked = _asked(scope.body.bindings.get(name, []), {each.call for each in uses})
    for each in uses:
        if each.step.order < asked:
            continue
        if each.method in ("commit", "expire_all", "rollback") and opening.session.expires is not False:
            state = True
        elif each.method in ("refresh", "expunge") and any(ast.unparse(one) == name for one in each.call.args):
            state = False
    return state


def _asked(bindings: list[Binding], calls: set[ast.Call]) -> int:
    """Since when a name has what the session was asked for by then; 0 where that is not all that it ever gets."""
    values = [ast.walk(one.expr) if one.how == "value" and one.expr is not None else () for one in bindings]
    asked = all(any(node in calls for node in value) for value in values)
    return min((binding.order for binding in bindings), default=0) if asked else 0


PATTERN = Pattern("read-after-block", "an attribute read after the block that loaded it", detached_access.RULE, find)
