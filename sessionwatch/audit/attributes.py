"""What an attribute is: of an object of the tree, a module, an instance, or of something that only has a name."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING

from . import hints
from .tree import Class, Function, Module, dotted
from .values import (
    ClassValue,
    Engine,
    External,
    Flask,
    FunctionValue,
    Instance,
    Maker,
    Many,
    Method,
    ModuleValue,
    Object,
    Registry,
    Session,
    Value,
)
from .vocabulary import known

if TYPE_CHECKING:
    from .answers import Answers

Stored = dict[str, list[tuple[Function, ast.expr | None, ast.expr | None]]]  # by name: where, annotation, value


class Attributes:
    """Answers for one `Inference`."""

    def __init__(self, inference: Answers) -> None:
        self._inference = inference
        self._of_classes: dict[tuple[Class, str], Value | None] = {}
        self._busy: set[tuple[Class | Module, str]] = set()
        self._stores: dict[Module, Stored] = {}
        self._everywhere: Stored | None = None
        self._special: dict[Class, Value | None] = {}

    def of(self, owner: Value, name: str, node: ast.Attribute) -> Value | None:
        """The attribute of a value; a `Method` where it has to be called."""
        match owner:
            case ModuleValue():
                return self._of_module(owner.module, name)
            case External():
                return External(f"{owner.name}.{name}")
            case Object():
                return self._of_object(owner.cls, name)
            case ClassValue():
                return self._of_class(owner.cls, name)
            case Instance():
                return self._of_instance(owner, name)
            case Flask():
                return self._of_flask(name)
            case Session() if name in ("sync_session", "async_session"):
                return replace(owner, asynchronous=name == "async_session")
            case Engine() if name == "sync_engine":
                return replace(owner, asynchronous=False)
        return Method(owner, name)

    def _of_module(self, module: Module, name: str) -> Value | None:
        found = self._inference.module_name(name, module)
        if found is not None:
            return found
        below = self._inference.tree.module_named(f"{module.name}.{name}")
        return ModuleValue(below) if below is not None else None

    @staticmethod
    def _of_flask(name: str) -> Value | None:
        if name == "session":
            return Registry(False, flask=True)
        if name == "engine":
            return Engine(False)
        return External(f"sqlalchemy.{name}")  # db.select, db.relationship, db.Model

    # -- objects and classes of the tree --------------------------------------------------------------------

    def method(self, cls: Class, name: str) -> Function | None:
        """The method of that name, of the class or of its bases in the tree."""
        for each in self._inference.models.lineage(cls):
            if name in each.methods:
                return each.methods[name]
        return None

    def special(self, cls: Class) -> Value | None:
        """What a class of the tree stands for where it is a session's, an engine's or an extension's: a `Maker`, …"""
        if cls not in self._special:
            self._special[cls] = None
            self._special[cls] = self._find_special(cls)
        return self._special[cls]

    def _find_special(self, cls: Class) -> Value | None:
        for each in self._inference.models.lineage(cls):
            for base in each.node.bases:
                value = self._inference.value(base, each.module.code)
                last = known(value.name) if isinstance(value, External) else ""
                if last in ("Session", "AsyncSession"):
                    return Maker(last == "AsyncSession", each.node)
                if last == "SQLAlchemy":
                    return External("flask_sqlalchemy.SQLAlchemy")
        return None

    def _of_object(self, cls: Class, name: str) -> Value | None:
        method = self.method(cls, name)
        if method is not None:
            short = {each.rpartition(".")[2] for each in method.decorators}
            if short & {"property", "cached_property"}:
                found = self._inference.returned(method)
                return replace(found, how="attribute") if isinstance(found, Session) else found
            return FunctionValue(method, bound="staticmethod" not in short)
        return self._field(cls, name)

    def _of_class(self, cls: Class, name: str) -> Value | None:
        method = self.method(cls, name)
        if method is not None:
            return FunctionValue(method, bound="classmethod" in method.decorators)
        return self._field(cls, name)

    def _field(self, cls: Class, name: str) -> Value | None:
        key = (cls, name)
        if key in self._of_classes:
            return self._of_classes[key]
        if key in self._busy:
            self._inference.cuts += 1
            return None
        before = self._inference.cuts
        self._busy.add(key)
        try:
            found = self._find_field(cls, name)
        finally:
            self._busy.discard(key)
        if found is not None or self._inference.is_settled(key, before):
            self._of_classes[key] = found
        return found

    def _find_field(self, cls: Class, name: str) -> Value | None:
        for each in self._inference.models.lineage(cls):
            for annotation, value in each.fields.get(name, ()):
                found = hints.value(self._inference, annotation, each.module.code)
                found = found or self._inference.value(value, each.module.code)
                if found is not None:
                    return _kept(found)
            for function, annotation, value in self._stored_in(each.module).get(f"self.{name}", ()):
                if _class_of(function) is each:
                    found = hints.value(self._inference, annotation, function)
                    found = self._inference.value(value, function) or found
                    if found is not None:
                        return _kept(found)
        return None

    def _of_instance(self, owner: Instance, name: str) -> Value | None:
        relation = self._inference.models.relation(owner.model, name)
        if relation is None:
            method = self.method(owner.model.cls, name)
            return FunctionValue(method, bound=True) if method is not None else Method(owner, name)
        target = self._inference.models.target(relation, owner.model)
        if target is None:
            return None
        one = Instance(target, owner.session, owner.eager, owner.detached, owner.expired, owner.how)
        return Many(one) if relation.many else one

    # -- what is stored under a name ------------------------------------------------------------------------

    def stored(self, name: str | None, module: Module) -> Value | None:
        """``request.app.state.sessions``: what the module, else the tree, has put under ``….state.sessions``."""
        if name is None or "." not in name or name.startswith(("self.", "cls.")):
            return None
        end = ".".join(name.split(".")[-2:])
        if (end.startswith("state.") or end.count(".") == 1) and (module, end) not in self._busy:
            self._busy.add((module, end))
            try:
                return self._find_stored(end, module)
            finally:
                self._busy.discard((module, end))
        return None

    def _find_stored(self, end: str, module: Module) -> Value | None:
        for stores in (self._stored_in(module), self._stored_everywhere()):
            values = [self._inference.value(value, function) for function, _, value in stores.get(end, ())]
            kinds = [each for each in values if isinstance(each, Session | Maker | Registry | Engine)]
            if kinds and len({(type(each), each.asynchronous) for each in kinds}) == 1:
                return _kept(kinds[0])
        return None

    def global_value(self, module: Module, name: str) -> Value | None:
        """What functions of the module assign to its variable by ``global``."""
        key = (module, name)
        if key in self._busy or name not in module.global_names:
            return None
        self._busy.add(key)
        try:
            for function in module.functions:
                body = self._inference.body(function)
                if name in body.globals:
                    for binding in reversed(body.bindings.get(name, ())):
                        found = self._inference.binding(binding, function)
                        if found is not None:
                            return replace(found, how="global") if isinstance(found, Session) else found
        finally:
            self._busy.discard(key)
        return None

    def _stored_everywhere(self) -> Stored:
        if self._everywhere is None:
            self._everywhere = {}
            for module in self._inference.tree.modules.values():
                for name, places in self._stored_in(module).items():
                    if not name.startswith("self."):
                        self._everywhere.setdefault(name, []).extend(places)
        return self._everywhere

    def _stored_in(self, module: Module) -> Stored:
        if module not in self._stores:
            stores: Stored = {}
            self._stores[module] = stores
            for function, node in module.assignments:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    name = dotted(target) if isinstance(target, ast.Attribute) else None
                    if name is not None:
                        end = ".".join(name.split(".")[-2:])
                        annotation = node.annotation if isinstance(node, ast.AnnAssign) else None
                        stores.setdefault(end, []).append((function, annotation, node.value))
        return self._stores[module]


def _kept(value: Value) -> Value:
    """A session that is kept in an attribute is not one that a function opened for itself."""
    return replace(value, how="attribute") if isinstance(value, Session) else value


def _class_of(function: Function) -> Class | None:
    current: Function | None = function
    while current is not None:
        if current.cls is not None:
            return current.cls
        current = current.outer
    return None
