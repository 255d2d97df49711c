"""Two sessions in one function that both commit writes: half of the work can be stored without the other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ...rules import split_unit_of_work
from ..body import Step, chain, may_follow
from ..use import Opening, begun_blocks, in_handler
from ..values import FunctionValue, Session
from ._base import Hit, Pattern, Scope, reach

if TYPE_CHECKING:
    from ..tree import Function


@dataclass(frozen=True, slots=True)
class _Work:
    """A session that is opened here, or a call of a function that opens one for itself."""

    step: Step
    opening: Opening | None = None
    function: Function | None = None


def find(scope: Scope) -> Iterator[Hit]:
    """The second opening, where both write and commit; the second call of functions that do it each for themselves."""
    if isinstance(scope.function.node, ast.ClassDef) or scope.body.is_generator:
        return
    plain = isinstance(scope.function.node, ast.Module) or scope.is_test
    work = sorted((*_opened(scope), *_called(scope)), key=lambda each: each.step.order)
    for first, second in pairwise(work):
        unit = _unit(first.step, second.step)
        if not may_follow(first.step, second.step) or _apart(first.opening, second.opening):
            continue
        if unit == "declared many" or (plain and unit is None):
            continue
        outermost = unit is None and _is_outermost(scope)
        if second.opening is not None:
            text = f"a second session commits writes, after that of line {_line(first)}: if it fails, half is stored"
            same_source = first.opening is not None and _same_source(first.opening.session, second.opening.session)
            yield Hit(second.opening.line, text, same_source and not outermost)
        elif not outermost:
            text = f"{_name(second)} commits in a session of its own, after line {_line(first)} did: half may be stored"
            yield Hit(second.step.line, text, False)
        return


def _line(work: _Work) -> int:
    return work.opening.line if work.opening is not None else work.step.line


def _name(work: _Work) -> str:
    return f"{work.function.name.rpartition('.')[2]}()" if work.function is not None else "it"


def _opened(scope: Scope) -> Iterator[_Work]:
    for each in scope.uses.openings:
        if each.session.how in ("call", "with") and not in_handler(each.step) and _stores(scope, each):
            yield _Work(each.step, each)


def _called(scope: Scope) -> Iterator[_Work]:
    """``create(); update()``, each with a session of its own."""
    for step in scope.body.calls:
        value = scope.value(step.node.func) if isinstance(step.node, ast.Call) else None
        if isinstance(value, FunctionValue) and not in_handler(step) and _stores_alone(scope, value.function):
            yield _Work(step, function=value.function)


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


def _apart(first: Opening | None, second: Opening | None) -> bool:
    """Bound to different engines."""
    if first is None or second is None:
        return False
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
