"""Modules, classes and functions of the audited files, and how one file's names lead to another's."""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .source import Source

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(eq=False, slots=True)
class Function:
    """A function, a lambda, or a module's or class's own code (``node`` is then the module or class)."""

    module: Module
    node: FunctionNode | ast.Module | ast.ClassDef
    name: str  # qualified, without <locals>
    outer: Function | None = None
    cls: Class | None = None  # whose method it is
    inner: dict[str, Function] = field(default_factory=dict)
    decorators: tuple[str, ...] = ()

    @property
    def is_async(self) -> bool:
        return isinstance(self.node, ast.AsyncFunctionDef)

    @property
    def is_def(self) -> bool:
        return isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef)

    @property
    def arguments(self) -> list[ast.arg]:
        """All parameters, in order, ``self`` of a method included."""
        if isinstance(self.node, ast.Module | ast.ClassDef):
            return []
        given = self.node.args
        return [*given.posonlyargs, *given.args, *given.kwonlyargs]

    @property
    def is_method(self) -> bool:
        return self.cls is not None and self.is_def and "staticmethod" not in self.decorators

    def default_of(self, argument: ast.arg) -> ast.expr | None:
        if isinstance(self.node, ast.Module | ast.ClassDef):
            return None
        given = self.node.args
        if argument in given.kwonlyargs:
            return given.kw_defaults[given.kwonlyargs.index(argument)]
        positional = [*given.posonlyargs, *given.args]
        position = positional.index(argument) - (len(positional) - len(given.defaults))
        return given.defaults[position] if position >= 0 else None


@dataclass(eq=False, slots=True)
class Class:
    """A class of the tree."""

    module: Module
    node: ast.ClassDef
    name: str
    methods: dict[str, Function] = field(default_factory=dict)
    fields: dict[str, list[tuple[ast.expr | None, ast.expr | None]]] = field(default_factory=dict)  # annotation, value


@dataclass(eq=False, slots=True)
class Module:
    """One file. ``imports``: local name -> full name."""

    source: Source
    code: Function = field(init=False)
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    classes: dict[str, Class] = field(default_factory=dict)
    functions: list[Function] = field(default_factory=list)
    by_node: dict[ast.AST, Function] = field(default_factory=dict)
    assignments: list[tuple[Function, ast.Assign | ast.AnnAssign]] = field(default_factory=list)  # to attributes
    calls: list[tuple[Function, ast.Call]] = field(default_factory=list)
    global_names: set[str] = field(default_factory=set)  # of ``global`` statements
    _lines: list[str] | None = None

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def path(self) -> str:
        return self.source.path

    def source_lines(self) -> list[str]:
        """The text, line by line."""
        if self._lines is None:
            self._lines = self.source.text.splitlines()
        return self._lines


class Tree:
    """Every audited module by name. ``modules``: those that may hold something; the others wait for an import."""

    def __init__(self, sources: list[Source]) -> None:
        self.modules: dict[str, Module] = {}
        self._others: dict[str, Module] = {}
        self._waiting: dict[str, Source] = {}
        self._by_end: dict[str, list[Source]] = defaultdict(list)
        for source in sources:
            self._by_end[source.parts[-1]].append(source)
            if source.relevant:
                self.modules[source.name] = _indexed(source)
            else:
                self._waiting[source.name] = source

    def module_named(self, name: str, near: Module | None = None) -> Module | None:
        """The module of that full name.

        Where the audited folder is only a part of what the program imports, the name's parts have to be the last parts
        of the file's path; one part alone has to be a file beside ``near``.
        """
        if (found := self._module(name)) is not None:
            return found
        parts = tuple(name.split("."))
        ends = [each for each in self._by_end.get(parts[-1], ()) if each.parts[-len(parts) :] == parts]
        if len(parts) == 1:
            ends = [each for each in ends if near is not None and each.parts[:-1] == near.source.parts[:-1]]
        return self._module(ends[0].name) if len(ends) == 1 else None

    def _module(self, name: str) -> Module | None:
        if name in self._waiting:
            self._others[name] = _indexed(self._waiting.pop(name))
        return self.modules.get(name) or self._others.get(name)


def _indexed(source: Source) -> Module:
    module = Module(source)
    assert source.tree is not None
    _Indexer(module).run(source.tree)
    return module


class _Indexer(ast.NodeVisitor):
    """Fills a module: its imports, classes and functions."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.names: list[str] = []
        self.function: Function
        self.cls: Class | None = None

    def run(self, tree: ast.Module) -> None:
        self.function = self.module.code = Function(self.module, tree, "<module>")
        self.module.functions.append(self.function)
        self.module.by_node[tree] = self.function
        self.generic_visit(tree)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            root = alias.name.partition(".")[0]
            self.module.imports[alias.asname or root] = alias.name if alias.asname else root

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self._base(node)
        for alias in node.names:
            if alias.name == "*":
                self.module.stars.append(base)
            else:
                self.module.imports[alias.asname or alias.name] = f"{base}.{alias.name}" if base else alias.name

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.module.name.split(".")
        up = node.level - self.module.source.package
        parts = parts[: len(parts) - up] if up else parts
        return ".".join([*parts, node.module] if node.module else parts)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(
            isinstance(each, ast.Attribute) for target in node.targets for each in getattr(target, "elts", [target])
        ):
            self.module.assignments.append((self.function, node))
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Attribute):
            self.module.assignments.append((self.function, node))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.module.calls.append((self.function, node))
        self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> None:
        self.module.global_names.update(node.names)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._define(node, node.name)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._define(node, node.name)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._define(node, "")

    def _define(self, node: FunctionNode, name: str) -> None:
        qualified = ".".join([*self.names, name] if name else self.names)
        decorators = tuple(map(_decorator, getattr(node, "decorator_list", ())))
        found = Function(self.module, node, qualified or "<module>", self.function, self.cls, decorators=decorators)
        self.module.functions.append(found)
        self.module.by_node[node] = found
        if self.cls is not None and name:
            self.cls.methods.setdefault(name, found)
        elif name:
            self.function.inner[name] = found
        outer, cls = self.function, self.cls
        self.function, self.cls = found, None
        self.names += [name] if name else []
        self.generic_visit(node)
        self.function, self.cls = outer, cls
        if name:
            self.names.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        found = Class(self.module, node, ".".join([*self.names, node.name]))
        self.module.classes.setdefault(found.name, found)
        self.module.classes.setdefault(node.name, found)
        outer = self.cls
        self.cls = found
        self.names.append(node.name)
        for statement in node.body:
            _class_field(found, statement)
        self.generic_visit(node)
        self.cls = outer
        self.names.pop()


def _class_field(cls: Class, statement: ast.stmt) -> None:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        cls.fields.setdefault(statement.target.id, []).append((statement.annotation, statement.value))
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                cls.fields.setdefault(target.id, []).append((None, statement.value))


def _decorator(node: ast.expr) -> str:
    """``app.get`` of ``@app.get("/")``; empty for anything else than names and dots."""
    return dotted(node.func if isinstance(node, ast.Call) else node) or ""


def dotted(node: ast.expr) -> str | None:
    """``a.b.c`` as it stands; None for other expressions."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])
