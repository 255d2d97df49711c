"""What every anti-pattern is made of, and what several of them ask."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from ..body import Body, Context, Step, chain, within
from ..values import FunctionValue, Session, Value

if TYPE_CHECKING:
    from ...model import Rule
    from ..infer import Inference
    from ..tree import Function
    from ..use import Effects, Opening, Operation, Usage, Uses

Confidence = Literal["certain", "likely"]


@dataclass(frozen=True, slots=True)
class Hit:
    """An anti-pattern at a line. ``rule``: where it is not the pattern's own."""

    line: int
    message: str
    certain: bool = True
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """One function, and whom to ask about it."""

    inference: Inference
    usage: Usage
    function: Function
    uses: Uses

    @property
    def body(self) -> Body:
        return self.uses.body

    def value(self, node: ast.expr | None) -> Value | None:
        return self.inference.value(node, self.function)

    @property
    def is_test(self) -> bool:
        """A test or fixture of pytest: it plays several parts at once."""
        names = self.function.decorators
        return self.function.name.rpartition(".")[2].startswith("test") or any("fixture" in name for name in names)


@dataclass(frozen=True, slots=True)
class Pattern:
    """An anti-pattern: its name, what it is in one line, the rule that it leads to, and how it is found."""

    name: str
    title: str
    rule: Rule
    find: Callable[[Scope], Iterator[Hit]]


def described(session: Session) -> str:
    return "AsyncSession" if session.asynchronous else "session"


def in_loop(context: Context | None, outside: Context | None = None) -> bool:
    """Whether it stands in a loop or comprehension that ``outside`` does not stand in."""
    around = {id(each.node) for each in chain(outside)}
    return any(each.part in ("loop", "comprehension") and id(each.node) not in around for each in chain(context))


def ends(scope: Scope, opening: Opening) -> list[Operation]:
    """The calls by hand that end the session."""
    return [
        each for each in scope.uses.of(opening.session) if each.method in ("close", "remove", "reset", "invalidate")
    ]


def outside(step: Step, item: ast.withitem) -> bool:
    """Whether it stands behind the block of a with statement."""
    return not within(step.context, item)


def after_block(scope: Scope, step: Step, item: ast.withitem) -> bool:
    """Whether it runs once the block has ended."""
    entered = next((each.order for each in scope.body.withs if each.node is item), None)
    return entered is not None and step.order > entered and outside(step, item)


def reach(scope: Scope, session: Session) -> Effects:
    """All that is done to a session here and below."""
    return scope.usage.effects(scope.function, session)


def called(scope: Scope, call: ast.Call) -> Function | None:
    """The function of the tree that is called."""
    value = scope.value(call.func)
    return value.function if isinstance(value, FunctionValue) else None


def is_always_raised(scope: Scope, after: Step, around: ast.AST | None = None) -> bool:
    """Whether an exception leaves the block (or the function) behind this step, in no branch and caught by nobody."""
    for each in scope.body.raises:
        inside = list(takewhile(lambda context: context.node is not around, chain(each.context)))
        if each.order > after.order and all(map(_lets_out, inside)):
            return True
    return False


def _lets_out(context: Context) -> bool:
    node = context.node
    if isinstance(node, ast.withitem):
        return "suppress" not in ast.unparse(node.context_expr) and "raises" not in ast.unparse(node.context_expr)
    caught = context.part == "try" and isinstance(node, ast.Try | ast.TryStar) and bool(node.handlers)
    return not caught and context.part not in ("if", "orelse", "handler", "loop")


__all__ = [
    "Hit",
    "Pattern",
    "Scope",
    "after_block",
    "called",
    "described",
    "ends",
    "in_loop",
    "is_always_raised",
    "reach",
]
