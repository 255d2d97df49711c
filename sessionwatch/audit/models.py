"""Mapped classes of the tree: their relationships, how each one loads, and their columns."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .mapped import Model, Relation
from .tree import Class, dotted
from .values import ClassValue, External, Flask
from .vocabulary import EAGER, known

if TYPE_CHECKING:
    from .answers import Answers

RELATIONSHIPS = frozenset({"relationship", "Relationship", "relation", "dynamic_loader", "WriteOnlyMapped"})
_BASES = frozenset({"DeclarativeBase", "DeclarativeBaseNoMeta", "MappedAsDataclass", "Model", "SQLModel"})
_BASE_MAKERS = frozenset({"declarative_base", "automap_base", "generate_base", "as_declarative"})


class Models:
    """The mapped classes of a tree, found when they are asked for."""

    def __init__(self, inference: Answers) -> None:
        self._inference = inference
        self._found: dict[Class, Model | None] = {}
        self._named: dict[str, list[Model]] | None = None

    def of(self, cls: Class) -> Model | None:
        """The mapped class; None where the class is not mapped, or not seen to be."""
        if cls not in self._found:
            self._found[cls] = None  # a class among its own bases
            if self._is_mapped(cls):
                self._found[cls] = model = Model(cls.name, cls)
                for base in reversed(list(self.lineage(cls))):
                    self._read(model, base)
        return self._found[cls]

    def named(self, name: str) -> Model | None:
        """The one mapped class of that name; None where there are several."""
        if self._named is None:
            self._named = {}
            for module in self._inference.tree.modules.values():
                for cls in {id(each): each for each in module.classes.values()}.values():
                    if (model := self.of(cls)) is not None:
                        self._named.setdefault(cls.node.name, []).append(model)
            self._add_backrefs()
        found = self._named.get(name.rpartition(".")[2], [])
        return found[0] if len(found) == 1 else None

    def target(self, relation: Relation, model: Model) -> Model | None:
        """The class that a relationship leads to: as the model's own module knows it, else by its name."""
        if relation.target is None:
            return None
        found = self._inference.module_name(relation.target.rpartition(".")[2], model.cls.module)
        return self.of(found.cls) if isinstance(found, ClassValue) else self.named(relation.target)

    def relation(self, model: Model, name: str) -> Relation | None:
        self.named(model.name)  # so that relationships which the other side declares are known
        return model.relations.get(name)

    def lineage(self, cls: Class, seen: frozenset[Class] = frozenset()) -> Iterator[Class]:
        """The class and those of its bases that are in the tree."""
        yield cls
        for base in cls.node.bases:
            value = self._inference.value(base, cls.module.code)
            if isinstance(value, ClassValue) and value.cls not in seen and value.cls is not cls:
                yield from self.lineage(value.cls, seen | {cls})

    def _is_mapped(self, cls: Class) -> bool:
        if cls.node.name == "Base" and "__tablename__" not in cls.fields:
            return False
        table = "__tablename__" in cls.fields or "__table__" in cls.fields or "__tablename__" in cls.methods
        is_base = False
        for each in self.lineage(cls):
            for base in each.node.bases:
                is_base = is_base or self._is_base(base, each)
            is_base = is_base or any("as_declarative" in _name(one) for one in each.node.decorator_list)
        sqlmodel_table = any(
            word.arg == "table" and isinstance(word.value, ast.Constant) and word.value.value is True
            for word in cls.node.keywords
        )
        if sqlmodel_table:
            return True
        return (is_base or table) and (table or self._has_columns(cls))

    def _is_base(self, node: ast.expr, cls: Class) -> bool:
        value = self._inference.value(node, cls.module.code)
        if isinstance(value, External):
            last = known(value.name)
            return last in _BASES - {"SQLModel"} or last in _BASE_MAKERS
        if isinstance(node, ast.Attribute) and node.attr == "Model":
            return isinstance(self._inference.value(node.value, cls.module.code), Flask)
        return value is None and isinstance(node, ast.Name) and node.id == "Base"

    def _has_columns(self, cls: Class) -> bool:
        return any(
            _name(value) in {"mapped_column", "Column", *RELATIONSHIPS} or "Mapped" in _name(annotation)
            for each in self.lineage(cls)
            for declared in each.fields.values()
            for annotation, value in declared
        )

    def _read(self, model: Model, cls: Class) -> None:
        for name, declared in cls.fields.items():
            for annotation, value in declared:
                self._read_field(model, name, annotation, value)
        for name, method in cls.methods.items():  # @declared_attr
            if any(each.rpartition(".")[2] == "declared_attr" for each in method.decorators):
                for node in ast.walk(method.node):
                    if isinstance(node, ast.Return) and node.value is not None:
                        self._read_field(model, name, None, node.value)

    def _read_field(self, model: Model, name: str, annotation: ast.expr | None, value: ast.expr | None) -> None:
        called = _name(value)
        if called in RELATIONSHIPS and isinstance(value, ast.Call):
            model.relations[name] = _relation(name, annotation, value)
        elif called == "deferred":
            model.deferred.add(name)
        elif called in {"mapped_column", "Column", "Field"} and isinstance(value, ast.Call):
            model.columns.add(name)
            words = {word.arg: ast.unparse(word.value) for word in value.keywords}
            if words.get("deferred") == "True":
                model.deferred.add(name)
            if words.get("primary_key") == "True":
                model.keys.add(name)
        elif _name(annotation) == "Mapped":
            model.columns.add(name)

    def _add_backrefs(self) -> None:
        for models in list((self._named or {}).values()):
            for model in models:
                for name, method in list(model.cls.fields.items()):
                    for _, value in method:
                        self._add_backref(model, name, value)

    def _add_backref(self, model: Model, name: str, value: ast.expr | None) -> None:
        if name not in model.relations or not isinstance(value, ast.Call):
            return
        for word in value.keywords:
            if word.arg != "backref":
                continue
            call = word.value if isinstance(word.value, ast.Call) else None
            text = call.args[0] if call is not None and call.args else word.value
            target = (self._named or {}).get(model.relations[name].target or "", [])
            if isinstance(text, ast.Constant) and isinstance(text.value, str) and len(target) == 1:
                lazy, dynamic = _loading(call)
                relation = Relation(text.value, model.name, not model.relations[name].many, lazy, dynamic)
                target[0].relations.setdefault(text.value, relation)


