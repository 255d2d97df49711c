"""Loads that send a query of their own: lazy loads, deferred and expired columns, ``Session.get()``.

Only what a read of an attribute caused is counted, by the user's line, the attribute, and the query that the
parents go back to: a worker that reads one object after another, each from a query of its own, repeats nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm.attributes import InstrumentedAttribute, instance_state

from ..border import settle
from ..frames import callsite
from ..record.events import RepeatedGet, RepeatedLoad
from ..record.key import KEY
from .private import GET_IMPL, MERGE, READ_OF, REFRESHED
from .reading import read
from .unloaded import facts

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState, Session

    from ..model import Finding
    from ..record.life import SessionRecord
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
_LIMIT = 4096  # places and runs that are kept of one session
_GET = getattr(InstrumentedAttribute.__get__, "__code__", None)
_GET_IMPL, _MERGE = GET_IMPL.name, MERGE.name


def patch_lazy(tracker: Tracker, threshold: int) -> Callable[[Any], Any]:
    """``LazyLoader._emit_lazyload``: one call a lazy load that is not answered by the identity map.

    With a threshold of 0, as where ``n-plus-one`` is off, they are only counted.

    Private: attributes keep ``_load_for_state`` as a bound method, so that replacing it changes nothing.
    """

    def make(original: Any) -> Any:
        def _emit_lazyload(self: Any, session: Session, state: InstanceState[Any], *args: Any, **kwargs: Any) -> Any:
            try:
                record = session.__dict__.get(KEY)
                if record is not None and tracker.active:
                    error = None
                    try:
                        frame = _reading(4)
                        if frame is not None:
                            tracker.loaded(record, "relationship", state.class_.__name__, self.key)
                            if threshold:
                                error = _one_more(tracker, record, state, self.parent_property, frame, threshold)
                    except Exception:
                        tracker.failed("LazyLoader._emit_lazyload")
                    if error is not None:
                        raise error
                result = original(self, session, state, *args, **kwargs)
                if result and record is not None and threshold:
                    child = read.state(result[0] if type(result) is list else result)
                    if child is not None:
                        _goes_back(record, read.run(child), read.run(state))
                return result
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "LazyLoader._emit_lazyload")
                if late is None:
                    raise
                return late(self, session, state, *args, **kwargs)

        return _emit_lazyload

    return make


def patch_by_key(tracker: Tracker, threshold: int) -> Callable[[Any], Any]:
    """``loading.load_on_pk_identity``: one call a deferred or expired column, or a ``get()``, that needs the database.

    Private: mappers keep the function that refreshes them, and that function calls this one by its name.
    """

    refreshed = REFRESHED.name

    def make(original: Any) -> Any:
        def _load_on_pk_identity(session: Any, statement: Any, identity: Any, **kwargs: Any) -> Any:
            try:
                try:
                    record = session._sessionwatch  # KEY
                except AttributeError:
                    record = None
                state = kwargs.get(refreshed)
                before = read.run(state) if state is not None else None
                if record is not None and tracker.active:
                    error = None
                    try:
                        if state is not None:
                            error = _refreshed(tracker, record, state, _reading(6), threshold)
                        elif threshold:
                            error = _got(tracker, record, statement, identity, sys._getframe(1), threshold)
                    except Exception:
                        tracker.failed("loading.load_on_pk_identity")
                    if error is not None:
                        raise error
                result = original(session, statement, identity, **kwargs)
                if state is not None and record is not None and threshold:
                    _goes_back(record, read.run(state), before)
                return result
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "loading.load_on_pk_identity")
                if late is None:
                    raise
                return late(session, statement, identity, **kwargs)

        return _load_on_pk_identity

    return make


def _refreshed(
    tracker: Tracker, record: SessionRecord, state: InstanceState[Any], frame: FrameType | None, threshold: int
) -> Exception | None:
    """A column was not there, or no more; returns what is to be raised."""
    if frame is None:
        return None
    key = frame.f_locals["self"].key
    tracker.loaded(record, "expired" if key in state.expired_attributes else "deferred", state.class_.__name__, key)
    return _one_more(tracker, record, state, state.mapper, frame, threshold) if threshold else None


def _got(
    tracker: Tracker, record: SessionRecord, statement: Any, identity: Any, frame: FrameType, threshold: int
) -> Exception | None:
    """A ``get()`` goes to the database; returns what is to be raised."""
    place = _asked(frame)
    mapper = read.subject(statement)
    if mapper is None or place is None or read.locked(statement) is not None:
        return None
    key, parent = (*place, mapper), hash(tuple(identity))
    if record.began is None or not record.gets:  # the first one begins the transaction
        if threshold > 1:
            record.gets = {key: parent}  # as `_too_many` keeps it: most are the only one
            return None
        record.gets = {}
    loads = _too_many(record.gets, key, parent, threshold)
    if loads is None:
        return None
    name = mapper.get_property_by_column(mapper.primary_key[0]).key
    event = RepeatedGet(record, mapper.class_.__name__, name, callsite.mark(frame), loads.count, loads.tell())
    return tracker.emit(event, record.allowances)


def patch_collection(tracker: Tracker, threshold: int) -> Callable[[Any], Any]:
    """``AppenderMixin._generate`` and ``WriteOnlyCollection.select``: a query for the collection of one parent.

    Private: what a program calls of a dynamic relationship are all methods of a query, which come through this one.
    """

    def make(original: Any) -> Any:
        def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                error = asked(self, sys._getframe(1)) if tracker.active else None
                if error is not None:
                    raise error
                return original(self, *args, **kwargs)
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "the query of a collection")
                if late is None:
                    raise
                return late(self, *args, **kwargs)

        return ask

    def asked(collection: Any, frame: FrameType) -> Exception | None:
        state, key = instance_state(collection.instance), collection.attr.key
        record = state.session.__dict__.get(KEY) if state.session is not None else None
        if record is None or state.key is None:
            return None
        if not record.loads:
            record.loads = {}
        loads = _too_many(record.loads, (*_place(frame, None), key, _origin(record, state)), hash(state.key), threshold)
        if loads is None:
            return None
        mapper = state.mapper
        target, primary = mapper.attrs[key].mapper.class_.__name__, mapper.get_property_by_column(mapper.primary_key[0])
        name = f"{state.class_.__name__}.{primary.key}"
        query = f"select({name}, {target}).join({state.class_.__name__}.{key}).where({name}.in_(ids))"
        found = facts(tracker, state, key, frame)
        event = RepeatedLoad(**found, count=loads.count, told=loads.tell(), instead=query)
        return tracker.emit(event, record.allowances)

    return make


# -- counting -----------------------------------------------------------------------------------------


class Loads:
    """Loads of one attribute from one place, one parent at a time, from the second one on."""

    __slots__ = ("count", "parents", "told")

    def __init__(self, first: int | None) -> None:
        self.parents = {first} if first is not None else set()  # hashes of their identities, until it is told
        self.count = len(self.parents)
        self.told: list[Finding] | None = None  # what was made of it, once it was told

    def too_many(self, parent: int, threshold: int) -> bool:
        """Count one load; whether it is the one that makes it too many."""
        self.count += 1
        if self.told is not None:
            for finding in self.told:
                finding.count += 1
                if finding.when_grown is not None:
                    finding.when_grown(finding)
            return False
        self.parents.add(parent)
        return len(self.parents) >= threshold

    def tell(self) -> list[Finding]:
        """From now on only the number counts; the list is for the finding."""
        self.parents.clear()
        self.told = []
        return self.told


def _one_more(
    tracker: Tracker, record: SessionRecord, state: InstanceState[Any], what: Any, frame: FrameType, threshold: int
) -> Exception | None:
    """Count the load of one instance's attribute, or row, by the user's line and the query that it goes back to."""
    if not record.loads:
        record.loads = {}
    place = _place(frame, frame.f_back if frame.f_code is _GET else None)
    key = (*place, what, _origin(record, state))
    loads = _too_many(record.loads, key, hash(state.key), threshold)
    if loads is None:
        return None
    told = loads.tell()
    event = RepeatedLoad(**facts(tracker, state, frame.f_locals["self"].key, frame), count=loads.count, told=told)
    return tracker.emit(event, record.allowances)


def _too_many(counted: dict[Any, Any], key: Any, parent: int, threshold: int) -> Loads | None:
    """Count one load; all of them where this one makes it too many.

    Of the first one nothing but its parent is kept: most of them stay the only one.
    """
    loads = counted.get(key)
    if loads is None:
        if len(counted) >= _LIMIT:
            counted.clear()
        if threshold > 1:
            counted[key] = parent
            return None
    if type(loads) is not Loads:
        loads = counted[key] = Loads(loads)
    return loads if loads.too_many(parent, threshold) else None


# -- where parents come from --------------------------------------------------------------------------


def _origin(record: SessionRecord, state: InstanceState[Any]) -> Any:
    """The number of the query that a parent goes back to; for what the session made, how often it was expired."""
    run = read.run(state)
    root = record.roots.get(run, run)
    return root if root is not None else ("made", record.expiries)


def _goes_back(record: SessionRecord, run: int | None, before: int | None) -> None:
    """What a lazy load or a refresh brought, under the number ``run``, belongs to the query of its parent."""
    roots = record.roots
    if run is not None and run != before and run not in roots:
        if not roots or len(roots) >= _LIMIT:
            record.roots = {run: roots.get(before, before)}
        else:
            roots[run] = roots.get(before, before)


# -- who asked ----------------------------------------------------------------------------------------


def _reading(distance: int) -> FrameType | None:
    """The frame of the attribute's ``__get__``, where a read of an attribute asked for the load; else None.

    Flushes, cascades, merges, ``refresh()`` and eager loads come by other ways. ``distance``: how far it mostly is
    from the caller, which saves the walk.
    """
    try:
        frame: FrameType | None = sys._getframe(distance + 1)
        if frame is not None and frame.f_code is _GET:
            return frame
    except ValueError:  # there are not that many
        pass
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_name in read.between:
        frame = frame.f_back
    if frame is None or frame.f_code.co_name != "__get__" or READ_OF.name not in frame.f_code.co_varnames:
        return None
    return frame


def _asked(frame: Any) -> tuple[int, int] | None:
    """Where the user called ``get()``, as part of a key; None where SQLAlchemy asks for itself, as ``merge()`` does."""
    if frame.f_code.co_name != _GET_IMPL:
        return None  # a lazy load, which is counted as that
    try:
        get = frame.f_back
        outer = get.f_back
        code = outer.f_code
        if _MERGE in (code.co_name, outer.f_back.f_code.co_name):
            return None
        if get.f_code.co_filename != frame.f_code.co_filename:
            outer = None
        elif code.co_filename in callsite._users:  # the usual case; as `_place`, without its calls
            return id(code), outer.f_lasti
    except AttributeError:  # the outermost one's f_back is None
        outer = None
    return _place(frame, outer)


def _place(frame: FrameType, outer: FrameType | None) -> tuple[int, int]:
    """Where the user's code is, at or outside of ``frame``, as part of a key: to hash a code object is to read it all.

    ``outer``: the frame that mostly is the user's, if nothing but SQLAlchemy's lies between; it saves the walk.
    """
    if outer is not None and callsite.kind_of(outer) == callsite.USER:
        return id(outer.f_code), outer.f_lasti
    place = callsite.site(frame)
    return (id(place.code), place.lasti) if place is not None else (0, 0)
