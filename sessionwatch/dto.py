"""Transfer objects: plain data taken from an instance of a mapped class while its session is open.

A transfer object is a dataclass, or a model of pydantic, attrs, msgspec or SQLModel (without ``table=True``).
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import inspect
from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.ext.mutable import Mutable
from sqlalchemy.orm import Mapper, object_session
from sqlalchemy.orm.exc import DetachedInstanceError

from .config import nearest
from .data import fields as _fields
from .data.instances import find
from .model import ConfigError, SessionwatchError

__all__ = ["ExtractError", "assert_covers", "extract"]
__tracebackhide__ = True  # pytest: the story is in the message
T = TypeVar("T")

_EAGER = ("joined", "selectin", "subquery", "immediate", False)  # loaders that bring a relationship with the query
_UNREADABLE = (DetachedInstanceError, MissingGreenlet)


class ExtractError(SessionwatchError):
    """An instance can't be made into a transfer object; ``missing`` holds the paths of what it lacks."""

    def __init__(self, message: str, missing: tuple[str, ...]) -> None:
        super().__init__(message)
        self.missing = missing


class _Lack(NamedTuple):
    """A field that can't be filled. ``option`` is the loader option that would load it, if one does."""

    path: str
    kind: Any
    option: str | None
    why: str


def extract(instance: object, dto: type[T], /, **overrides: Any) -> T:
    """A transfer object of class ``dto`` with the values of ``instance``, field by field.

    Fields whose annotation is another transfer object, or a list, tuple, set or mapping of them, are made
    from relationships. ``overrides`` are given to the object as they are, under the fields' names.

    What is not loaded is loaded where an attribute could load it: in an open session that is not an asyncio
    one, or inside of ``run_sync``. Elsewhere nothing is tried: raises `ExtractError`, which names everything
    that is missing at once, with the loader options that the query needs. It is raised for fields as well
    that the model has no attribute for, unless they have a default. Raises TypeError for a class that is no
    transfer object, an instance of no mapped class, an unknown override, and a field that would hold an
    instance.
    """
    known = [field.name for field in _fields.fields(dto)]
    for name in overrides:
        if name not in known:
            raise TypeError(f"{dto.__name__} has no field {name!r}.{nearest(name, known)}")
    state = _inspected(instance)
    lacks: list[_Lack] = []
    made = _Extraction(_may_load(instance), lacks).make(instance, dto, "", (), overrides)
    if lacks:
        raise _error(state, dto, lacks)
    result: T = made
    return result


def assert_covers(model: type, dto: type, *, exclude: Collection[str] = (), relationships: bool = False) -> None:
    """Raise AssertionError where ``dto`` lacks a field for a column attribute of the mapped class ``model``.

    The message lists the missing fields with their types. ``exclude`` names attributes that are left out on
    purpose; ``relationships=True`` asks for these, too. An alias counts as the field's name. Raises
    `ConfigError` for a name in ``exclude`` that the model has no attribute of, and AssertionError for one
    that the transfer object has all the same.
    """
    mapper = _mapper(model)
    excluded = {exclude} if isinstance(exclude, str) else set(exclude)
    wanted: dict[str, Any] = {prop.key: prop for prop in mapper.column_attrs}
    every = [attribute.key for attribute in mapper.attrs]
    if relationships:
        wanted |= {prop.key: prop for prop in mapper.relationships}
    for name in sorted(excluded - set(every)):
        raise ConfigError(f"exclude: {model.__name__} has no attribute {name!r}.{nearest(name, every)}")
    names = {name for field in _fields.fields(dto) for name in field.names}
    missing = [f"  {name}: {_kind(prop)}" for name, prop in wanted.items() if name not in names | excluded]
    if missing:
        count = "1 attribute" if len(missing) == 1 else f"{len(missing)} attributes"
        lines = [f"{dto.__name__} lacks {count} of {model.__name__}:", *missing]
        lines.append("add the fields, or leave them out on purpose: exclude={...}")
        raise AssertionError("\n".join(lines))
    if excluded & names:
        listed = ", ".join(sorted(excluded & names))
        raise AssertionError(f"{dto.__name__} has fields that exclude says it leaves out: {listed}")


# -- extraction -------------------------------------------------------------------------------------------


