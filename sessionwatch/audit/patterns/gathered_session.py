"""One AsyncSession that several coroutines of one ``gather()`` use."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import cross_task
from ..body import chain, within
from ..callers import argument_of
from ..hands import as_session
from ..tree import Function, dotted
from ..values import FunctionValue, Method, Session
from ._base import Hit, Pattern, Scope

_GATHERS = frozenset({"gather", "wait", "as_completed"})
_DEPTH = 3


def find(scope: Scope) -> Iterator[Hit]:
    """Coroutines side by side that share a session: given to each, or kept in the object whose methods they are."""
    for step in scope.body.calls:
        call = step.node
        if not isinstance(call, ast.Call) or _name(call.func) not in _GATHERS:
            continue
        users: list[tuple[int, bool, bool]] = []  # id of the session's origin, known to use it, in a comprehension
        for argument in call.args:
            users += [
                (key, sure, many)
                for coroutine, many in _coroutines(scope, argument)
                for key, sure in _sessions(scope, coroutine, many)
            ]
        for key in dict.fromkeys(key for key, _, _ in users):
            mine = [(sure, many) for each, sure, many in users if each == key]
            if len(mine) > 1 or any(many for _, many in mine):
                certain = all(sure for sure, _ in mine)
                yield Hit(step.line, "several coroutines of one gather() use the same AsyncSession", certain)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _coroutines(scope: Scope, node: ast.expr, depth: int = 6) -> Iterator[tuple[ast.Call, bool]]:
    """The calls that make the coroutines; True where a loop makes many of one."""
    if depth == 0:
        return
    match node:
        case ast.Starred():
            yield from _coroutines(scope, node.value, depth - 1)
        case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
            yield from ((call, True) for call, _ in _coroutines(scope, node.elt, depth - 1))
        case ast.List() | ast.Tuple() | ast.Set():
            for each in node.elts:
                yield from _coroutines(scope, each, depth - 1)
        case ast.Call():
            if _name(node.func) in ("create_task", "ensure_future", "wait_for", "shield") and node.args:
                yield from _coroutines(scope, node.args[0], depth - 1)
            elif _name(node.func) == "map" and node.args and isinstance(node.args[0], ast.Lambda):
                yield from ((call, True) for call, _ in _coroutines(scope, node.args[0].body, depth - 1))
            elif _name(node.func) in ("list", "tuple") and node.args:
                yield from _coroutines(scope, node.args[0], depth - 1)
            else:
                yield node, False
        case ast.Name():
            yield from _of_variable(scope, node, depth - 1)


def _of_variable(scope: Scope, node: ast.Name, depth: int) -> Iterator[tuple[ast.Call, bool]]:
    for binding in scope.body.bindings.get(node.id, ()):
        if binding.how == "value" and isinstance(binding.expr, ast.ListComp | ast.List | ast.Tuple | ast.Call):
            yield from _coroutines(scope, binding.expr, depth)
    for step in scope.body.calls:
        call = step.node
        if isinstance(call, ast.Call) and dotted(call.func) == f"{node.id}.append" and call.args:
            looped = any(each.part == "loop" for each in chain(step.context))
            yield from ((made, many or looped) for made, many in _coroutines(scope, call.args[0], depth))


def _sessions(scope: Scope, call: ast.Call, many: bool) -> Iterator[tuple[int, bool]]:
    """The sessions that a coroutine works with that were not made for it; True where it is seen to use it."""
    value = scope.value(call.func)
    if isinstance(value, Method):
        session = as_session(value.owner)
        if _counts(scope, session, call, many):
            yield id(session.origin) if session else 0, True
        return
    target = value.function if isinstance(value, FunctionValue) else None
    for argument in (*call.args, *(word.value for word in call.keywords)):
        session = as_session(scope.value(argument))
        if target is not None and _is_locked(scope, target):
            continue
        if session is not None and _counts(scope, session, call, many):
            yield id(session.origin), session.sure and target is not None and _uses(scope, target, call, argument)
    if target is not None and isinstance(call.func, ast.Attribute):
        yield from ((key, True) for key in _kept(scope, target, _DEPTH, frozenset()))


def _is_locked(scope: Scope, target: Function) -> bool:
    """Whether it works behind a lock, one after the other."""
    items = [each.node for each in scope.inference.body(target).withs]
    return any("lock" in ast.unparse(each.context_expr).lower() for each in items if isinstance(each, ast.withitem))


def _counts(scope: Scope, session: Session | None, call: ast.Call, many: bool) -> bool:
    if session is None or not session.asynchronous or session.origin is None or session.how == "registry":
        return False
    if any(node is session.origin for node in ast.walk(call)):
        return False
    return not (many and _is_made_per_round(scope, session, call))


def _is_made_per_round(scope: Scope, session: Session, call: ast.Call) -> bool:
    """Whether each round of the loop around the coroutine makes its own."""
    opened = next((each for each in scope.uses.openings if each.session.origin is session.origin), None)
    if opened is None:
        return False
    loops = [each.node for each in chain(opened.step.context) if each.part == "loop"]
    return any(within(scope.body.contexts.get(call), loop) for loop in loops)


def _uses(scope: Scope, target: Function, call: ast.Call, given: ast.expr) -> bool:
    for argument in target.arguments:
        if argument_of(target, argument, call) is given:
            inner = as_session(scope.inference.parameter(target, argument)) or Session(True, argument)
            return scope.usage.effects(target, inner).io
    return False


def _kept(scope: Scope, method: Function, depth: int, seen: frozenset[Function]) -> set[int]:
    """The AsyncSessions that a method takes from its object."""
    if depth == 0 or method in seen:
        return set()
    uses = scope.usage.of(method)
    found = {
        id(each.session.origin)
        for each in uses.operations
        if each.io and each.session.asynchronous and each.session.how == "attribute"
    }
    for step in uses.body.calls:
        if isinstance(step.node, ast.Call) and isinstance(step.node.func, ast.Attribute):
            value = scope.inference.value(step.node.func, method)
            if isinstance(value, FunctionValue) and value.bound:
                found |= _kept(scope, value.function, depth - 1, seen | {method})
    return found


PATTERN = Pattern("gathered-session", "one AsyncSession in gather()", cross_task.RULE, find)
