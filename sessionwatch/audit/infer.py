"""What an expression is: by assignments, parameters, annotations, attributes and imports, across the tree."""

from __future__ import annotations

import ast
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

from . import calls, guesses, hands, hints
from .attributes import Attributes
from .body import Binding, Body, walk
from .callers import argument_of
from .models import Models
from .tree import Function, Module, Tree, dotted
from .values import (
    ClassValue,
    Connection,
    External,
    FunctionValue,
    Instance,
    Later,
    Manager,
    Many,
    Method,
    ModuleValue,
    Object,
    Pair,
    Query,
    Rows,
    Session,
    Stream,
    Value,
)

_DEPTH = 60  # of one question's further questions
_TRIES = 3  # of a question that stands in its own way


class Inference:
    """Answers what an expression is, once per expression."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.models = Models(self)
        self.attributes = Attributes(self)
        self._bodies: dict[Function, Body] = {}
        self._values: dict[ast.AST, Value | None] = {}
        self.busy: set[object] = set()
        self._results: dict[tuple[Function, str], Value | None] = {}
        self._parameters: dict[ast.arg, Value | None] = {}
        self._callers: dict[str, list[tuple[Function, ast.Call]]] | None = None
        self._depth = 0
        self.cuts = 0  # questions that were broken off: what was found then may not be all
        self._tries: Counter[object] = Counter()

    def body(self, function: Function) -> Body:
        if function not in self._bodies:
            self._bodies[function] = walk(function)
        return self._bodies[function]

    def is_settled(self, key: object, before: int) -> bool:
        """Whether "not known" is the answer, and not only that a question stood in its own way. In the end it is."""
        self._tries[key] += 1
        return before == self.cuts or not self.busy or self._tries[key] >= _TRIES

    # -- expressions ----------------------------------------------------------------------------------------

    def value(self, node: ast.expr | None, function: Function) -> Value | None:
        """What the expression is where it stands in ``function``; None where that is not known."""
        if node is None:
            return None
        if node in self._values:
            return self._values[node]
        if node in self.busy or self._depth > _DEPTH:
            self.cuts += 1
            return None
        before = self.cuts
        self.busy.add(node)
        self._depth += 1
        try:
            found = self._evaluate(node, function)
        finally:
            self.busy.discard(node)
            self._depth -= 1
        if found is not None or self.is_settled(node, before):
            self._values[node] = found
        return found

    def _evaluate(self, node: ast.expr, function: Function) -> Value | None:
        match node:
            case ast.Name():
                return self._name(node, function)
            case ast.Attribute():
                return self._attribute(node, function)
            case ast.Call():
                return calls.result(self, node, function)
            case ast.Await():
                inner = self.value(node.value, function)
                return inner.of if isinstance(inner, Later) else inner
            case ast.NamedExpr():
                return self.value(node.value, function)
            case ast.IfExp():
                return self.value(node.body, function) or self.value(node.orelse, function)
            case ast.BoolOp():
                return _first(self.value(each, function) for each in node.values)
            case ast.Subscript():
                return self._subscript(node, function)
            case ast.List() | ast.Set() | ast.Tuple():
                return self._display(node, function)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                element = self.value(node.elt, function)
                return Many(element) if element is not None else None
            case ast.Starred():
                return self.value(node.value, function)
        return None

    def _display(self, node: ast.List | ast.Set | ast.Tuple, function: Function) -> Value | None:
        parts = tuple(self.value(each, function) for each in node.elts)
        if isinstance(node, ast.Tuple):
            return Pair(parts) if any(part is not None for part in parts) else None
        first = _first(iter(parts))
        return Many(first) if first is not None else None

    def _subscript(self, node: ast.Subscript, function: Function) -> Value | None:
        owner = self.value(node.value, function)
        if isinstance(owner, Pair):
            index = node.slice.value if isinstance(node.slice, ast.Constant) else None
            return (
                owner.parts[index] if isinstance(index, int) and -len(owner.parts) <= index < len(owner.parts) else None
            )
        if isinstance(owner, Many | Rows | Query):
            return owner if isinstance(node.slice, ast.Slice) else self.element(owner)
        if isinstance(owner, External | ClassValue):  # sessionmaker[Session](engine)
            return owner
        return None

    def _name(self, node: ast.Name, function: Function) -> Value | None:
        order = self.body(function).orders.get(node, math.inf)
        return self.lookup(node.id, function, order)

    def lookup(self, name: str, function: Function, order: float = math.inf) -> Value | None:
        """A name as seen from a function: its own, those around it, the module's, the imported."""
        current: Function | None = function
        while current is not None:
            if not isinstance(current.node, ast.ClassDef):
                body = self.body(current)
                if name in body.bindings and name not in body.globals:
                    return self._bound(body, name, order) or guesses.named(self, name, current, order)
                if name in current.inner:
                    return FunctionValue(current.inner[name])
            current, order = current.outer, math.inf
        return self.module_name(name, function.module)

    def _bound(self, body: Body, name: str, order: float) -> Value | None:
        found = None
        for binding in reversed(body.bindings[name]):
            if binding.order < order and (found := self.binding(binding, body.function)) is not None:
                return found
            if binding.order < order and not math.isinf(order):
                break
        if name in body.function.inner:
            return FunctionValue(body.function.inner[name])
        return found

    def binding(self, binding: Binding, function: Function) -> Value | None:
        """What a name gets where it is bound."""
        if binding.how == "argument" and isinstance(binding.expr, ast.arg):
            return self.parameter(function, binding.expr)
        if isinstance(binding.expr, ast.arg):
            return None
        value = self.value(binding.expr, function)
        if binding.annotation is not None and value is None:
            value = hints.value(self, binding.annotation, function)
        if binding.how == "element":
            value = self.element(value)
        elif binding.how == "entered":
            value = self.entered(value, binding.expr)
        for index in binding.path:
            value = value.parts[index] if isinstance(value, Pair) and index < len(value.parts) else None
        return value

    def element(self, value: Value | None) -> Value | None:
        """What a loop over it gets."""
        match value:
            case Many() | Stream():
                return value.of
            case Rows() | Query():
                return hands.row(value)
        return None

    def entered(self, value: Value | None, node: ast.expr | None) -> Value | None:
        """What the block of a with statement gets."""
        if isinstance(value, Manager):
            inner = value.of
            if isinstance(inner, Session) and inner.how not in ("parameter", "global", "attribute"):
                return replace(inner, origin=node, how="with", provider=value.function or inner.provider)
            return replace(inner, origin=node) if isinstance(inner, Connection) else inner
        if isinstance(value, Session):
            return replace(value, origin=node, how="with") if value.how == "call" else value
        if isinstance(value, Object):
            for name in ("__enter__", "__aenter__"):
                method = self.attributes.method(value.cls, name)
                if method is not None:
                    return self.returned(method)
        return value

    # -- names of modules -----------------------------------------------------------------------------------

    def module_name(self, name: str, module: Module, seen: frozenset[str] = frozenset()) -> Value | None:
        """A module's own name: a class, function, variable, or what it imported."""
        if module.name in seen:
            return None
        if name in module.classes and module.classes[name].name == name:
            return ClassValue(module.classes[name])
        code = module.code
        body = self.body(code)
        if name in body.bindings:
            if (found := self._bound(body, name, math.inf)) is not None:
                return hands.as_global(found, body.bindings[name][-1])
            if (found := self.attributes.global_value(module, name)) is not None:
                return found
        if name in code.inner:
            return FunctionValue(code.inner[name])
        if name in module.imports:
            return self.full_name(module.imports[name], seen | {module.name}, module)
        for star in module.stars:
            other = self.tree.module_named(star, module)
            if other is not None and (found := self.module_name(name, other, seen | {module.name})) is not None:
                return found
        return guesses.global_named(name) if name in body.bindings else None

    def full_name(self, name: str, seen: frozenset[str] = frozenset(), near: Module | None = None) -> Value:
        """An imported name: of the tree where it is there, else `External`."""
        if (module := self.tree.module_named(name, near)) is not None:
            return ModuleValue(module)
        above, _, last = name.rpartition(".")
        if above and (module := self.tree.module_named(above, near)) is not None:
            return self.module_name(last, module, seen) or External(name)
        return External(name)

    def _attribute(self, node: ast.Attribute, function: Function) -> Value | None:
        owner = self.value(node.value, function)
        found = self.attributes.of(owner, node.attr, node) if owner is not None else None
        if found is None and not isinstance(owner, Instance | Session | Rows | Query):
            found = self.attributes.stored(dotted(node), function.module)
            if found is None and not isinstance(owner, External | ModuleValue | ClassValue | Method):
                found = guesses.attribute_named(self, node, function)
        return found

    # -- functions ------------------------------------------------------------------------------------------

    def parameter(self, function: Function, argument: ast.arg) -> Value | None:
        """What a function is given: by its annotation, its default, or its callers."""
        if argument in self._parameters:
            return self._parameters[argument]
        if argument in self.busy:
            self.cuts += 1
            return None
        before = self.cuts
        self.busy.add(argument)
        try:
            found = self._parameter(function, argument)
        finally:
            self.busy.discard(argument)
        if found is not None or self.is_settled(argument, before):
            self._parameters[argument] = found
        return found

    def _parameter(self, function: Function, argument: ast.arg) -> Value | None:
        first = function.is_method and function.arguments and function.arguments[0] is argument
        if first and function.cls is not None:
            return ClassValue(function.cls) if "classmethod" in function.decorators else Object(function.cls)
        default = function.default_of(argument)
        found = self.value(default, function) if isinstance(default, ast.Call) else None  # Depends(get_db)
        found = found if isinstance(found, Session) else hints.value(self, argument.annotation, function) or found
        if found is None:
            found = self._given(function, argument)
        return hands.as_parameter(found, argument)

    def _given(self, function: Function, argument: ast.arg) -> Value | None:
        """What callers in the tree hand over, where they agree."""
        if not function.is_def or argument.annotation is not None:
            return None
        seen: list[Value] = []
        for caller, call in self.callers(function)[:12]:
            given = argument_of(function, argument, call)
            value = self.value(given, caller) if given is not None else None
            if value is not None:
                seen.append(value)
        kinds = {type(value) for value in seen}
        return seen[0] if len(kinds) == 1 else None

    def callers(self, function: Function) -> list[tuple[Function, ast.Call]]:
        """Calls of the function, as far as they are known."""
        name = function.name.rpartition(".")[2]
        if name == "__init__" and function.cls is not None:
            name = function.cls.node.name
        found = []
        for caller, call in self._calls_by_name().get(name, ())[:60]:
            value = self.value(call.func, caller)
            if isinstance(value, ClassValue):
                target = self.attributes.method(value.cls, "__init__")
            else:
                target = value.function if isinstance(value, FunctionValue) else None
            if target is function:
                found.append((caller, call))
        return found

    def _calls_by_name(self) -> dict[str, list[tuple[Function, ast.Call]]]:
        if self._callers is None:
            self._callers = defaultdict(list)
            for module in self.tree.modules.values():
                for function, call in module.calls:
                    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                    self._callers[name].append((function, call))
        return self._callers

    def returned(self, function: Function) -> Value | None:
        """What a call of the function gives (of an async one: once awaited)."""
        return self._result(function, "returned")

    def yielded(self, function: Function) -> Value | None:
        """What a generator hands out."""
        return self._result(function, "yielded")

    def _result(self, function: Function, how: str) -> Value | None:
        key = (function, how)
        if key in self._results:
            return self._results[key]
        if key in self.busy:
            self.cuts += 1
            return None
        before = self.cuts
        self.busy.add(key)
        try:
            found = self._found_result(function, how) or self._annotated_result(function, how)
        finally:
            self.busy.discard(key)
        if found is not None or self.is_settled(key, before):
            self._results[key] = found
        return found

    def _found_result(self, function: Function, how: str) -> Value | None:
        body = self.body(function)
        for step in body.returns if how == "returned" else body.yields:
            node = (
                step.node
                if isinstance(step.node, ast.expr) and how == "returned"
                else getattr(step.node, "value", None)
            )
            value = self.value(node, function)
            if isinstance(step.node, ast.YieldFrom):
                value = self.element(value)
            if value is not None and not isinstance(value, External):
                return hands.leaving(self, value, step, body)
        return None

    def _annotated_result(self, function: Function, how: str) -> Value | None:
        node = getattr(function.node, "returns", None)
        found = hints.value(self, node, function) if node is not None else None
        if how == "yielded":
            return found.of if isinstance(found, Stream | Many | Manager) else None
        return found

    def call_of(self, function: Function, node: ast.Call) -> Value | None:
        """What calling a function of the tree gives, at once."""
        if self.body(function).is_generator:
            names = {name.rpartition(".")[2] for name in function.decorators}
            if names & {"contextmanager", "asynccontextmanager"}:
                return Manager(self.yielded(function), function.is_async, function)
            return Stream(self.yielded(function), function)
        found = hands.handed_out(self.returned(function), node, function)
        return Later(found) if function.is_async else found


def _first(values: Iterator[Value | None]) -> Value | None:
    for value in values:
        if value is not None:
            return value
    return None
