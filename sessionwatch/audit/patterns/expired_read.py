"""An attribute that a coroutine reads after the commit of an AsyncSession has expired it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import implicit_io
from ..body import Step, dominates, may_follow
from ..hands import as_session
from ..use import same
from ._base import Hit, Pattern, Scope
from ._loaded import is_mapped, reads

if TYPE_CHECKING:
    from ..use import Operation
    from ..values import Instance, Session


def find(scope: Scope) -> Iterator[Hit]:
    """The first read of each instance after what expires it: a commit of a session that expires, a rollback, …"""
    if not scope.function.is_async:
        return
    seen: set[str] = set()
    for step, node, instance in reads(scope):
        owner = ast.unparse(node.value)
        session = _session(scope, instance, owner)
        if owner in seen or session is None or not session.asynchronous or instance.detached:
            continue
        ending = _expiry(scope, session, step, owner) if is_mapped(scope, instance.model, node.attr) else None
        if ending is not None and not _is_fresh(scope, owner, ending, step.order) and _is_older(scope, node, ending):
            seen.add(owner)
            name = f"{instance.model.name}.{node.attr}"
            yield Hit(step.line, f"{name} has expired by {ending.method}() and is loaded when it is read", session.sure)


def _expiry(scope: Scope, session: Session, step: Step, owner: str) -> Operation | None:
    """The last call before the read that expired the instance for certain."""
    found = None
    for each in scope.uses.of(session):
        by_commit = each.method == "commit" and session.expires is True
        by_hand = each.method in ("rollback", "expire_all")
        by_name = each.method == "expire" and len(each.call.args) == 1 and ast.unparse(each.call.args[0]) == owner
        if (by_commit or by_hand or by_name) and dominates(each.step, step):
            found = each
    return found


def _session(scope: Scope, instance: Instance, owner: str) -> Session | None:
    if instance.session is not None:
        return instance.session
    for each in scope.uses.operations:
        if each.method in ("add", "add_all", "refresh") and any(owner == ast.unparse(one) for one in each.call.args):
            return as_session(each.session)
    return None


def _is_older(scope: Scope, node: ast.Attribute, commit: Operation) -> bool:
    """Whether the instance was there at the commit."""
    if not isinstance(node.value, ast.Name):
        return False
    bindings = scope.body.bindings.get(node.value.id, ())
    return bool(bindings) and all(each.order < commit.step.order for each in bindings)


def _is_fresh(scope: Scope, owner: str, commit: Operation, order: int) -> bool:
    return any(
        each.method in ("refresh", "merge")
        and commit.step.order < each.step.order < order
        and may_follow(commit.step, each.step)
        for each in scope.uses.operations
        if same(each.session, commit.session) and any(ast.unparse(one) == owner for one in each.call.args)
    )


PATTERN = Pattern(
    "expired-read", "an attribute read after the commit of an AsyncSession that expires", implicit_io.RULE, find
)
