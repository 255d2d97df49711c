"""Instances of mapped classes inside of plain values: which, and where. Knows no SQLAlchemy and loads nothing.

Containers, named tuples, result rows, dataclasses, and models of pydantic, attrs and msgspec are looked into.
Attributes are taken from where they are stored, so that no property, no lazy load and no default runs.
"""

from __future__ import annotations

import sys
from collections import UserDict, UserList, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from types import MappingProxyType, MemberDescriptorType, SimpleNamespace
from typing import Any, NamedTuple

LIMIT = 100_000  # values that are looked at; what lies beyond is not searched
_ATOMS = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None)})
_MAPPINGS = frozenset({dict, MappingProxyType, UserDict})
_SEQUENCES = frozenset({list, deque, UserList})
_SETS = frozenset({set, frozenset, type({}.keys()), type({}.values())})
_ROW = "sqlalchemy.engine.row"  # the module of the class Row


class Found(NamedTuple):
    """An instance of a mapped class, and the expression that leads to it."""

    path: str
    instance: Any

    @property
    def model(self) -> str:
        return type(self.instance).__name__

    @property
    def state(self) -> str:
        """transient, pending, persistent, deleted or detached."""
        state = stored(self.instance).get("_sa_instance_state")
        for name in ("transient", "pending", "deleted", "persistent"):
            if getattr(state, name, False):
                return name
        return "detached"


def is_mapped(value: object) -> bool:
    """Whether ``value`` is an instance of a mapped class."""
    return _class_has(value, "_sa_class_manager")


def find(name: str, value: object, limit: int = LIMIT) -> Iterator[Found]:
    """The instances in ``value``, breadth first; each one once. ``name`` is what the paths begin with."""
    waiting: deque[tuple[str, Any]] = deque([(name, value)])
    seen: dict[int, Any] = {}  # holds what it names, so that no id is used twice
    for left in range(limit, 0, -1):
        if not waiting:
            return
        path, value = waiting.popleft()
        if type(value) in _ATOMS or id(value) in seen:
            continue
        seen[id(value)] = value
        if is_mapped(value):
            yield Found(path, value)
        else:
            waiting.extend(islice(_parts(path, value), max(0, left - len(waiting))))


def stored(value: object) -> dict[str, Any]:
    """The instance's own dictionary, past any ``__getattribute__``; empty where it has none."""
    try:
        kept = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return kept if isinstance(kept, dict) else {}


def _parts(path: str, value: Any) -> Iterable[tuple[str, Any]]:
    """What a value consists of, each part with its path. Nothing for a value that is no container."""
    kinds = type(value).__mro__  # not isinstance(), which asks the instance for its class as well
    if not _MAPPINGS.isdisjoint(kinds):
        return _of_mapping(path, stored(value).get("data", {}) if UserDict in kinds else value)
    if tuple in kinds and (names := getattr(type(value), "_fields", None)) is not None:
        return ((f"{path}.{name}", part) for name, part in zip(names, value, strict=False))
    if tuple in kinds or not _SEQUENCES.isdisjoint(kinds) or any(kind.__module__ == _ROW for kind in kinds):
        parts = stored(value).get("data", ()) if UserList in kinds else value
        return ((f"{path}[{index}]", part) for index, part in enumerate(list(parts)))
    if not _SETS.isdisjoint(kinds):
        return ((f"list({path})[{index}]", part) for index, part in enumerate(list(value)))
    return _of_model(path, value)


def _of_mapping(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    for index, (key, part) in enumerate(list(value.items())):
        yield f"list({path})[{index}]", key
        yield f"{path}[{_shown(key)}]", part


def _shown(key: object) -> str:
    """A key that the program's source spells; any other one may be a column's value."""
    if type(key) is str and key.isidentifier() and sys.intern(key[:1] + key[1:]) is key:
        return f'"{key}"'
    return "..."


def _of_model(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    names = _fields(type(value))
    if names is None:
        return
    kept = stored(value)
    for name in names or list(kept):
        yield f"{path}.{name}", kept[name] if name in kept else _slot(value, name)
    extra = _slot(value, "__pydantic_extra__")
    for name, part in list(extra.items()) if isinstance(extra, dict) else ():
        yield f"{path}.{name if _shown(name) != '...' else '...'}", part


def _fields(kind: type) -> tuple[str, ...] | None:
    """The fields of a kind of model that is looked into; empty where its dictionary holds them, None for others."""
    metaclass: type = type(kind)
    if any("__struct_fields__" in vars(base) for base in metaclass.__mro__):  # msgspec has it there
        return tuple(kind.__struct_fields__)  # type: ignore[attr-defined]
    for own in [vars(base) for base in kind.__mro__]:
        if "__dataclass_fields__" in own:
            return tuple(own["__dataclass_fields__"])
        if "__attrs_attrs__" in own:
            return tuple(field.name for field in own["__attrs_attrs__"])
        if "__pydantic_fields__" in own:
            return ()
    return () if SimpleNamespace in kind.__mro__ else None


def _slot(value: object, name: str) -> Any:
    """What a slot of the instance holds; None where it holds nothing, or the class has something else there."""
    for own in [vars(base) for base in type(value).__mro__]:
        if name in own:
            slot = own[name]
            with suppress(AttributeError):  # not set yet
                return slot.__get__(value, type(value)) if isinstance(slot, MemberDescriptorType) else None
    return None


def _class_has(value: object, name: str) -> bool:
    return any(name in vars(base) for base in type(value).__mro__)
