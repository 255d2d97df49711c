"""What one function does with sessions: opens, uses, hands on, lets go of."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from . import statements
from .body import Body, Step, chain
from .calls import as_session
from .infer import Inference, argument_of
from .tree import Function, dotted
from .values import (
    ClassValue,
    Connection,
    FunctionValue,
    Instance,
    Later,
    Manager,
    Many,
    Method,
    Query,
    Session,
    Statement,
    Value,
)
from .vocabulary import BULK, IO, PENDING, QUERY_IO, SESSION_METHODS

_COLLECTION = frozenset({"append", "extend", "remove", "add", "insert", "pop", "clear", "discard", "update"})


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


class Usage:
    """Answers for the functions of one tree."""

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self._uses: dict[Function, Uses] = {}
        self._effects: dict[tuple[Function, int], Effects] = {}

    def of(self, function: Function) -> Uses:
        if function not in self._uses:
            self._uses[function] = _Collector(self.inference, function).run()
        return self._uses[function]

    def effects(self, function: Function, session: Session) -> Effects:
        """What ``function`` and what it calls do to the session."""
        key = (function, id(session.origin))
        if key not in self._effects:
            self._effects[key] = Effects()  # a recursion adds nothing
            self._effects[key] = self._find_effects(function, session)
        return self._effects[key]

    def given(self, handing: Handing) -> Effects:
        """What the function that is given a session does to it."""
        if handing.to is None:
            return Effects(unknown=True)
        for argument in handing.to.arguments:
            if argument_of(handing.to, argument, handing.call) is handing.argument:
                value = as_session(self.inference.parameter(handing.to, argument))
                inner = value if value is not None else Session(handing.session.asynchronous, argument)
                return self.effects(handing.to, inner)
        return Effects(unknown=True)

    def _find_effects(self, function: Function, session: Session) -> Effects:
        uses = self.of(function)
        found = Effects(unknown=uses.escaped(session))
        for operation in uses.of(session):
            found |= Effects(
                commits=operation.method == "commit",
                rolls_back=operation.method == "rollback",
                closes=operation.method in ("close", "reset", "invalidate", "remove"),
                writes=operation.writes,
                io=operation.io,
            )
        found |= Effects(
            writes=any(each.session is not None and same(each.session, session) for _, each in uses.dirty),
            commits=bool(begun_blocks(uses, session)) or session.begun,
        )
        for handing in uses.handed:
            if same(handing.session, session):
                found |= self.given(handing)
        for inner in function.inner.values():  # a nested function that sees the session
            if uses.body.function is function and any(
                same(each.session, session) for each in self.of(inner).operations
            ):
                found |= self.effects(inner, session)
        return found


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


class _Collector:
    def __init__(self, inference: Inference, function: Function) -> None:
        self.inference = inference
        self.function = function
        self.body = inference.body(function)
        self.uses = Uses(function, self.body)

    def run(self) -> Uses:
        for step in self.body.withs:
            self._entered(step)
        for step in self.body.calls:
            if isinstance(step.node, ast.Call):
                self._called(step, step.node)
        for step in self.body.stores:
            self._stored(step)
        for step in (*self.body.returns, *self.body.yields):
            node = step.node if isinstance(step.node, ast.expr) and step in self.body.returns else None
            self._escapes(node if node is not None else getattr(step.node, "value", None))
        self._captured()
        return self.uses

    def value(self, node: ast.expr | None) -> Value | None:
        return self.inference.value(node, self.function)

    def _entered(self, step: Step) -> None:
        item = step.node
        if not isinstance(item, ast.withitem):
            return
        value = self.value(item.context_expr)
        entered = self.inference.entered(value, item.context_expr)
        if isinstance(entered, Session) and entered.origin is item.context_expr:
            self.uses.openings.append(Opening(step, entered, item))

    def _called(self, step: Step, call: ast.Call) -> None:
        if isinstance(call.func, ast.Attribute):
            self._method(step, call, call.func)
        self._opened(step, call)
        called = self.value(call.func)
        for argument in (*call.args, *(word.value for word in call.keywords)):
            node = argument.value if isinstance(argument, ast.Starred) else argument
            session = as_session(self.value(node)) if isinstance(node, ast.Name | ast.Attribute) else None
            if session is not None and session.origin is not None:
                self._handed(step, call, session, argument, called)
            elif isinstance(node, ast.List | ast.Tuple | ast.Dict | ast.Set):
                self._escapes(node)
            elif isinstance(node, ast.Attribute) and isinstance(method := self.value(node), Method):
                owner = as_session(method.owner)  # executor.submit(session.commit)
                if owner is not None:
                    self.uses.escapes.add(id(owner.origin))

    def _method(self, step: Step, call: ast.Call, func: ast.Attribute) -> None:
        owner = self.value(func.value)
        session = as_session(owner)
        if session is not None and (func.attr in SESSION_METHODS or func.attr == "exec"):
            operation = Operation(step, call, func.attr, session, func.attr in IO or func.attr == "exec")
            operation.writes = self._writes(call, func.attr)
            operation.surely = operation.writes and self._surely(call, func.attr)
            if func.attr == "execute" and call.args and isinstance(given := self.value(call.args[0]), Statement):
                operation.verb = given.verb
                operation.method = "commit" if given.verb == "commit" else operation.method
            self.uses.operations.append(operation)
        elif isinstance(owner, Query) and owner.session is not None and func.attr in QUERY_IO:
            writes = func.attr in ("delete", "update")
            found = Operation(step, call, f"query.{func.attr}", owner.session, io=True, writes=writes)
            self.uses.operations.append(found)
        elif isinstance(owner, Connection):
            writes = self._writes(call, func.attr)
            surely = writes and self._surely(call, func.attr)
            as_if = Session(owner.asynchronous, owner.origin)
            self.uses.connections.append(Operation(step, call, func.attr, as_if, writes=writes, surely=surely))
        elif func.attr in _COLLECTION and isinstance(func.value, ast.Attribute):
            parent = self.value(func.value.value)
            if isinstance(parent, Instance):
                self.uses.dirty.append((step, parent))

    def _writes(self, call: ast.Call, name: str) -> bool:
        if name in PENDING or name in BULK:
            return True
        if name in ("execute", "scalars", "scalar", "stream", "exec") and call.args:
            return statements.is_write(self.value(call.args[0]))
        if name == "exec_driver_sql" and call.args:
            return statements.verb_of(call.args[0]) in ("insert", "update", "delete")
        return False

    def _surely(self, call: ast.Call, name: str) -> bool:
        first = call.args[0] if call.args else None
        if name in ("add", "add_all"):
            value = self.value(first)
            value = value.of if isinstance(value, Many) else value
            return isinstance(value, Instance) and value.how == "new" and not self._is_made_persistent(first)
        if name == "merge":
            return False
        if name in PENDING or name in BULK:
            return True
        if name == "exec_driver_sql":
            return statements.verb_of(first) == "insert" or not statements.has_where(first)
        value = self.value(first)
        return isinstance(value, Statement) and (value.verb == "insert" or not value.narrowed)

    def _is_made_persistent(self, node: ast.expr | None) -> bool:
        """By ``make_transient_to_detached()``: adding it writes nothing."""
        name = ast.unparse(node) if node is not None else ""
        return any(
            isinstance(each.node, ast.Call)
            and (dotted(each.node.func) or "").endswith("make_transient_to_detached")
            and any(ast.unparse(one) == name for one in each.node.args)
            for each in self.body.calls
        )

    def _opened(self, step: Step, call: ast.Call) -> None:
        if isinstance(step.parent, ast.withitem) or any(
            isinstance(each.node, ast.withitem) and each.node.context_expr is step.parent for each in self.body.withs
        ):
            return
        value = self.value(call)
        value = value.of if isinstance(value, Later) else value
        if isinstance(value, Session) and value.origin is call:
            self.uses.openings.append(Opening(step, value))
        elif isinstance(value, Manager) and isinstance(value.of, Session) and isinstance(step.parent, ast.Call):
            entered = "enter" in (dotted(step.parent.func) or "")  # stack.enter_context(...)
            self.uses.openings += [Opening(step, value.of)] if entered else []

    def _handed(self, step: Step, call: ast.Call, session: Session, argument: ast.expr, called: Value | None) -> None:
        if isinstance(called, Method) and as_session(called.owner) is not None:
            return
        to = called.function if isinstance(called, FunctionValue) else None
        if isinstance(called, ClassValue):
            to = self.inference.attributes.method(called.cls, "__init__")
        self.uses.handed.append(Handing(step, call, session, argument, to))

    def _stored(self, step: Step) -> None:
        target = step.node
        if isinstance(target, ast.Attribute):
            owner = self.value(target.value)
            if isinstance(owner, Instance):
                self.uses.dirty.append((step, owner))
                if self._is_changed(target):
                    self.uses.sets.add(step.order)

    def _is_changed(self, target: ast.Attribute) -> bool:
        """``order.status = "paid"``, once, and not made of what it was before."""
        text = ast.unparse(target)
        stores = [each for each in self.body.stores if ast.unparse(each.node) == text]
        for function, node in self.function.module.assignments:
            if function is self.function and node.value is not None and _holds(node, target):
                return len(stores) == 1 and text not in ast.unparse(node.value)
        return False

    def _escapes(self, node: ast.expr | None) -> None:
        for each in ast.walk(node) if node is not None else ():
            if isinstance(each, ast.Name | ast.Attribute | ast.Call) and _bare(each, node):
                session = as_session(self.value(each))
                if session is not None:
                    self.uses.escapes.add(id(session.origin))

    def _captured(self) -> None:
        """What is kept in an attribute, a global, or another name's collection."""
        for function, node in self.function.module.assignments:
            if function is self.function:
                self._escapes(node.value)
        for name in self.body.globals:
            for binding in self.body.bindings.get(name, ()):
                if isinstance(binding.expr, ast.expr):
                    self._escapes(binding.expr)


def _holds(node: ast.Assign | ast.AnnAssign, target: ast.expr) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(target is each for each in targets)


def _bare(node: ast.AST, root: ast.expr | None) -> bool:
    """Whether the value itself is meant, not an attribute or a call's result that it leads to."""
    if root is None or node is root:
        return True
    for each in ast.walk(root):
        if isinstance(each, ast.Attribute) and each.value is node:
            return False
        if isinstance(each, ast.Call) and (each.func is node):
            return False
        if isinstance(each, ast.Call) and (node in each.args or any(word.value is node for word in each.keywords)):
            return False
    return True


def in_handler(step: Step) -> bool:
    """Whether it stands in an except clause."""
    return any(each.part == "handler" for each in chain(step.context))
