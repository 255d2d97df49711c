"""A provider that returns out of its generator, and other sessions that are handed out after their end."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import lost_writes, use_after_close
from ..body import Step, chain, within
from ..calls import as_session
from ..tree import Function
from ..values import Later, Query, Session, Stream, Value
from ._base import Hit, Pattern, Scope, after_block, same


def find(scope: Scope) -> Iterator[Hit]:
    """Returns out of a provider's loop or a session's block, ``next()`` of a provider that is not kept, late use."""
    yield from _broken_loops(scope)
    yield from _dropped_generators(scope)
    if not scope.body.is_generator:
        yield from _returned_out_of_block(scope)
    yield from _used_after_block(scope)


def _broken_loops(scope: Scope) -> Iterator[Hit]:
    for loop in scope.body.loops:
        if not isinstance(loop.node, ast.For | ast.AsyncFor):
            continue
        stream = scope.value(loop.node.iter)
        if not isinstance(stream, Stream) or not isinstance(stream.of, Session):
            continue
        left = [each for each in scope.body.returns if within(each.context, loop.node, "loop")]
        for step in left:
            value = scope.value(getattr(step.node, "value", None))
            if _hands_out(value):
                yield Hit(
                    step.line,
                    f"returns out of {_name(stream.function)}: the generator is dropped and its end runs at some later time, so the session ends while it is in use",
                    _ends_it(scope, stream),
                )
            elif stream.function is not None and _commits_after_yield(scope, stream.function):
                written = [
                    each for each in scope.uses.operations if each.writes and within(each.step.context, loop.node)
                ]
                committed = [each for each in scope.uses.operations if each.method == "commit"]
                if written and not committed:
                    yield Hit(
                        step.line,
                        f"returns out of {_name(stream.function)} after a write: the commit behind its yield never runs",
                        rule=lost_writes.RULE,
                    )


def _dropped_generators(scope: Scope) -> Iterator[Hit]:
    for step in scope.body.calls:
        call = step.node
        if not isinstance(call, ast.Call):
            continue
        source: ast.expr | None = None
        if isinstance(call.func, ast.Name) and call.func.id in ("next", "anext") and call.args:
            source = call.args[0]
        elif isinstance(call.func, ast.Attribute) and call.func.attr in ("__next__", "__anext__", "send", "asend"):
            source = call.func.value
        stream = scope.value(source) if isinstance(source, ast.Call) else None
        if isinstance(stream, Stream) and isinstance(stream.of, Session):
            yield Hit(
                step.line,
                f"takes the session of {_name(stream.function)} and drops the generator: its end closes the session at once",
                _ends_it(scope, stream),
            )


def _returned_out_of_block(scope: Scope) -> Iterator[Hit]:
    for opening in scope.uses.openings:
        if opening.item is None:
            continue
        for step in scope.body.returns:
            value = scope.value(getattr(step.node, "value", None))
            value = value.of if isinstance(value, Later) else value
            session = value.session if isinstance(value, Query) else as_session(value)
            if session is not None and within(step.context, opening.item) and same(session, opening.session):
                what = "a query of its session" if isinstance(value, Query) else "the session"
                yield Hit(step.line, f"returns {what} out of its with block, which closes it", opening.session.sure)


def _used_after_block(scope: Scope) -> Iterator[Hit]:
    for opening in scope.uses.openings:
        if opening.item is None:
            continue
        for operation in scope.uses.of(opening.session):
            if after_block(scope, operation.step, opening.item) and operation.method not in ("close", "query"):
                if not _exclusive(operation.step, opening.step):
                    yield Hit(
                        operation.line,
                        f"calls {operation.method}() on a session whose with block has ended",
                        opening.session.sure,
                    )
                    break


def _exclusive(late: Step, opened: Step) -> bool:
    """Whether the block stands in a branch that the late use does not stand in."""
    around = {(id(each.node), each.part) for each in chain(late.context)}
    branches = [each for each in chain(opened.context) if each.part in ("if", "orelse", "handler", "case")]
    return any((id(each.node), each.part) not in around for each in branches)


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
