"""Values that were changed in place, where nobody told SQLAlchemy.

A fingerprint of each dictionary, list or pickled object is taken when it is loaded or written, and looked at
again when a commit has flushed and is about to be sent. Only mappings that have such columns pay for it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Column, TypeDecorator, event
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import ColumnProperty, Mapper
from sqlalchemy.orm.base import LoaderCallableStatus

from ..border import settle
from ..frames import callsite
from ..record.events import ChangedInPlace
from ..record.key import KEY
from .patch import guarded, listen
from .private import STATE_ATTRIBUTE
from .reading import mappers, read

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import InstanceState, Session

    from ..record.life import SessionRecord
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
_DEPTH = 50  # levels of a value that are looked into


# -- mappings -----------------------------------------------------------------------------------------


def follow(tracker: Tracker) -> Callable[[], None]:
    """Listen to every mapping with values that can change in place, those of later, too; returns the undo."""
    listening: list[tuple[weakref.ref[type], str, Callable[..., None]]] = []

    def configured(mapper: Mapper[Any], class_: type) -> None:
        with tracker.guarded("mapper_configured"):
            keys = frozenset(candidates(mapper))
            if keys:
                for name, function in _listeners(tracker, keys).items():
                    function = guarded(function, tracker, name)
                    event.listen(class_, name, function, raw=True)
                    listening.append((weakref.ref(class_), name, function))

    def undo() -> None:
        unlisten()
        for reference, name, function in listening:
            class_ = reference()
            if class_ is not None and event.contains(class_, name, function):
                event.remove(class_, name, function)

    unlisten = listen(Mapper, "mapper_configured", configured)
    try:
        for mapper in mappers():
            if mapper.configured:
                configured(mapper, mapper.class_)
    except BaseException:
        undo()
        raise
    return undo


def candidates(mapper: Mapper[Any]) -> Iterator[str]:
    """The attributes whose values may be dictionaries, lists, sets or pickled objects."""
    for prop in mapper.iterate_properties:
        column = prop.columns[0] if isinstance(prop, ColumnProperty) else None
        if isinstance(column, Column) and _may_change(column.type):
            yield prop.key


def _may_change(type_: Any) -> bool:
    return isinstance(type_, JSON | TypeDecorator) or not type_.hashable  # ARRAY and HSTORE are not


def _listeners(tracker: Tracker, keys: frozenset[str]) -> dict[str, Callable[..., None]]:
    """The listeners of one mapping; each is given the state of an instance."""

    def take(state: InstanceState[Any], names: Any) -> None:
        try:
            remember(state, keys if names is None else keys.intersection(names))
        except Exception:
            tracker.failed("load")

    def load(state: InstanceState[Any], context: Any) -> None:
        take(state, None)

    def refresh(state: InstanceState[Any], context: Any, names: Any) -> None:
        take(state, names)

    def after_insert(mapper: Mapper[Any], connection: Connection, state: InstanceState[Any]) -> None:
        take(state, None)

    def after_update(mapper: Mapper[Any], connection: Connection, state: InstanceState[Any]) -> None:
        take(state, [key for key in keys if _written(state, key)])
        known = state.__dict__.get(KEY, {})
        for key in keys.intersection(state.committed_state, known):
            known[key] = id(state.dict.get(key)), known[key][1]  # assigned, though it may be what is stored already

    return {"load": load, "refresh": refresh, "after_insert": after_insert, "after_update": after_update}


def _written(state: InstanceState[Any], key: str) -> bool:
    """Whether the flush that is under way writes the attribute."""
    before = state.committed_state.get(key, state)
    if before is state:
        return False
    impl = state.manager[key].impl
    return isinstance(before, LoaderCallableStatus) or not impl.is_equal(state.dict.get(key), before)


def remember(state: InstanceState[Any], keys: frozenset[str]) -> None:
    """Take the fingerprints of an instance's values; they stay with its state."""
    values = state.dict
    for key in keys:
        value = values.get(key)
        if value is not None and is_mutable(value):
            state.__dict__.setdefault(KEY, {})[key] = id(value), fingerprint(value)
        elif KEY in state.__dict__:
            state.__dict__[KEY].pop(key, None)


# -- values -------------------------------------------------------------------------------------------


def is_mutable(value: Any) -> bool:
    """Whether a value can be changed in place unseen. Those of `sqlalchemy.ext.mutable` tell SQLAlchemy."""
    if isinstance(value, MutableBase):
        return False
    return isinstance(value, dict | list | set | bytearray) or bool(_inside(value))


