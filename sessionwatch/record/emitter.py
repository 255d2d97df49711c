"""The way of events to the rules: not twice at a time in a thread, and never in what the collector calls."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .allowances import active_allowances
from .events import ENDS
from .guard import Guard
from .notes import Notes, in_finalizer

if TYPE_CHECKING:
    from .allowances import Allowance
    from .events import Event

_LATER_LIMIT = 100  # a callback that makes findings itself must not keep us for ever


class Emitter(Guard):
    """``emit`` takes an event and returns an exception to raise, or None."""

    def __init__(self, emit: Callable[[Event, tuple[Allowance, ...]], Exception | None]) -> None:
        super().__init__()
        self._emit = emit
        self._busy = threading.local()
        self.notes = Notes(self.failed, lambda: bool(getattr(self._busy, "depth", 0)))

    def emit(self, event: Event, allowances: tuple[Allowance, ...] = ()) -> Exception | None:
        """Hand an event to the rules; what comes back is to be raised at a safe point."""
        if getattr(self._busy, "depth", 0):
            if isinstance(event, ENDS):  # the collector ran the program's own finalizers inside of our work
                self._busy.later.append((event, (*allowances, *active_allowances())))
            return None
        if isinstance(event, ENDS) and not self.notes.collecting and in_finalizer():
            allowances = (*allowances, *active_allowances())
            self.notes.note(lambda: self.emit(event, allowances))
            return None
        self._busy.depth, self._busy.later = 1, []
        try:
            raised = self._emit(event, (*allowances, *active_allowances()))
            for later in itertools.islice(self._busy.later, _LATER_LIMIT):  # may grow meanwhile
                self._emit(*later)
            return raised
        finally:
            self._busy.depth = 0
            if self.notes and not self.notes.collecting:
                self.notes.say()

    def begin_anew(self) -> None:
        """In a forked child: no other thread is left that could be at work in here."""
        self._busy = threading.local()
        self.notes.forget()
        self.internal_errors.clear()
