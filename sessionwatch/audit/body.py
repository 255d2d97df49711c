"""One function's code in the order in which it runs: what is bound, called, read and left, and inside of what."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tree import Function

Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_CONDITIONAL = frozenset({"if", "orelse", "handler", "loop", "case", "comprehension"})
_BRANCH = frozenset({"if", "orelse", "handler", "case"})


@dataclass(eq=False, slots=True)
class Context:
    """What code stands inside of, innermost first. ``part``: with, try, handler, finally, loop, if, orelse, …"""

    node: ast.AST
    part: str
    outer: Context | None

    def chain(self) -> Iterator[Context]:
        context: Context | None = self
        while context is not None:
            yield context
            context = context.outer


def chain(context: Context | None) -> list[Context]:
    """From the innermost outwards."""
    return list(context.chain()) if context is not None else []


def within(context: Context | None, node: ast.AST, part: str | None = None) -> bool:
    """Whether code with this context stands inside ``node``, in that part of it."""
    return any(each.node is node and (part is None or each.part == part) for each in chain(context))


@dataclass(slots=True)
class Binding:
    """A name gets a value: of ``expr``, of an element of it, or of what its block enters. ``path``: unpacking."""

    order: int
    how: str  # value, element, entered, argument, handler, unknown
    expr: ast.expr | ast.arg | None
    context: Context | None
    path: tuple[int, ...] = ()
    asynchronous: bool = False
    annotation: ast.expr | None = None


@dataclass(slots=True)
class Step:
    """A call, read, return, yield, … with its place in the order, its parent and its context."""

    order: int
    node: ast.AST
    parent: ast.AST
    context: Context | None

    @property
    def line(self) -> int:
        return getattr(self.node, "lineno", 0)

    @property
    def awaited(self) -> bool:
        return isinstance(self.parent, ast.Await)


@dataclass(slots=True)
class Body:
    """See the module's docstring."""

    function: Function
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    orders: dict[ast.AST, int] = field(default_factory=dict)  # of names that are read
    contexts: dict[ast.AST, Context | None] = field(default_factory=dict)  # of calls
    calls: list[Step] = field(default_factory=list)
    reads: list[Step] = field(default_factory=list)  # of attributes
    names: list[Step] = field(default_factory=list)
    stores: list[Step] = field(default_factory=list)  # to attributes
    returns: list[Step] = field(default_factory=list)
    yields: list[Step] = field(default_factory=list)
    awaits: list[Step] = field(default_factory=list)
    raises: list[Step] = field(default_factory=list)
    breaks: list[Step] = field(default_factory=list)
    loops: list[Step] = field(default_factory=list)
    withs: list[Step] = field(default_factory=list)
    tries: list[Step] = field(default_factory=list)
    globals: set[str] = field(default_factory=set)

    @property
    def is_generator(self) -> bool:
        return bool(self.yields)


def dominates(first: Step, second: Step) -> bool:
    """Whether ``first`` has run when ``second`` does: it stands before it, in no branch that ``second`` is not in."""
    if first.order >= second.order:
        return False
    around = {(id(each.node), each.part) for each in chain(second.context)}
    return all((id(each.node), each.part) in around for each in chain(first.context) if each.part in _CONDITIONAL)


def may_follow(first: Step, second: Step) -> bool:
    """Whether ``second`` can run after ``first``: it stands behind it, and not in the other branch."""
    if second.order <= first.order:
        return False
    parts = {id(each.node): each.part for each in chain(first.context) if each.part in _BRANCH}
    return all(parts.get(id(each.node), each.part) == each.part for each in chain(second.context))


def walk(function: Function) -> Body:
    """Read a function's code, without the code of the functions inside it."""
    return _Walker(function).run()