def _inside(value: Any) -> dict[str, Any] | None:
    """The attributes of an object that was pickled; None for plain values and for instances of mapped classes."""
    inside = value.__dict__ if getattr(type(value), "__dictoffset__", 0) else None
    if not isinstance(inside, dict) or STATE_ATTRIBUTE.name in inside:
        return None
    return {name: item for name, item in inside.items() if not name.startswith("_") and not _is_cache(value, name)}


def _is_cache(value: Any, name: str) -> bool:
    """Whether a read filled the attribute in, as ``functools.cached_property`` does."""
    found = next((vars(base)[name] for base in type(value).__mro__ if name in vars(base)), None)
    return hasattr(type(found), "__get__")


def fingerprint(value: Any) -> int | None:
    """A number that tells a value from a changed one; None for what can't be looked into."""
    try:
        return _digest(value, 0)
    except Exception:  # unhashable, endless, or an object of the program's that can't be compared
        return None


def _digest(value: Any, depth: int) -> int:
    if depth > _DEPTH:
        raise RecursionError
    depth += 1
    if isinstance(value, dict):
        return hash((1, frozenset((_digest(key, depth), _digest(item, depth)) for key, item in value.items())))
    if isinstance(value, list | tuple):
        return hash((2, tuple(_digest(item, depth) for item in value)))
    if isinstance(value, set | frozenset):
        return hash((3, frozenset(_digest(item, depth) for item in value)))
    if isinstance(value, bool | int | float):
        return hash((4, str(value)))  # 1, 1.0 and True have one hash, -1 and -2 as well
    if isinstance(value, bytearray):
        return hash((5, bytes(value)))
    inside = _inside(value)
    return hash((6, _digest(inside, depth))) if inside else hash(value)


# -- commit -------------------------------------------------------------------------------------------


def patch_prepare(tracker: Tracker) -> Callable[[Any], Any]:
    """``SessionTransaction._prepare_impl``: a commit has flushed, and has not been sent yet.

    Private: ``before_commit`` comes before the flush, in which a listener of the program may still flag a value,
    and ``after_commit`` when it is too late to raise.
    """

    def make(original: Any) -> Any:
        def _prepare_impl(self: Any) -> None:
            try:
                original(self)
                if self.parent is not None or not tracker.active:
                    return
                problem = None
                try:
                    record = self.session.__dict__.get(KEY)
                    if record is not None:
                        problem = _look(tracker, self.session, record, sys._getframe(1))
                except Exception:
                    tracker.failed("SessionTransaction._prepare_impl")
                if problem is not None:
                    raise problem
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "SessionTransaction._prepare_impl")
                if late is None:
                    raise
                late(self)

        return _prepare_impl

    return make


def _look(tracker: Tracker, session: Session, record: SessionRecord, frame: FrameType) -> Exception | None:
    """Report what was changed in place and is not written; returns what is to be raised."""
    problem = None
    for state in session.identity_map.all_states():
        if KEY in state.__dict__:
            for key in changed(state):
                problem = _found(tracker, state, key, record, frame) or problem
    return problem


def _found(
    tracker: Tracker, state: InstanceState[Any], key: str, record: SessionRecord, frame: FrameType
) -> Exception | None:
    loaded = tracker.ledger.load_site(read.run(state))
    event = ChangedInPlace(
        model=state.class_.__name__,
        attribute=key,
        kind=_kind(state.dict[key]),
        type=_type(state.mapper.attrs[key].columns[0].type),
        record=record,
        mark=callsite.mark(frame),
        loaded=loaded.resolve() if loaded is not None else None,
    )
    return tracker.emit(event)


def changed(state: InstanceState[Any]) -> list[str]:
    """The attributes that are not what was loaded or written; each is told once."""
    names, values, known = [], state.dict, state.__dict__[KEY]
    for key, before in list(known.items()):
        value = values.get(key)
        if value is None or id(value) != before[0] or not is_mutable(value):
            continue  # another value: not a change in place
        now = fingerprint(value)
        if None not in (now, before[1]) and now != before[1]:
            known[key] = before[0], now
            names.append(key)
    return names


def _kind(value: Any) -> Any:
    return next((kind.__name__ for kind in (dict, list, set) if isinstance(value, kind)), "object")


def _type(type_: Any) -> str:
    item = getattr(type_, "item_type", None)
    name = type(type_).__name__
    return f"{name}({type(item).__name__})" if item is not None else name
