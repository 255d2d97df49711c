"""The fields of a transfer object's class: dataclasses, pydantic and SQLModel, attrs, msgspec. Knows no SQLAlchemy."""

from __future__ import annotations

import collections.abc
import dataclasses
import importlib
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_SEQUENCES: dict[Any, Callable[[Any], Any]] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    set: set,
    frozenset: frozenset,
    tuple: tuple,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Field(NamedTuple):
    """A field: ``name`` on the object, ``argument`` as it is given when one is made, ``kind`` its annotation."""

    name: str
    argument: str
    kind: Any
    required: bool

    @property
    def names(self) -> tuple[str, ...]:
        """What the model's attribute may be called."""
        return (self.name,) if self.argument == self.name else (self.name, self.argument)

    def __str__(self) -> str:
        return f"{self.name}: {shown(self.kind)}"


class Nested(NamedTuple):
    """A field that holds other transfer objects: their class, and what makes the container that they are in."""

    cls: type
    container: Callable[[Any], Any] | None  # None: a single one
    keyed: bool = False


def is_transfer(cls: object) -> bool:
    """Whether ``cls`` is a class of one of the kinds that `fields` knows, and not a mapped one."""
    return isinstance(cls, type) and _reader(cls) is not None and not _is_mapped(cls)


def fields(cls: type) -> list[Field]:
    """The fields that are given when an object is made. Raises TypeError for any other class."""
    reader = _reader(cls) if isinstance(cls, type) else None
    if reader is None:
        name = getattr(cls, "__name__", type(cls).__name__)
        raise TypeError(f"{name} is no dataclass, and no model of pydantic, attrs, msgspec or SQLModel")
    if _is_mapped(cls):
        raise TypeError(f"{cls.__name__} is a mapped class: a transfer object must not be one")
    return list(reader(cls))


def make(cls: type, values: dict[str, Any]) -> Any:
    """An object of ``cls`` from the values by argument; the class's own validation applies."""
    if hasattr(cls, "model_validate"):
        return cls.model_validate(values)
    return cls(**values)


def nested(kind: Any) -> Nested | None:
    """What a field's annotation says of other transfer objects in it."""
    for part in _alternatives(kind):
        if is_transfer(part):
            return Nested(part, None)
        origin, inner = typing.get_origin(part), typing.get_args(part)
        if origin in _SEQUENCES and inner:
            for item in _alternatives(inner[0]):
                if is_transfer(item):
                    return Nested(item, _SEQUENCES[origin])
        if origin in _MAPPINGS and len(inner) == 2 and is_transfer(inner[1]):
            return Nested(inner[1], dict, keyed=True)
    return None


def container(kind: Any) -> Callable[[Any], Any] | None:
    """What makes the plain container that a field's annotation asks for."""
    for part in _alternatives(kind):
        origin = typing.get_origin(part) or part
        if origin in _SEQUENCES:
            return _SEQUENCES[origin]
        if origin in _MAPPINGS:
            return dict
    return None


def shown(kind: Any) -> str:
    """An annotation as it is written."""
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__qualname__.rpartition("<locals>.")[2]
    if isinstance(kind, str):
        return kind
    inner = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return " | ".join("None" if part is type(None) else shown(part) for part in inner)
    if isinstance(origin, type) and inner:
        return f"{origin.__name__}[{', '.join('...' if part is Ellipsis else shown(part) for part in inner)}]"
    return str(kind).replace("typing.", "")


def _alternatives(kind: Any) -> Iterator[Any]:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        yield from _alternatives(typing.get_args(kind)[0])
    elif origin in (typing.Union, types.UnionType):
        for part in typing.get_args(kind):
            yield from _alternatives(part)
    else:
        yield kind


def _is_mapped(cls: type) -> bool:
    return any("_sa_class_manager" in vars(base) for base in cls.__mro__)


# -- the kinds of classes -----------------------------------------------------------------------------------


def _reader(cls: type) -> Callable[[Any], Iterator[Field]] | None:
    metaclass: type = type(cls)
    if any("__struct_fields__" in vars(base) for base in metaclass.__mro__):
        return _of_msgspec
    if any("__pydantic_fields__" in vars(base) for base in cls.__mro__) and hasattr(cls, "model_validate"):
        return _of_pydantic
    if any("__attrs_attrs__" in vars(base) for base in cls.__mro__):
        return _of_attrs
    return _of_dataclass if dataclasses.is_dataclass(cls) else None


def _of_dataclass(cls: Any) -> Iterator[Field]:
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        if field.init:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            yield Field(field.name, field.name, hints.get(field.name, field.type), required)


def _of_attrs(cls: Any) -> Iterator[Field]:
    hints, nothing = _hints(cls), sys.modules["attr"].NOTHING
    for field in cls.__attrs_attrs__:
        if field.init:
            argument = field.alias or field.name.lstrip("_")
            yield Field(field.name, argument, hints.get(field.name, field.type), field.default is nothing)


def _of_msgspec(cls: Any) -> Iterator[Field]:
    structs = importlib.import_module("msgspec.structs")
    for field in structs.fields(cls):
        yield Field(field.name, field.name, field.type, field.required)


def _of_pydantic(cls: Any) -> Iterator[Field]:
    for name, info in cls.model_fields.items():
        yield Field(name, _alias(info) or name, info.annotation, info.is_required())


def _alias(info: Any) -> str | None:
    """The name under which pydantic takes a value; the first one where there is a choice."""
    alias = info.validation_alias if info.validation_alias is not None else info.alias
    choices = getattr(alias, "choices", [alias])
    return next((choice for choice in choices if isinstance(choice, str)), None)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError):  # a name that only a type checker knows
        return {}