class _Extraction:
    """One call of `extract`. ``lacks`` collects what is missing; the objects made are of no use then."""

    def __init__(self, may_load: bool, lacks: list[_Lack]) -> None:
        self.may_load = may_load
        self.lacks = lacks
        self._within: list[tuple[object, type]] = []

    def make(self, instance: Any, dto: type, path: str, chain: tuple[str, ...], given: dict[str, Any]) -> Any:
        if any(outer is instance and kind is dto for outer, kind in self._within):
            raise TypeError(f"{path.rstrip('.')} leads back to the {dto.__name__} that it is part of")
        self._within.append((instance, dto))
        before = len(self.lacks)
        values = {}
        for field in _fields.fields(dto):
            if field.name in given:
                values[field.argument] = given[field.name]
            else:
                self._fill(values, instance, field, path, chain)
        self._within.pop()
        return _fields.make(dto, values) if len(self.lacks) == before else None

    def _fill(
        self, values: dict[str, Any], instance: Any, field: _fields.Field, path: str, chain: tuple[str, ...]
    ) -> None:
        name = next((name for name in field.names if hasattr(type(instance), name)), None)
        where = path + field.name
        if name is None:
            if field.required:
                why = f"{type(instance).__name__} has no such attribute, and the field no default"
                self.lacks.append(_Lack(where, field.kind, None, why))
            return
        lacks = [] if self.may_load else list(_unloaded(instance, name, field, where, chain))
        self.lacks += lacks
        if lacks:
            return
        try:
            value = getattr(instance, name)
        except (*_UNREADABLE, StatementError) as error:
            if not _is_unreadable(error) or self.may_load:
                raise
            self.lacks.append(_Lack(where, field.kind, None, "it reads something that is not loaded"))
            return
        values[field.argument] = self._converted(value, field, where, (*chain, _option(instance, name)))

    def _converted(self, value: Any, field: _fields.Field, path: str, chain: tuple[str, ...]) -> Any:
        inner = _fields.nested(field.kind)
        if inner is None or value is None:
            return _plain(value, field, path)
        if inner.container is None:
            return self.make(value, inner.cls, f"{path}.", chain, {}) if _is_instance(value) else value
        if inner.keyed:
            return {key: self._part(part, inner, f"{path}[...]", chain) for key, part in value.items()}
        return inner.container(
            [self._part(part, inner, f"{path}[{index}]", chain) for index, part in enumerate(list(value))]
        )

    def _part(self, value: Any, inner: _fields.Nested, path: str, chain: tuple[str, ...]) -> Any:
        return self.make(value, inner.cls, f"{path}.", chain, {}) if _is_instance(value) else value


def _plain(value: Any, field: _fields.Field, path: str) -> Any:
    """A value that a transfer object may hold: collections of SQLAlchemy's own kinds become plain ones."""
    found = next(find(path, value), None)
    if found is not None:
        raise TypeError(f"the field {field} would hold a {found.model} instance: annotate it with a transfer object")
    if isinstance(value, Mutable):
        plain: Any = next((kind for kind in (dict, list, set) if isinstance(value, kind)), None)
        return plain(value) if plain is not None else value
    wanted = _fields.container(field.kind)
    collection = type(value).__module__.startswith("sqlalchemy.")  # an association proxy's, for example
    return wanted(value) if wanted is not None and collection else value


def _may_load(instance: object) -> bool:
    """Whether reading an attribute may ask the database here."""
    session = object_session(instance)
    if session is None:
        return _inspected(instance).key is None  # new: there is nothing to load
    if "sqlalchemy.ext.asyncio" not in sys.modules:  # an import that fails without greenlet leaves its parts behind
        return True
    from sqlalchemy.ext.asyncio import async_session

    greenlet = sys.modules["greenlet"]  # SQLAlchemy's own in_greenlet() came after 2.0.22
    return async_session(session) is None or type(greenlet.getcurrent()).__name__ == "_AsyncIoGreenlet"


def _unloaded(instance: Any, name: str, field: _fields.Field, path: str, chain: tuple[str, ...]) -> Iterator[_Lack]:
    """What can't be read of one attribute, and of the relationships that would be read after it."""
    state = _inspected(instance)
    prop = state.mapper.attrs.get(name)
    is_column, is_relationship = name in state.mapper.column_attrs, name in state.mapper.relationships
    if name not in state.unloaded or not (is_column or is_relationship):
        return
    option = _option(instance, name)
    if name in state.expired_attributes and is_column:
        yield _Lack(path, field.kind, None, "it has expired: read it before the commit, or use expire_on_commit=False")
        return
    yield _Lack(path, field.kind, ".".join(filter(None, [*chain, option])), "it is not loaded")
    inner = _fields.nested(field.kind)
    if inner is not None and is_relationship:
        yield from _unloaded_below(prop.mapper, inner.cls, f"{path}.", (*chain, option), (inner.cls,))


