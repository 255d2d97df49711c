"""An attribute that a coroutine reads after the commit of an AsyncSession has expired it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import implicit_io
from ..body import dominates, may_follow
from ..calls import as_session
from ..use import Operation
from ..values import Instance, Session
from ._base import Hit, Pattern, Scope, same
from ._loaded import is_mapped, reads


def find(scope: Scope) -> Iterator[Hit]:
    """The first read of each instance after a commit, where the session is one that expires."""
    if not scope.function.is_async:
        return
    seen: set[str] = set()
    for step, node, instance in reads(scope):
        owner = ast.unparse(node.value)
        session = _session(scope, instance, owner)
        if owner in seen or session is None or session.expires is not True or not session.asynchronous:
            continue
        if not is_mapped(scope, instance.model, node.attr) or instance.detached:
            continue
        commits = [each for each in scope.uses.of(session) if each.method == "commit" and dominates(each.step, step)]
        if commits and not _is_fresh(scope, owner, commits[-1], step.order) and _is_older(scope, node, commits[-1]):
            seen.add(owner)
            yield Hit(
                step.line,
                f"{instance.model.name}.{node.attr} has expired with the commit and is loaded when it is read",
                session.sure,
            )


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
