"""Two sessions in one function that both commit writes: half of the work can be stored without the other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from ...rules import split_unit_of_work
from ..body import Step, chain, may_follow
from ..tree import Function
from ..use import Opening, begun_blocks, in_handler
from ..values import FunctionValue, Session
from ._base import Hit, Pattern, Scope, reach


def find(scope: Scope) -> Iterator[Hit]:
    """The second opening, where both write and commit; the second call of functions that do it each for themselves."""
    if isinstance(scope.function.node, ast.ClassDef) or scope.body.is_generator:
        return
    openings = [
        each for each in scope.uses.openings if each.session.how in ("call", "with") and not in_handler(each.step)
    ]
    storing = [each for each in openings if _stores(scope, each)]
    plain = isinstance(scope.function.node, ast.Module) or scope.is_test
    for first, second in pairwise(storing):
        unit = _unit(first.step, second.step)
        if first.line == second.line or not may_follow(first.step, second.step) or _apart(first, second):
            continue
        if unit == "declared many" or (plain and unit is None):
            continue
        certain = _same_source(first.session, second.session) and (unit is not None or not _is_outermost(scope))
        text = f"a second session writes and commits, after that of line {first.line}: if it fails, half is stored"
        yield Hit(second.line, text, certain)
        return
    if not plain and not storing:
        yield from _called(scope)


def _called(scope: Scope) -> Iterator[Hit]:
    """``create(); update()``, each with a session of its own."""
    storing: list[tuple[Step, Function]] = []
    for step in scope.body.calls:
        value = scope.value(step.node.func) if isinstance(step.node, ast.Call) else None
        if isinstance(value, FunctionValue) and not in_handler(step) and _stores_alone(scope, value.function):
            storing.append((step, value.function))
    for (first, one), (second, other) in pairwise(storing):
        if first.line != second.line and may_follow(first, second) and not _is_outermost(scope):
            names = f"{one.name.rpartition('.')[2]}() and {other.name.rpartition('.')[2]}()"
            yield Hit(second.line, f"{names} commit in a session each: if the second fails, half is stored", False)
            return


def _stores_alone(scope: Scope, function: Function) -> bool:
    inner = Scope(scope.inference, scope.usage, function, scope.usage.of(function))
    return any(each.session.how in ("call", "with") and _stores(inner, each) for each in inner.uses.openings)


def _unit(first: Step, second: Step) -> str | None:
    """The ``unit_of_work()`` block that both stand in: "declared", "declared many" where it says that it has many."""
    around = {id(each.node) for each in chain(first.context)}
    for each in chain(second.context):
        if isinstance(each.node, ast.withitem) and id(each.node) in around:
            text = ast.unparse(each.node.context_expr)
            if "unit_of_work(" in text:
                return "declared many" if "many" in text else "declared"
    return None


def _stores(scope: Scope, opening: Opening) -> bool:
    effects = reach(scope, opening.session)
    commits = effects.commits or opening.session.begun or bool(begun_blocks(scope.uses, opening.session))
    return effects.writes and commits


def _apart(first: Opening, second: Opening) -> bool:
    """Bound to different engines."""
    one, other = first.session.source, second.session.source
    if one is None or other is None or type(one) is not type(other):
        return False
    return one.place is not None and other.place is not None and one.place is not other.place


def _same_source(one: Session, other: Session) -> bool:
    if one.provider is not None or other.provider is not None:
        return one.provider is other.provider and one.sure
    if one.source is None or other.source is None:
        return False
    return one.source.place is other.source.place and one.sure and other.sure


def _is_outermost(scope: Scope) -> bool:
    """Called by nobody but the module's own code: the program itself, whose parts are units of their own."""
    if scope.function.decorators:
        return False
    callers = scope.inference.callers(scope.function)
    return scope.function.name == "main" or (bool(callers) and all(not caller.is_def for caller, _ in callers))


PATTERN = Pattern("two-sessions", "two sessions that commit in one function", split_unit_of_work.RULE, find)