def _unloaded_below(
    mapper: Mapper[Any], dto: type, path: str, chain: tuple[str, ...], within: tuple[type, ...]
) -> Iterator[_Lack]:
    """What a query would leave out of a relationship that is not there yet, by the mapping alone."""
    for field in _fields.fields(dto):
        prop = next((mapper.attrs[name] for name in field.names if name in mapper.attrs), None)
        if prop is None:
            continue
        option = _option_of(mapper.class_, prop)
        if prop.key in mapper.column_attrs and getattr(prop, "deferred", False):
            yield _Lack(path + field.name, field.kind, ".".join(filter(None, [*chain, option])), "it is not loaded")
        elif prop.key in mapper.relationships:
            inner = _fields.nested(field.kind)
            if getattr(prop, "lazy", "select") not in _EAGER:
                yield _Lack(path + field.name, field.kind, ".".join(filter(None, [*chain, option])), "it is not loaded")
            if inner is not None and inner.cls not in within:
                below = path + field.name + "."
                yield from _unloaded_below(prop.mapper, inner.cls, below, (*chain, option), (*within, inner.cls))


def _option(instance: Any, name: str) -> str:
    mapper = _inspected(instance).mapper
    prop = mapper.attrs.get(name)
    return _option_of(mapper.class_, prop) if prop is not None else ""


def _option_of(cls: type, prop: Any) -> str:
    """The loader option that brings an attribute with the query."""
    if not hasattr(prop, "uselist"):
        return f"undefer({cls.__name__}.{prop.key})"
    return f"{'selectinload' if prop.uselist else 'joinedload'}({cls.__name__}.{prop.key})"


def _is_unreadable(error: BaseException) -> bool:
    """Whether a read failed for want of a session; on SQLAlchemy 2.1 the reason may be wrapped."""
    return isinstance(error, _UNREADABLE) or isinstance(getattr(error, "orig", error.__cause__), _UNREADABLE)


# -- messages ---------------------------------------------------------------------------------------------


def _error(state: Any, dto: type, lacks: list[_Lack]) -> ExtractError:
    model = state.class_.__name__
    count = "1 field" if len(lacks) == 1 else f"{len(lacks)} fields"
    lines = [f"{dto.__name__} can't be made from {_described(state)} {model}: {count} can't be filled"]
    lines += [f"  {lack.path}: {_fields.shown(lack.kind)}  ({lack.why})" for lack in lacks]
    options = [lack.option for lack in lacks if lack.option]
    leaves = [option for option in options if not any(other.startswith(f"{option}.") for other in options)]
    if leaves:
        lines.append(f"fix: load them with the query: .options({', '.join(dict.fromkeys(leaves))})")
    if any("has no such attribute" in lack.why and "." not in lack.path for lack in lacks):
        names = ", ".join(f"{lack.path}=..." for lack in lacks if "has no such attribute" in lack.why)
        lines.append(f"fix: give what the model does not have: extract(instance, {dto.__name__}, {names})")
    return ExtractError("\n".join(lines), tuple(lack.path for lack in lacks))


def _described(state: Any) -> str:
    for name in ("transient", "pending", "detached"):
        if getattr(state, name):
            return f"a {name}"
    return "an asyncio session's" if not _may_load(state.obj()) else "a persistent"


def _kind(prop: Any) -> str:
    """The type of an attribute, as it would be annotated."""
    if hasattr(prop, "uselist"):
        name = prop.mapper.class_.__name__
        return f"list[{name}]" if prop.uselist else f"{name} | None"
    column = prop.columns[0]
    try:
        python = column.type.python_type
    except NotImplementedError:
        python = object
    name = str(column.type) if python in (object, dict) else python.__name__  # what JSON is depends on the version
    return f"{name} | None" if getattr(column, "nullable", False) else name


def _inspected(instance: object) -> Any:
    state = inspect(instance, raiseerr=False)
    if state is None or not hasattr(state, "session_id"):
        raise TypeError(f"{type(instance).__name__} is no instance of a mapped class")
    return state


def _is_instance(value: object) -> bool:
    return hasattr(inspect(value, raiseerr=False), "session_id")


def _mapper(model: type) -> Mapper[Any]:
    mapper: Any = inspect(model, raiseerr=False)
    if not isinstance(mapper, Mapper):
        raise TypeError(f"{getattr(model, '__name__', model)} is no mapped class")
    return mapper
