"""Who owned an instance, from its state; and the hooks that keep what a state forgets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column
from sqlalchemy.orm.attributes import instance_state

from ..border import settle
from ..frames import callsite
from ..model import UNPICKLED, Mark, Ownership, RawSite, Site
from ..record.key import KEY
from ..record.life import Known
from .reading import read
from .thrown import Thrown, note

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState

    from ..record.allowances import Allowance
    from ..record.tracker import Tracker

__tracebackhide__ = True  # pytest: the story is in the message
BY_FLUSH = "by flush(), because the database computes it"


Owner = tuple[Known | None, Mark | None, str | None]  # whose it is, where it was expunged, what is missing


def ownership(tracker: Tracker, state: InstanceState[Any], key: str | None = None) -> Ownership:
    """What is known of the session that holds or held an instance, by its state.

    ``key``: the attribute in question, which may have been expired alone; ``loaded`` is then the query that the
    instance goes back to, not a lazy load or a refresh on the way.
    """
    return described(tracker, state, owner(tracker, state), key)


def described(tracker: Tracker, state: InstanceState[Any], found: Owner, key: str | None = None) -> Ownership:
    """An `owner`, in words and places."""
    record, expunged, missing = found
    run = read.run(state)
    loaded = tracker.ledger.load_site(record.roots.get(run, run) if record is not None and key is not None else run)
    state_name = _state_name(state)
    if record is None:
        return Ownership(state_name, None, loaded=_site(loaded), missing=missing)
    opened, closed = record.opened, record.closed
    expired, expired_how = _expiry(tracker, state, record, key)
    return Ownership(
        state=state_name,
        session=record.label,
        opened=_place(opened),
        closed=_place(closed),
        loaded=_site(loaded),
        expunged=_place(expunged),
        expired=_place(expired),
        closed_how=record.closed_how,
        expired_how=expired_how,
        thread=opened.thread if opened else None,
        task=opened.task if opened else None,
        closed_thread=closed.thread if closed else None,
        closed_task=closed.task if closed else None,
        unit=record.unit.name if record.unit else None,
        kind=record.kind,
        duration=round(record.duration(), 6),
        statements=record.statements,
        missing=None if opened else "opened before sessionwatch was installed",
    )


def owner(tracker: Tracker, state: InstanceState[Any]) -> Owner:
    """Which session holds or held an instance: cheap enough for a question that is mostly not asked."""
    session = state.session
    if session is not None:
        return session.__dict__.get(KEY), None, "its session is not watched"
    noted = tracker.ledger.expunged.get(state)
    reference = read.instance_dict(state)
    if reference is not None:
        expunged = tracker.ledger.expunged_all(reference)
        missing = "the session's record is no longer kept, or began before sessionwatch was installed"
        return tracker.ledger.owner(reference), expunged[0] if expunged else None, missing
    if noted is not None:
        return noted[0].known(), noted[1], None
    return None, None, UNPICKLED if read.unpickled(state) is not None else "no session is known to have held it"


def foreign(tracker: Tracker, state: InstanceState[Any]) -> bool:
    """Whether only some sessions are watched, and none of them is known to have held the instance."""
    return tracker.wants is not None and owner(tracker, state)[0] is None


def is_detached(state: InstanceState[Any]) -> bool:
    """Whether the instance was persistent, and no living session holds it."""
    return state.key is not None and (state.session_id is None or state.session_id not in read.live)


def allowances(tracker: Tracker, state: InstanceState[Any]) -> tuple[Allowance, ...]:
    """The allowances that the instance's session was opened in."""
    record = owner(tracker, state)[0]
    return record.allowances if record is not None else ()


def _expiry(
    tracker: Tracker, state: InstanceState[Any], record: Known, key: str | None
) -> tuple[Mark | None, str | None]:
    """What emptied the instance, or the one attribute, if it is still empty: an expire(), or the newest of what
    expires all instances of a session. What the database computes is expired by the flush that wrote the row;
    of another attribute that is empty by itself, such as one that the query left out, nothing is said.
    """
    alone = key is not None and key in state.expired_attributes
    if not state.expired and not alone:
        return None, None
    noted = tracker.ledger.expired.get(state)
    if noted is not None and noted[1] == read.run(state):
        return noted[0], "by expire()"
    if not state.expired:
        return None, BY_FLUSH if record.flushes and _queried(state, key) and _computed(state, key) else None
    return record.expirer or (None, None)


def _queried(state: Any, key: str | None) -> bool:
    """Whether the class that a query asked for, if one did, has the attribute; else it came without it."""
    path = state.load_path.path
    return not path or key in path[-1].mapper.attrs


