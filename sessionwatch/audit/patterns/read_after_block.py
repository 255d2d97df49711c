"""An attribute that is read after the session that loaded the instance has ended."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import detached_access, detached_touch
from ..body import Step, chain, dominates, within
from ..use import Opening
from ..values import Instance, Session
from ._base import Hit, Pattern, Scope, after_block, ends, same
from ._loaded import given, is_mapped, lazy, parameter_of, reads


def find(scope: Scope) -> Iterator[Hit]:
    """Reads behind the block or the close(), and reads of what another function let out of its block."""
    seen: set[tuple[str, str]] = set()
    for step, node, instance in reads(scope):
        model, name = instance.model, node.attr
        key = (ast.unparse(node.value), name)
        if key in seen or not is_mapped(scope, model, name):
            continue
        hit = _judged(scope, step, node, instance)
        if hit is not None:
            seen.add(key)
            yield hit


def _judged(scope: Scope, step: Step, node: ast.Attribute, instance: Instance) -> Hit | None:
    opening = _ended(scope, step, node, instance)
    if opening is not None:
        return _of_own(scope, step, node, instance, opening)
    if instance.detached:
        return _hit(scope, step, node, instance, instance.expired, "the block that loaded it has ended")
    argument = parameter_of(scope, node.value) if instance.how == "parameter" else None
    for handed in given(scope, scope.function, argument) if argument is not None else ():
        if handed.detached and lazy(scope, handed, node.attr) is not None:
            return _hit(scope, step, node, handed, handed.expired, "a caller hands it over after its block has ended")
    return None


def _hit(scope: Scope, step: Step, node: ast.Attribute, instance: Instance, expired: bool, why: str) -> Hit:
    name = f"{instance.model.name}.{node.attr}"
    if lazy(scope, instance, node.attr) is not None:
        return Hit(
            step.line, f"{name} is loaded when it is read, and {why}", instance.session is None or instance.session.sure
        )
    if expired and instance.session is not None and instance.session.expires is not False:
        certain = instance.session.expires is True and instance.session.sure
        return Hit(step.line, f"{name} has expired with the commit, and {why}", certain)
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


def _ended(scope: Scope, step: Step, node: ast.Attribute, instance: Instance) -> Opening | None:
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
    for each in scope.uses.operations:
        if each.method in ("add", "merge", "refresh", "add_all") and each.step.order < step.order:
            if not same(each.session, opening.session) and any(ast.unparse(one) == name for one in each.call.args):
                return True
    return False


def _is_added(scope: Scope, node: ast.expr, session: Session) -> bool:
    name = ast.unparse(node)
    return any(
        each.method in ("add", "add_all", "refresh") and any(name in _names(one) for one in each.call.args)
        for each in scope.uses.of(session)
    )


def _names(node: ast.expr) -> set[str]:
    return {ast.unparse(each) for each in (node.elts if isinstance(node, ast.List | ast.Tuple) else [node])}


def _was_read_inside(scope: Scope, late: Step, node: ast.Attribute, opening: Opening) -> bool:
    """Whether the block has read, and so loaded, the same attribute after its last commit."""
    text = ast.unparse(node)
    commits = [each.step.order for each in scope.uses.of(opening.session) if each.method == "commit"]
    last = max((each for each in commits if each < late.order), default=0)
    for step in scope.body.reads:
        if last < step.order < late.order and isinstance(step.node, ast.Attribute) and ast.unparse(step.node) == text:
            if opening.item is None or within(step.context, opening.item):
                return True
    return False


def _expired(scope: Scope, node: ast.expr, opening: Opening) -> bool:
    """Whether the block committed, and did not refresh the instance after that."""
    if opening.session.begun:
        return True
    name = ast.unparse(node)
    state = False
    for each in scope.uses.of(opening.session):
        if each.method in ("commit", "expire_all"):
            state = True
        elif each.method in ("refresh", "expunge") and any(ast.unparse(one) == name for one in each.call.args):
            state = False
    return state


PATTERN = Pattern("read-after-block", "an attribute read after the block that loaded it", detached_access.RULE, find)
