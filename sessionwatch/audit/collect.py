"""Goes through one function and notes what it does with sessions."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from . import statements
from .hands import as_session
from .tree import Function, dotted
from .uses import Handing, Opening, Operation, Uses
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

if TYPE_CHECKING:
    from .body import Step
    from .infer import Inference

_COLLECTION = frozenset({"append", "extend", "remove", "add", "insert", "pop", "clear", "discard", "update"})


class Collector:
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
        self._bound_methods()
        return self.uses

    def _bound_methods(self) -> None:
        """``submit(session.commit)``, ``for end in (session.commit, session.close)``: who calls them is not seen."""
        called = {id(step.node.func) for step in self.body.calls if isinstance(step.node, ast.Call)}
        for step in self.body.reads:
            node = step.node
            if isinstance(node, ast.Attribute) and node.attr in SESSION_METHODS and id(node) not in called:
                owner = as_session(self.value(node.value))
                if owner is not None:
                    self.uses.escapes.add(id(owner.origin))

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
