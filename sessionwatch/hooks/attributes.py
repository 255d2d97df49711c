"""Changes to instances that belong to no session. They wait, because a session may still take the instance."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import InstanceState, attributes, make_transient

from ..border import settle
from ..frames import callsite
from ..frames.chain import called
from ..record.allowances import active_allowances
from ..record.events import DetachedWrite
from ..units.scope import Unit, current_unit
from . import thrown
from .ownership import foreign, is_detached, ownership
from .patch import unseen
from .private import STATE_ATTRIBUTE
from .reading import read

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..record.tracker import Tracker

# Modules of sqlalchemy.orm that change an attribute because the user's code asked them to.
_CHANGING = ("collections", "descriptor_props", "mapped_collection", "writeonly", "dynamic")
__tracebackhide__ = True  # pytest: the story is in the message
_PENDING_LIMIT = 10_000  # detached instances with changes that wait for the end of their unit


class PendingWrites:
    """Changes to detached instances that wait: a session may still take the instance.

    Holds weak references only. A change is reported when its instance is gone, when its unit ends, or
    by `report`; it is dropped when the instance was added, merged or saved in bulk meanwhile.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.waiting: dict[int, tuple[Any, Any, Any, dict[Any, Any]]] = {}
        self.thrown: dict[int, thrown.Thrown] = {}  # pending objects that were expunged

    def note(self, state: InstanceState[Any], key: str, verb: str, frame: FrameType) -> None:
        instance = state.obj()
        if instance is None or not self.tracker.active or foreign(self.tracker, state):
            return
        kept = self.waiting.get(id(state))
        if kept is None or kept[0]() is not state:
            if len(self.waiting) >= _PENDING_LIMIT:
                return
            gone = weakref.ref(instance, functools.partial(self._gone, id(state)))
            kept = (weakref.ref(state), gone, read.instance_dict(state), {})
            self.waiting[id(state)] = kept
        mark = called(callsite.mark(frame))
        if (key, mark.site) not in kept[3]:
            owner = ownership(self.tracker, state)
            unit = current_unit()
            event = DetachedWrite(state.class_.__name__, key, mark, owner, verb=verb, made=perf_counter(), unit=unit)
            kept[3][key, mark.site] = (event, active_allowances(), unit)

    def taken(self, state: InstanceState[Any]) -> None:
        """The instance was added or merged into a session, saved in bulk, or made transient."""
        self.waiting.pop(id(state), None)
        self.thrown.pop(id(state), None)

    def report(self, unit: Unit | None = None) -> list[Exception]:
        """Report what waits (of one unit, if given); returns what is to be raised."""
        raised: list[Exception] = []
        for key, kept in list(self.waiting.items()):
            if unit is not None and all(noted[2] is not unit for noted in kept[3].values()):
                continue
            self.waiting.pop(key, None)
            raised += self._emit(kept)
        return raised + thrown.report(self.tracker, self.thrown, unit)

    def forget(self) -> None:
        self.waiting.clear()
        self.thrown.clear()

    def _gone(self, key: int, _: object) -> None:
        kept = self.waiting.pop(key, None)
        if kept is not None and self.tracker.active and not sys.is_finalizing():
            with self.tracker.notes.by_collector("a detached change"):
                if not self._is_taken(kept):
                    self.tracker.notes.note(lambda: self._tell(kept))

    def _emit(self, kept: Any) -> list[Exception]:
        return [] if self._is_taken(kept) else self._tell(kept)

    def _is_taken(self, kept: Any) -> bool:
        """Whether it was made transient, or a session has it, or had it since."""
        state = kept[0]()
        return state is not None and (not is_detached(state) or read.instance_dict(state) is not kept[2])

    def _tell(self, kept: Any) -> list[Exception]:
        raised = [self.tracker.emit(event, allowances) for event, allowances, _ in kept[3].values()]
        return [error for error in raised if error is not None]


def patch_set(writes: PendingWrites) -> Callable[[Any], Any]:
    """``InstrumentedAttribute.__set__``, written anew: without SQLAlchemy's two accessors, which pays for our test."""
    live, attribute = read.live, STATE_ATTRIBUTE.name

    def make(original: Any) -> Any:
        def __set__(self: Any, instance: Any, value: Any) -> None:  # noqa: N807
            try:
                values = instance.__dict__
                state = values[attribute]
            except (AttributeError, KeyError):  # instrumented in another way, or not mapped
                state, values = attributes.instance_state(instance), attributes.instance_dict(instance)
            try:
                self.impl.set(state, values, value, None)
            except BaseException as error:
                unseen(error)
                raise
            if state.session_id not in live and state.key is not None:  # is_detached(), in one test where it is not
                try:
                    changed(writes, state, self.key, "changed")
                except Exception:
                    writes.tracker.failed("InstrumentedAttribute.__set__")

        return __set__

    return make


