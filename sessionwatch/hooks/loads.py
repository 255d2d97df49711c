"""Loads that send a query of their own: lazy loads, deferred and expired columns, ``Session.get()``.

Only what a read of an attribute caused is counted, by the user's line, the attribute, and the query that the
parents go back to: a worker that reads one object after another, each from a query of its own, repeats nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from .. import callsite
from ..events import RepeatedGet, RepeatedLoad
from ..ledger import Loads, SessionRecord
from ..model import RawSite
from ..tracker import KEY, Tracker
from .patch import unseen
from .unloaded import facts

__tracebackhide__ = True  # pytest: the story is in the message
_LIMIT = 4096  # places and runs that are kept of one session

# What lies between the read of an attribute and its query: SQLAlchemy's functions, and our replacements of two.
_BETWEEN = frozenset({
    "_emit_lazyload", "_fire_loader_callables", "_generate_lazy_clause", "_get_committed_state_attr_by_column",
    "_get_ident_for_use_get", "_get_state_attr_by_column", "_load_expired", "_load_for_state", "_load_on_ident",
    "_load_scalar_attributes", "__call__", "get", "load_on_ident", "load_scalar_attributes",
})  # fmt: skip


def patch_lazy(tracker: Tracker, threshold: int | None) -> Callable[[Any], Any]:
    """``LazyLoader._emit_lazyload``: one call a lazy load that is not answered by the identity map.

    Without a threshold, as where ``n-plus-one`` is off, they are only counted.

    Private: attributes keep ``_load_for_state`` as a bound method, so that replacing it changes nothing.
    """

    def make(original: Any) -> Any:
        def _emit_lazyload(self: Any, session: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
            record = session.__dict__.get(KEY)
            error = None
            if record is not None and tracker.active:
                try:
                    frame = _reading(sys._getframe(1))
                    if frame is not None:
                        tracker.loaded(record, "relationship", state.class_.__name__, self.key)
                        if threshold is not None:
                            error = counted(self.parent_property, record, state, frame, threshold)
                except Exception:
                    tracker.failed("LazyLoader._emit_lazyload")
                if error is not None:
                    raise error
            try:
                result = original(self, session, state, *args, **kwargs)
            except BaseException as failure:
                unseen(failure)
                raise
            if record is not None and result and threshold is not None:
                child = getattr(result[0] if type(result) is list else result, "_sa_instance_state", None)
                if child is not None:
                    _goes_back(record, child.runid, state.runid)
            return result

        return _emit_lazyload

    def counted(prop: Any, record: SessionRecord, state: Any, frame: FrameType, threshold: int) -> Exception | None:
        place = callsite.site(frame)
        loads = _loads(record, (*_place(place), prop, _origin(record, state)))
        if _repeats(loads, hash(state.key), threshold):
            return _tell(tracker, record, loads, state, frame)
        return None

    return make


def patch_by_key(tracker: Tracker, threshold: int | None) -> Callable[[Any], Any]:
    """``loading.load_on_pk_identity``: one call a deferred or expired column, or a ``get()``, that needs the database.

    Private: mappers keep the function that refreshes them, and that function calls this one by its name.
    """

    def make(original: Any) -> Any:
        def _load_on_pk_identity(session: Any, statement: Any, identity: Any, **kwargs: Any) -> Any:
            record = session.__dict__.get(KEY)
            if record is None or not tracker.active:
                return original(session, statement, identity, **kwargs)
            state = kwargs.get("refresh_state")
            before = state.runid if state is not None else None
            error = None
            try:
                if state is None:
                    options = kwargs.get("load_options")
                    if threshold is not None and getattr(options, "_lazy_loaded_from", None) is None:
                        error = got(record, statement, identity, sys._getframe(1), threshold)
                else:
                    frame = _reading(sys._getframe(1))
                    if frame is not None:
                        key = frame.f_locals["self"].key
                        kind = "expired" if key in state.expired_attributes else "deferred"
                        tracker.loaded(record, kind, state.class_.__name__, key)
                        if threshold is not None:
                            error = refreshed(record, state, frame, threshold)
            except Exception:
                tracker.failed("loading.load_on_pk_identity")
            if error is not None:
                raise error
            try:
                result = original(session, statement, identity, **kwargs)
            except BaseException as failure:
                unseen(failure)
                raise
            if state is not None and threshold is not None:
                _goes_back(record, state.runid, before)
            return result

        return _load_on_pk_identity

    def refreshed(record: SessionRecord, state: Any, frame: FrameType, threshold: int) -> Exception | None:
        place = callsite.site(frame)
        loads = _loads(record, (*_place(place), state.mapper, _origin(record, state)))
        if _repeats(loads, hash(state.key), threshold):
            return _tell(tracker, record, loads, state, frame)
        return None

    def got(record: SessionRecord, statement: Any, identity: Any, frame: FrameType, threshold: int) -> Exception | None:
        mapper = statement._propagate_attrs.get("plugin_subject")
        if mapper is None or statement._for_update_arg is not None or _merges(frame):
            return None
        key = (*_place(callsite.site(frame)), mapper, "get")
        loads = _of_this_transaction(record, key)
        if _repeats(loads, hash(tuple(identity)), threshold):
            loads.told = []
            name = mapper.get_property_by_column(mapper.primary_key[0]).key
            mark = callsite.mark(frame)
            event = RepeatedGet(record, mapper.class_.__name__, name, mark, loads.count, loads.told)
            return tracker.emit(event, record.allowances)
        return None

    return make


# -- counting -----------------------------------------------------------------------------------------


def _place(place: RawSite | None) -> tuple[int, int]:
    return (id(place.code), place.lasti) if place is not None else (0, 0)


def _loads(record: SessionRecord, key: Any) -> Loads:
    loads: Loads | None = record.loads.get(key)
    if loads is None:
        if not record.loads or len(record.loads) >= _LIMIT:
            record.loads = {}
        loads = record.loads[key] = Loads()
    return loads


def _of_this_transaction(record: SessionRecord, key: Any) -> Loads:
    """A worker may get one object a transaction for ever. The first get of a transaction begins it."""
    if record.began is None:
        _loads(record, key)
        record.loads[key] = loads = Loads()
        return loads
    now = (*key, record.began)
    if now not in record.loads and key in record.loads:
        _loads(record, now)
        record.loads[now] = record.loads.pop(key)
    return _loads(record, now)


def _repeats(loads: Loads, parent: int, threshold: int) -> bool:
    """Count one load; whether it is the one that makes it too many."""
    loads.count += 1
    if loads.told is not None:
        for finding in loads.told:
            finding.count += 1
        return False
    loads.parents.add(parent)
    return len(loads.parents) >= threshold


def _tell(tracker: Tracker, record: SessionRecord, loads: Loads, state: Any, frame: FrameType) -> Exception | None:
    loads.parents.clear()
    loads.told = []
    key = frame.f_locals["self"].key
    event = RepeatedLoad(**facts(tracker, state, key, frame), count=loads.count, told=loads.told)
    return tracker.emit(event, record.allowances)


# -- where parents come from --------------------------------------------------------------------------


def _origin(record: SessionRecord, state: Any) -> Any:
    """The number of the query that a parent goes back to; for what the session made, how often it was expired."""
    run = state.runid
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


def _reading(frame: FrameType | None) -> FrameType | None:
    """The frame of the attribute's ``__get__``, where a read of an attribute asked for the load; else None.

    Flushes, cascades, merges, ``refresh()`` and eager loads come by other ways.
    """
    while frame is not None:
        name = frame.f_code.co_name
        if name == "__get__":
            return frame if "instance" in frame.f_code.co_varnames else None
        if name not in _BETWEEN:
            return None
        frame = frame.f_back
    return None


def _merges(frame: FrameType | None) -> bool:
    """Whether ``merge()`` looks up the instance for itself."""
    for _ in range(4):
        if frame is None:
            return False
        if frame.f_code.co_name == "_merge":
            return True
        frame = frame.f_back
    return False
