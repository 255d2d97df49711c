"""A provider that returns out of its generator, and other sessions that are handed out after their end."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import lost_writes, use_after_close
from ..body import Step, chain, within
from ..hands import as_session
from ..use import same
from ..values import Later, Query, Session, Stream, Value
from ._base import Hit, Pattern, Scope

if TYPE_CHECKING:
    from ..tree import Function


def find(scope: Scope) -> Iterator[Hit]:
    """Returns out of a provider's loop or of a session's block, and ``next()`` of a provider that nobody keeps."""
    yield from _broken_loops(scope)
    yield from _dropped_generators(scope)
    if not scope.body.is_generator:
        yield from _returned_out_of_block(scope)


def _broken_loops(scope: Scope) -> Iterator[Hit]:
    for loop in scope.body.loops:
        stream = scope.value(loop.node.iter) if isinstance(loop.node, ast.For | ast.AsyncFor) else None
        if isinstance(stream, Stream) and isinstance(stream.of, Session):
            for step in (*scope.body.returns, *scope.body.breaks):
                if within(step.context, loop.node, "loop"):
                    yield from _left(scope, loop, step, stream)


def _left(scope: Scope, loop: Step, step: Step, stream: Stream) -> Iterator[Hit]:
    """What follows from a return or break inside the loop."""
    name = _name(stream.function)
    if _hands_out(scope.value(getattr(step.node, "value", None))):
        text = f"returns the session out of {name}: the generator is dropped, and ends the session while it is in use"
        yield Hit(step.line, text, _ends_it(scope, stream))
    elif stream.function is not None and _commits_after_yield(scope, stream.function):
        inside = [each for each in scope.uses.operations if within(each.step.context, loop.node)]
        if any(each.writes for each in inside) and not any(each.method == "commit" for each in inside):
            text = f"leaves the loop over {name} after a write: the commit behind its yield never runs"
            yield Hit(step.line, text, rule=lost_writes.RULE)


def _dropped_generators(scope: Scope) -> Iterator[Hit]:
    for step in scope.body.calls:
        source = _advanced(step.node) if isinstance(step.node, ast.Call) else None
        stream = scope.value(source) if isinstance(source, ast.Call) else None
        if isinstance(stream, Stream) and isinstance(stream.of, Session) and _is_used(scope, step):
            text = f"takes the session of {_name(stream.function)} and drops the generator, which closes it at once"
            yield Hit(step.line, text, _ends_it(scope, stream))


def _advanced(call: ast.Call) -> ast.expr | None:
    """The generator that ``next()`` and the like take the next value of."""
    if isinstance(call.func, ast.Name) and call.func.id in ("next", "anext") and call.args:
        return call.args[0]
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("__next__", "__anext__", "send", "asend"):
        return call.func.value
    return None


def _is_used(scope: Scope, step: Step) -> bool:
    """Whether something is done with the session, other than to look at an attribute."""
    parent = step.parent
    return not isinstance(parent, ast.Attribute) or any(
        isinstance(each.node, ast.Call) and each.node.func is parent for each in scope.body.calls
    )


def _returned_out_of_block(scope: Scope) -> Iterator[Hit]:
    for opening in scope.uses.openings:
        for step in scope.body.returns if opening.item is not None else ():
            value = scope.value(getattr(step.node, "value", None))
            value = value.of if isinstance(value, Later) else value
            session = value.session if isinstance(value, Query) else as_session(value)
            inside = opening.item is not None and within(step.context, opening.item)
            if session is not None and inside and same(session, opening.session):
                what = "a query of its session" if isinstance(value, Query) else "the session"
                yield Hit(step.line, f"returns {what} out of its with block, which closes it", opening.session.sure)


def _hands_out(value: Value | None) -> bool:
    value = value.of if isinstance(value, Later) else value
    return as_session(value) is not None or isinstance(value, Query)


def _ends_it(scope: Scope, stream: Stream) -> bool:
    """Whether the provider is known and ends its session behind the yield."""
    provider = stream.function
    if provider is None or not isinstance(stream.of, Session) or not stream.of.sure:
        return False
    uses = scope.usage.of(provider)
    by_block = any(opening.item is not None for opening in uses.openings)
    by_hand = any(each.method in ("close", "remove", "commit") for each in uses.operations)
    return by_block or by_hand


def _commits_after_yield(scope: Scope, provider: Function) -> bool:
    uses = scope.usage.of(provider)
    first = min((each.order for each in uses.body.yields), default=0)
    begun = any(opening.session.begun for opening in uses.openings)
    return not begun and any(
        each.method == "commit"
        and each.step.order > first
        and not any(one.part in ("finally", "handler") for one in chain(each.step.context))
        for each in uses.operations
    )


def _name(function: Function | None) -> str:
    return f"{function.name.rpartition('.')[2]}()" if function is not None else "the provider"


PATTERN = Pattern("broken-provider", "a session that is handed out after its end", use_after_close.RULE, find)