def _computed(state: Any, key: str | None) -> bool:
    """Whether the mapping says that the database computes an attribute: a default or an expression of SQL."""
    return any(
        not isinstance(column, Column)
        or column.server_default is not None
        or column.server_onupdate is not None
        or any(
            made is not None and not (made.is_scalar or made.is_callable) for made in (column.default, column.onupdate)
        )
        for column in getattr(state.mapper.attrs.get(key), "columns", ())
    )


def _state_name(state: InstanceState[Any]) -> str:
    for name in ("transient", "pending", "deleted", "persistent", "detached"):
        if getattr(state, name):
            return name
    return "detached"


def _place(mark: Mark | None) -> Site | None:
    return mark.site.resolve() if mark is not None and mark.site is not None else None


def _site(place: RawSite | None) -> Site | None:
    return place.resolve() if place is not None else None


# -- provenance ---------------------------------------------------------------------------------------


def patch_runid(tracker: Tracker) -> Callable[[Any], Any]:
    """``loading._new_runid``: one call an ORM query; every instance that it fills keeps the number.

    The statement has just been run, so that its place is known: a walk less, 1 to 2 % of a short session.
    """

    def make(original: Any) -> Any:
        loaded = tracker.ledger.loaded

        def _new_runid() -> Any:
            try:
                run = original()
                try:
                    recent = tracker.recent
                    if recent is not None and recent[0] == get_ident():
                        tracker.recent = None
                        loaded(run, recent[1])
                    else:
                        loaded(run, callsite.site(sys._getframe(1)))
                except Exception:
                    tracker.failed("loading._new_runid")
                return run
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "loading._new_runid")
                if late is None:
                    raise
                return late()

        return _new_runid

    return make


def patch_expunge(
    tracker: Tracker, allowed: Callable[[], Allowance | None], thrown: dict[int, Thrown]
) -> Callable[[Any], Any]:
    """``Session._expunge_states``: a state forgets its session when it is expunged, so note it here.

    ``allowed``: what allows at this moment that loaded values are read later.
    """

    def make(original: Any) -> Any:
        def _expunge_states(self: Any, states: Any, to_transient: bool = False) -> None:
            try:
                states = list(states)
                record = self.__dict__.get(KEY)
                caller = sys._getframe(1)
                if record is not None and tracker.active and caller.f_code.co_name == "expunge":
                    with tracker.guarded("Session._expunge_states"):
                        note(thrown, [state for state in states if state.key is None], record, caller.f_back)
                original(self, states, to_transient=to_transient)
                if record is None or to_transient or not tracker.active:
                    return
                with tracker.guarded("Session._expunge_states"):
                    mark = callsite.mark(sys._getframe(1))
                    allowance = allowed()
                    for state in states:
                        tracker.ledger.note_expunged(state, record, mark, allowance is not None)
                    if allowance is not None:
                        allowance.hits += 1
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session._expunge_states")
                if late is None:
                    raise
                late(self, states, to_transient)

        return _expunge_states

    return make


def patch_deleted(tracker: Tracker) -> Callable[[Any], Any]:
    """``Session._remove_newly_deleted``: a flushed delete forgets its session, too."""

    def make(original: Any) -> Any:
        def _remove_newly_deleted(self: Any, states: Any) -> None:
            try:
                states = list(states)
                original(self, states)
                record = self.__dict__.get(KEY)
                if record is not None and tracker.active:
                    with tracker.guarded("Session._remove_newly_deleted"):
                        mark = callsite.mark(sys._getframe(1))
                        for state in states:
                            tracker.ledger.note_expunged(state, record, mark, True)
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session._remove_newly_deleted")
                if late is None:
                    raise
                late(self, states)

        return _remove_newly_deleted

    return make


def patch_expire(tracker: Tracker) -> Callable[[Any], Any]:
    """``Session.expire``: one instance, or some of its attributes, by hand."""

    def make(original: Any) -> Any:
        def expire(self: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
            try:
                original(self, instance, *args, **kwargs)
                if tracker.active:
                    with tracker.guarded("Session.expire"):
                        state = instance_state(instance)
                        tracker.ledger.note_expired(state, callsite.mark(sys._getframe(1)), read.run(state))
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session.expire")
                if late is None:
                    raise
                late(self, instance, *args, **kwargs)

        return expire

    return make


def patch_expire_all(tracker: Tracker) -> Callable[[Any], Any]:
    """``Session.expire_all``: every instance of the session, by hand."""

    def make(original: Any) -> Any:
        def expire_all(self: Any) -> None:
            try:
                original(self)
                record = self.__dict__.get(KEY)
                if record is not None and tracker.active:
                    with tracker.guarded("Session.expire_all"):
                        record.expired(callsite.mark(sys._getframe(1)), "by expire_all()")
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "Session.expire_all")
                if late is None:
                    raise
                late(self)

        return expire_all

    return make