def patch_delete(writes: PendingWrites) -> Callable[[Any], Any]:
    """``InstrumentedAttribute.__delete__``: ``del instance.attribute``."""

    def make(original: Any) -> Any:
        def __delete__(self: Any, instance: Any) -> None:  # noqa: N807
            try:
                original(self, instance)
                state = attributes.instance_state(instance)
                if is_detached(state):
                    changed(writes, state, self.key, "deleted")
            except BaseException as crossed:
                late = settle(crossed, original, writes.tracker, "__delete__")
                if late is None:
                    raise
                late(self, instance)

        return __delete__

    return make


def patch_collection(writes: PendingWrites, verb: str, initiator: int) -> Callable[[Any], Any]:
    """Events of ``CollectionAdapter``; one with an initiator comes from a backref, not from the user."""

    def make(original: Any) -> Any:
        def fire(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                result = original(self, *args, **kwargs)
                state = self.owner_state
                if is_detached(state):
                    by = args[initiator] if len(args) > initiator else kwargs.get("initiator")
                    if by is None:
                        changed(writes, state, read.collection_key(self), verb)
                return result
            except BaseException as crossed:
                late = settle(crossed, original, writes.tracker, "fire")
                if late is None:
                    raise
                return late(self, *args, **kwargs)

        return fire

    return make


def patch_mutable(writes: PendingWrites) -> Callable[[Any], Any]:
    """``Mutable.changed``: a tracked value was changed in place."""

    def make(original: Any) -> Any:
        def changed_in_place(self: Any) -> None:
            try:
                original(self)
                for parent, key in list(read.parents(self).items()):
                    state = parent if isinstance(parent, InstanceState) else attributes.instance_state(parent.obj())
                    if state is not None and is_detached(state):
                        changed(writes, state, key, "changed in place")
            except BaseException as crossed:
                late = settle(crossed, original, writes.tracker, "changed_in_place")
                if late is None:
                    raise
                late(self)

        return changed_in_place

    return make


def patch_writer(writes: PendingWrites, verb: str) -> Callable[[Any], Any]:
    """What the user's own changes to a write-only or dynamic relationship come through.

    Private: the public methods are five, on two classes.
    """

    def make(original: Any) -> Any:
        def write(self: Any, value: Any) -> None:
            try:
                original(self, value)
                state = attributes.instance_state(self.instance)
                if is_detached(state):
                    changed(writes, state, self.attr.key, verb)
            except BaseException as crossed:
                late = settle(crossed, original, writes.tracker, "write")
                if late is None:
                    raise
                late(self, value)

        return write

    return make


def changed(writes: PendingWrites, state: InstanceState[Any], key: str, verb: str) -> None:
    """Note a change to a detached instance, unless SQLAlchemy itself made it."""
    with writes.tracker.guarded("a detached change"):
        frame = sys._getframe(2)
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("sqlalchemy.orm.") and not module.startswith(
            tuple(f"sqlalchemy.orm.{name}" for name in _CHANGING)
        ):
            return
        writes.note(state, key, verb, frame)


def attached(writes: PendingWrites) -> Callable[[Any, Any], None]:
    """An instance was added: by the time that its change would be reported, the session may be gone as well."""

    def after_attach(session: Session, state: InstanceState[Any]) -> None:
        if writes.waiting or writes.thrown:
            writes.taken(state)

    return after_attach


def patch_bulk_save(writes: PendingWrites) -> Callable[[Any], Any]:
    """``Session.bulk_save_objects``: it saves what it is given, and the session has none of it afterwards."""

    def handed(objects: Iterable[Any]) -> Iterator[Any]:
        try:
            for instance in objects:  # a generator is not run ahead: it may change an instance as it goes
                try:
                    writes.taken(attributes.instance_state(instance))
                except Exception:
                    writes.tracker.failed("Session.bulk_save_objects")
                yield instance
        except BaseException as error:
            unseen(error)
            raise

    def make(original: Any) -> Any:
        def bulk_save_objects(self: Any, objects: Any, *args: Any, **kwargs: Any) -> None:
            try:
                if writes.waiting or not isinstance(objects, list | tuple):  # else nothing is done for any of them
                    objects = handed(objects)
                original(self, objects, *args, **kwargs)
            except BaseException as crossed:
                late = settle(crossed, original, writes.tracker, "bulk_save_objects")
                if late is None:
                    raise
                late(self, objects, *args, **kwargs)

        return bulk_save_objects

    return make


def patch_state_session(writes: PendingWrites) -> Callable[[Any], Any]:
    """``_state_session`` of SQLAlchemy's session module, where ``make_transient()`` calls it.

    Private: programs import ``make_transient`` by its name, so that can't be replaced, and the cycle
    collector takes an instance together with the state that would tell.
    """
    code = make_transient.__code__

    def make(original: Any) -> Any:
        def _state_session(state: InstanceState[Any]) -> Any:
            try:
                if writes.waiting and sys._getframe(1).f_code is code:
                    writes.taken(state)
                return original(state)
            except BaseException as crossed:
                late = settle(crossed, original, writes.tracker, "session._state_session")
                if late is None:
                    raise
                return late(state)

        return _state_session

    return make
