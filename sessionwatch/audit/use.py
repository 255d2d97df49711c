"""What functions do with sessions, with all that they call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .callers import argument_of
from .collect import Collector
from .hands import as_session
from .uses import (
    Effects,
    Handing,
    Opening,
    Operation,
    Uses,
    begun_blocks,
    in_handler,
    same,
    settled_by_parts,
)
from .values import Session

if TYPE_CHECKING:
    from .infer import Inference
    from .tree import Function


class Usage:
    """Answers for the functions of one tree."""

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self._uses: dict[Function, Uses] = {}
        self._effects: dict[tuple[Function, int], Effects] = {}

    def of(self, function: Function) -> Uses:
        if function not in self._uses:
            self._uses[function] = Collector(self.inference, function).run()
        return self._uses[function]

    def effects(self, function: Function, session: Session) -> Effects:
        """What ``function`` and what it calls do to the session."""
        key = (function, id(session.origin))
        if key not in self._effects:
            self._effects[key] = Effects()  # a recursion adds nothing
            self._effects[key] = self._find_effects(function, session)
        return self._effects[key]

    def given(self, handing: Handing) -> Effects:
        """What the function that is given a session does to it."""
        if handing.to is None:
            return Effects(unknown=True)
        for argument in handing.to.arguments:
            if argument_of(handing.to, argument, handing.call) is handing.argument:
                value = as_session(self.inference.parameter(handing.to, argument))
                inner = value if value is not None else Session(handing.session.asynchronous, argument)
                return self.effects(handing.to, inner)
        return Effects(unknown=True)

    def _find_effects(self, function: Function, session: Session) -> Effects:
        uses = self.of(function)
        found = Effects(unknown=uses.escaped(session))
        for operation in uses.of(session):
            found |= Effects(
                commits=operation.method == "commit",
                rolls_back=operation.method == "rollback",
                closes=operation.method in ("close", "reset", "invalidate", "remove"),
                writes=operation.writes,
                io=operation.io,
            )
        found |= Effects(
            writes=any(each.session is not None and same(each.session, session) for _, each in uses.dirty),
            commits=bool(begun_blocks(uses, session)) or session.begun,
        )
        for handing in uses.handed:
            if same(handing.session, session):
                found |= self.given(handing)
        for inner in function.inner.values():  # a nested function that sees the session
            if uses.body.function is function and any(
                same(each.session, session) for each in self.of(inner).operations
            ):
                found |= self.effects(inner, session)
        return found


__all__ = [
    "Effects",
    "Handing",
    "Opening",
    "Operation",
    "Usage",
    "Uses",
    "begun_blocks",
    "in_handler",
    "same",
    "settled_by_parts",
]
