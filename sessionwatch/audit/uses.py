"""What one function does with sessions, as data."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .body import Body, Step, chain

if TYPE_CHECKING:
    from .tree import Function
    from .values import Instance, Session


@dataclass(eq=False, slots=True)
class Operation:
    """One call on a session, or on a query of it."""

    step: Step
    call: ast.Call
    method: str  # "query.all" where it is called on a Query
    session: Session
    io: bool = False
    writes: bool = False
    verb: str = ""  # of the statement that is executed
    surely: bool = False  # it changes rows for certain: an INSERT, a new object, no UPDATE that may match nothing

    @property
    def line(self) -> int:
        """Of the method's name: a chain of calls may begin lines before."""
        return self.call.lineno


@dataclass(eq=False, slots=True)
class Opening:
    """A session is made or obtained here. ``item``: by this with statement, which ends it."""

    step: Step
    session: Session
    item: ast.withitem | None = None

    @property
    def line(self) -> int:
        node = self.item.context_expr if self.item is not None else self.step.node
        return getattr(node, "lineno", 0)


@dataclass(eq=False, slots=True)
class Handing:
    """A session is an argument of a call. ``to`` is the function, where it is of the tree."""

    step: Step
    call: ast.Call
    session: Session
    argument: ast.expr
    to: Function | None = None


@dataclass(slots=True)
class Uses:
    """See the module's docstring."""

    function: Function
    body: Body
    openings: list[Opening] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    handed: list[Handing] = field(default_factory=list)
    escapes: set[int] = field(default_factory=set)  # ids of the origins of sessions that leave the function
    connections: list[Operation] = field(default_factory=list)  # what is done on Core connections
    dirty: list[tuple[Step, Instance]] = field(default_factory=list)  # attributes of instances that are set
    sets: set[int] = field(default_factory=set)  # orders of those that change something for certain

    def of(self, session: Session) -> list[Operation]:
        return [each for each in self.operations if same(each.session, session)]

    def escaped(self, session: Session) -> bool:
        return id(session.origin) in self.escapes


@dataclass(frozen=True, slots=True)
class Effects:
    """What a function does to a session that it is given, with all that it calls. ``unknown``: it hands it on to code
    that is not in the tree."""

    commits: bool = False
    rolls_back: bool = False
    closes: bool = False
    writes: bool = False
    io: bool = False
    unknown: bool = False

    def __or__(self, other: Effects) -> Effects:
        return Effects(
            self.commits or other.commits,
            self.rolls_back or other.rolls_back,
            self.closes or other.closes,
            self.writes or other.writes,
            self.io or other.io,
            self.unknown or other.unknown,
        )


def same(first: Session, second: Session) -> bool:
    """Whether they are one session."""
    return first.origin is not None and first.origin is second.origin


def begun_blocks(uses: Uses, session: Session) -> list[Step]:
    """``with session.begin():`` blocks, which commit."""
    found = []
    for step in uses.body.withs:
        expr = step.node.context_expr if isinstance(step.node, ast.withitem) else None
        if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Attribute) and expr.func.attr == "begin":
            found += [step for each in uses.operations if each.call is expr and same(each.session, session)]
    return found


_PARTS = frozenset({"begin", "begin_nested", "connection", "get_transaction", "get_nested_transaction", "get_bind"})
_ENDS = frozenset({"commit", "rollback", "prepare"})


def settled_by_parts(body: Body, uses: Uses, session: Session) -> list[Step]:
    """Commits and rollbacks of what the session has given out: its transaction, its connection, the driver's."""
    calls = {each.call for each in uses.of(session) if each.method in _PARTS}
    names: set[str] = set()
    for _ in range(3):
        for name, bindings in body.bindings.items():
            for binding in bindings:
                if isinstance(binding.expr, ast.expr) and _stems(binding.expr, calls, names):
                    names.add(name)
    return [
        step
        for step in body.calls
        if isinstance(step.node, ast.Call)
        and isinstance(step.node.func, ast.Attribute)
        and step.node.func.attr in _ENDS
        and _stems(step.node.func.value, calls, names)
    ]


def _stems(node: ast.expr, calls: set[ast.Call], names: set[str]) -> bool:
    """Whether the expression is a part of one of these, or what one of them returned."""
    while True:
        if node in calls or (isinstance(node, ast.Name) and node.id in names):
            return True
        if isinstance(node, ast.Attribute | ast.Await):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return False


def in_handler(step: Step) -> bool:
    """Whether it stands in an except clause."""
    return any(each.part == "handler" for each in chain(step.context))
