"""Reads of instances that belong to no session: those that SQLAlchemy refuses, and those of loaded values.

The replaced ``__get__`` does what the original does and looks at one more thing: whether the instance's
state has an identity (``key``) and no session (``session_id``). Nothing of it costs a loaded object.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.orm.exc import DetachedInstanceError

from ..border import settle
from ..frames import callsite
from ..record.events import DetachedRead, DetachedTouch
from .ownership import foreign, ownership
from .patch import become, patch_error
from .private import STATE_ATTRIBUTE
from .reading import read
from .unloaded import facts

if TYPE_CHECKING:
    from ..record.tracker import Tracker

# SQLAlchemy's own modules that read an attribute because the user's code asked them to.
_ON_BEHALF = ("sqlalchemy.ext.associationproxy", "sqlalchemy.ext.hybrid", "sqlalchemy.orm.descriptor_props")
__tracebackhide__ = True  # pytest: the story is in the message


# -- reads that need the database ---------------------------------------------------------------------


def patch_refusal(tracker: Tracker, strict: type[DetachedInstanceError]) -> Callable[[Any], Any]:
    """``DetachedInstanceError.__init__``.

    ``strict`` is the class that the exception turns into where the rule is set to ``raise``: it can be
    caught as both sessionwatch's and SQLAlchemy's.
    """

    def refused(error: Any, frame: FrameType) -> None:
        state, key = _read_in(frame)
        if state is None or key is None or foreign(tracker, state):
            return
        raised: Any = tracker.emit(DetachedRead(**facts(tracker, state, key, frame), error=error))
        if raised is not None:
            become(error, DetachedInstanceError, strict, raised.finding)

    return patch_error(tracker, "DetachedInstanceError", refused)


def _read_in(frame: FrameType) -> tuple[Any, str | None]:
    """The state and the attribute that SQLAlchemy's frames were working on."""
    names = frame.f_globals.get("__name__", "")
    state = frame.f_locals.get("state")
    if not str(names).startswith("sqlalchemy.") or not isinstance(state, InstanceState):
        return None, None
    walked: FrameType | None = frame
    for _ in range(12):
        if walked is None or not str(walked.f_globals.get("__name__", "")).startswith("sqlalchemy."):
            break
        key = getattr(walked.f_locals.get("self"), "key", None)
        if isinstance(key, str) and key in state.manager:
            return state, key
        walked = walked.f_back
    names_ = frame.f_locals.get("attribute_names") or ()
    return state, min(names_, default=None)


# -- reads of loaded values ---------------------------------------------------------------------------


def patch_get(tracker: Tracker) -> Callable[[Any], Any]:
    """``InstrumentedAttribute.__get__``, written anew: a loaded value comes straight from ``__dict__``."""

    attribute = STATE_ATTRIBUTE.name

    def make(original: Any) -> Any:
        def __get__(self: Any, instance: Any, owner: Any) -> Any:  # noqa: N807
            if instance is None:
                return self
            try:
                try:
                    values = instance.__dict__
                    value = values[self.key]
                    state = values[attribute]  # by the dictionary: cheaper than by the attribute
                except (KeyError, AttributeError):
                    pass
                else:
                    # a write-only collection keeps a mere True there; to look at `impl` each time costs as much
                    if value is not True or self.impl.supports_population:
                        if state.session_id is None and state.key is not None:
                            _touched(tracker, self, state)
                        return value
                return original(self, instance, owner)
            except BaseException as crossed:
                late = settle(crossed, original, tracker, "InstrumentedAttribute.__get__")
                if late is None:
                    raise
                return late(self, instance, owner)

        return __get__

    return make


def _touched(tracker: Tracker, attribute: Any, state: InstanceState[Any]) -> None:
    error = None
    if tracker.active:
        with tracker.guarded("InstrumentedAttribute.__get__"):
            error = _report(tracker, attribute, state, sys._getframe(2))
    if error is not None:
        raise error


def _report(tracker: Tracker, attribute: Any, state: InstanceState[Any], frame: FrameType) -> Exception | None:
    module = str(frame.f_globals.get("__name__", ""))
    if module.startswith("sqlalchemy.") and not module.startswith(_ON_BEHALF):
        return None  # SQLAlchemy reads for itself
    if state.was_deleted or not _outlived(tracker, state) or foreign(tracker, state):
        return None
    event = DetachedTouch(
        model=state.class_.__name__,
        attribute=attribute.key,
        mark=callsite.mark(frame),
        ownership=ownership(tracker, state),
        is_key=_is_key(state.mapper, attribute.key),
    )
    return tracker.emit(event)


def _outlived(tracker: Tracker, state: InstanceState[Any]) -> bool:
    """Whether a session is known to have held the instance, and did not expunge it on purpose."""
    reference = read.instance_dict(state)
    if reference is not None:
        expunged = tracker.ledger.expunged_all(reference)
        return expunged is None or not expunged[1]
    noted = tracker.ledger.expunged.get(state)
    return noted is not None and not noted[2]


def _is_key(mapper: Mapper[Any], key: str) -> bool:
    prop = mapper.attrs.get(key)
    return any(column in mapper.primary_key for column in getattr(prop, "columns", ()))