class _Walker:
    def __init__(self, function: Function) -> None:
        self.body = Body(function)
        self.order = 0
        self.context: Context | None = None
        self.class_depth = 0

    def run(self) -> Body:
        node = self.body.function.node
        for argument in self.body.function.arguments:
            self._bind(argument.arg, "argument", argument)
        if isinstance(node, ast.Lambda):
            self.body.returns.append(self._step(node.body, node))
            self.visit(node.body, node)
        else:
            self._all(node.body, node)
        return self.body

    def visit(self, node: ast.AST, parent: ast.AST) -> None:
        handler = _HANDLERS.get(type(node))
        if handler is not None:
            handler(self, node, parent)
        else:
            for child in ast.iter_child_nodes(node):
                self.visit(child, node)

    def _all(self, nodes: list[ast.stmt] | list[ast.expr], parent: ast.AST) -> None:
        for node in nodes:
            self.visit(node, parent)

    def _step(self, node: ast.AST, parent: ast.AST) -> Step:
        self.order += 1
        return Step(self.order, node, parent, self.context)

    def _inside(self, node: ast.AST, part: str, nodes: list[ast.stmt] | list[ast.expr]) -> None:
        self.context = Context(node, part, self.context)
        self._all(nodes, node)
        self.context = self.context.outer

    def _bind(
        self,
        name: str,
        how: str,
        expr: ast.expr | ast.arg | None,
        path: tuple[int, ...] = (),
        asynchronous: bool = False,
        annotation: ast.expr | None = None,
    ) -> None:
        if self.class_depth:
            return
        self.order += 1
        found = Binding(self.order, how, expr, self.context, path, asynchronous, annotation)
        self.body.bindings.setdefault(name, []).append(found)

    def _target(
        self, target: ast.expr, how: str, expr: ast.expr | None, path: tuple[int, ...] = (), asynchronous: bool = False
    ) -> None:
        match target:
            case ast.Name():
                self._bind(target.id, how, expr, path, asynchronous)
            case ast.Tuple() | ast.List():
                for position, part in enumerate(target.elts):
                    self._target(part, how, expr, (*path, position), asynchronous)
            case ast.Starred():
                self._target(target.value, "unknown", None)
            case ast.Attribute():
                self.visit(target.value, target)
                self.body.stores.append(self._step(target, target))
            case _:
                for child in ast.iter_child_nodes(target):
                    self.visit(child, target)

    # -- expressions ----------------------------------------------------------------------------------------

    def _do_Name(self, node: ast.Name, parent: ast.AST) -> None:  # noqa: N802
        step = self._step(node, parent)
        self.body.orders[node] = step.order
        self.body.names.append(step)

    def _do_Attribute(self, node: ast.Attribute, parent: ast.AST) -> None:  # noqa: N802
        self.visit(node.value, node)
        self.body.reads.append(self._step(node, parent))

    def _do_Call(self, node: ast.Call, parent: ast.AST) -> None:  # noqa: N802
        for child in ast.iter_child_nodes(node):
            self.visit(child, node)
        self.body.contexts[node] = self.context
        self.body.calls.append(self._step(node, parent))

    def _do_Await(self, node: ast.Await, parent: ast.AST) -> None:  # noqa: N802
        self.visit(node.value, node)
        self.body.awaits.append(self._step(node, parent))

    def _do_Yield(self, node: ast.Yield, parent: ast.AST) -> None:  # noqa: N802
        if node.value is not None:
            self.visit(node.value, node)
        self.body.yields.append(self._step(node, parent))

    def _do_YieldFrom(self, node: ast.YieldFrom, parent: ast.AST) -> None:  # noqa: N802
        self.visit(node.value, node)
        self.body.yields.append(self._step(node, parent))

    def _do_Lambda(self, node: ast.Lambda, parent: ast.AST) -> None:  # noqa: N802
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default, node)

    def _do_NamedExpr(self, node: ast.NamedExpr, parent: ast.AST) -> None:  # noqa: N802
        self.visit(node.value, node)
        self._target(node.target, "value", node.value)

    def _comprehension(self, node: Comprehension, parent: ast.AST) -> None:
        self.context = Context(node, "comprehension", self.context)
        for part in node.generators:
            self.visit(part.iter, part)
            self.body.loops.append(self._step(part, node))
            self._target(part.target, "element", part.iter, asynchronous=bool(part.is_async))
            self._all(part.ifs, part)
        if isinstance(node, ast.DictComp):
            self.visit(node.key, node)
            self.visit(node.value, node)
        else:
            self.visit(node.elt, node)
        self.context = self.context.outer

    _do_ListComp = _do_SetComp = _do_DictComp = _do_GeneratorExp = _comprehension  # noqa: N815

    # -- statements -----------------------------------------------------------------------------------------

    def _do_Assign(self, node: ast.Assign, parent: ast.AST) -> None:  # noqa: N802
        self.visit(node.value, node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                same = len(target.elts) == len(node.value.elts)
                pairs = list(zip(target.elts, node.value.elts, strict=True)) if same else pairs
            for part, value in pairs:
                self._target(part, "value", value)

    def _do_AnnAssign(self, node: ast.AnnAssign, parent: ast.AST) -> None:  # noqa: N802
        if node.value is not None:
            self.visit(node.value, node)
        if isinstance(node.target, ast.Name):
            self._bind(node.target.id, "value", node.value, annotation=node.annotation)
        else:
            self._target(node.target, "value", node.value)

    def _do_AugAssign(self, node: ast.AugAssign, parent: ast.AST) -> None:  # noqa: N802
        self.visit(node.value, node)
        if isinstance(node.target, ast.Attribute):
            self.visit(node.target.value, node.target)
            self.body.reads.append(self._step(node.target, node))
            self.body.stores.append(self._step(node.target, node))

    def _do_Return(self, node: ast.Return, parent: ast.AST) -> None:  # noqa: N802
        if node.value is not None:
            self.visit(node.value, node)
        self.body.returns.append(self._step(node, parent))

    def _do_Raise(self, node: ast.Raise, parent: ast.AST) -> None:  # noqa: N802
        for child in ast.iter_child_nodes(node):
            self.visit(child, node)
        self.body.raises.append(self._step(node, parent))

    def _do_Break(self, node: ast.Break, parent: ast.AST) -> None:  # noqa: N802
        self.body.breaks.append(self._step(node, parent))

    def _do_Global(self, node: ast.Global, parent: ast.AST) -> None:  # noqa: N802
        self.body.globals.update(node.names)

    def _do_If(self, node: ast.If, parent: ast.AST) -> None:  # noqa: N802
        self.visit(node.test, node)
        self._inside(node, "if", node.body)
        self._inside(node, "orelse", node.orelse)

    def _do_For(self, node: ast.For | ast.AsyncFor, parent: ast.AST) -> None:  # noqa: N802
        self.visit(node.iter, node)
        self.body.loops.append(self._step(node, parent))
        self.context = Context(node, "loop", self.context)
        self._target(node.target, "element", node.iter, asynchronous=isinstance(node, ast.AsyncFor))
        self._all(node.body, node)
        self.context = self.context.outer
        self._all(node.orelse, node)

    _do_AsyncFor = _do_For  # noqa: N815

    def _do_While(self, node: ast.While, parent: ast.AST) -> None:  # noqa: N802
        self.visit(node.test, node)
        self._inside(node, "loop", node.body)
        self._all(node.orelse, node)

    def _do_With(self, node: ast.With | ast.AsyncWith, parent: ast.AST) -> None:  # noqa: N802
        outer = self.context
        for item in node.items:
            self.visit(item.context_expr, item)
            self.context = Context(item, "with", self.context)
            self.body.withs.append(self._step(item, node))
            if item.optional_vars is not None:
                self._target(item.optional_vars, "entered", item.context_expr)
        self._all(node.body, node)
        self.context = outer

    _do_AsyncWith = _do_With  # noqa: N815

    def _do_Try(self, node: ast.Try, parent: ast.AST) -> None:  # noqa: N802
        self.body.tries.append(self._step(node, parent))
        self._inside(node, "try", node.body)
        for handler in node.handlers:
            self.context = Context(handler, "handler", Context(node, "handlers", self.context))
            if handler.name:
                self._bind(handler.name, "handler", None)
            self._all(handler.body, handler)
            self.context = self.context.outer.outer if self.context.outer else None
        self._inside(node, "else", node.orelse)
        self._inside(node, "finally", node.finalbody)

    _do_TryStar = _do_Try  # noqa: N815

    def _do_match_case(self, node: ast.match_case, parent: ast.AST) -> None:
        self._inside(node, "case", node.body)

    def _do_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef, parent: ast.AST) -> None:  # noqa: N802
        self._all(node.decorator_list, node)
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default, node)

    _do_AsyncFunctionDef = _do_FunctionDef  # noqa: N815

    def _do_ClassDef(self, node: ast.ClassDef, parent: ast.AST) -> None:  # noqa: N802
        self._all(node.decorator_list, node)
        self.class_depth += 1
        self._all(node.body, node)
        self.class_depth -= 1


_HANDLERS: dict[type[ast.AST], Callable[[_Walker, Any, ast.AST], None]] = {
    getattr(ast, name.removeprefix("_do_")): function
    for name, function in vars(_Walker).items()
    if name.startswith("_do_")
}