def _relation(name: str, annotation: ast.expr | None, call: ast.Call) -> Relation:
    target, many = _target(annotation)
    if call.args:
        target = _class_name(call.args[0]) or target
    lazy, dynamic = _loading(call)
    words = {word.arg: word.value for word in call.keywords}
    argument = words.get("argument")
    if argument is not None:
        target = _class_name(argument) or target
    if "uselist" in words:
        many = ast.unparse(words["uselist"]) == "True"
    elif annotation is None:
        many = True  # of a foreign key on this side nothing is known here
    outer = _name(annotation)
    return Relation(name, target, many, lazy and outer not in {"DynamicMapped", "WriteOnlyMapped"}, dynamic)


def _loading(call: ast.Call | None) -> tuple[bool, bool]:
    """Whether it is loaded when first read; whether reading it loads nothing at all."""
    for word in call.keywords if call is not None else ():
        if word.arg == "lazy":
            how = word.value.value if isinstance(word.value, ast.Constant) else "unknown"
            if how in ("select", True):
                return True, False
            return False, str(how) not in EAGER
        if word.arg is None:
            return False, False
    return True, False


def _target(annotation: ast.expr | None) -> tuple[str | None, bool]:
    """Of ``Mapped[list[Item]]``: Item, many."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return None, False
    if annotation is None:
        return None, False
    many = False
    node = annotation
    while True:
        match node:
            case ast.Subscript():
                outer = _name(node)
                many = many or outer in {"list", "List", "set", "Set", "Sequence", "WriteOnlyMapped", "DynamicMapped"}
                node = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) else node.slice
            case ast.BinOp():
                node = node.left
            case ast.Constant() if isinstance(node.value, str):
                inner, inner_many = _target(node)
                return inner, many or inner_many
            case _:
                return _class_name(node), many


def _class_name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Lambda):
        node = node.body
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.rpartition(".")[2]
    name = dotted(node)
    return name.rpartition(".")[2] if name else None


def _name(node: ast.expr | None) -> str:
    """The last part of what is called, subscripted or named."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.partition("[")[0].rpartition(".")[2]
    return ((dotted(node) or "") if node is not None else "").rpartition(".")[2]
