"""Two sessions in one function that both commit writes: half of the work can be stored without the other."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import split_unit_of_work
from ..body import may_follow
from ..use import Opening, begun_blocks, in_handler
from ..values import Session
from ._base import Hit, Pattern, Scope, reach


def find(scope: Scope) -> Iterator[Hit]:
    """The second opening, where both write and commit."""
    if isinstance(scope.function.node, ast.Module | ast.ClassDef) or scope.is_test or scope.body.is_generator:
        return
    openings = [
        each for each in scope.uses.openings if each.session.how in ("call", "with") and not in_handler(each.step)
    ]
    storing = [each for each in openings if _stores(scope, each)]
    for first, second in zip(storing, storing[1:], strict=False):
        if first.line != second.line and may_follow(first.step, second.step) and not _apart(first, second):
            certain = _same_source(first.session, second.session) and not _is_outermost(scope)
            yield Hit(
                second.line,
                f"a second session writes and commits, after that of line {first.line}: if it fails, half is stored",
                certain,
            )
            return


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
