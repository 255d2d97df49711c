"""A session that is used when the block that owns it has ended."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import use_after_close
from ..body import Step, chain, within
from ..tree import dotted
from ..use import same
from ..values import Session, Stream
from ..vocabulary import IO, QUERY_IO
from ._base import Hit, Pattern, Scope, after_block

if TYPE_CHECKING:
    from ..use import Opening

_WORK = (IO - {"commit", "rollback"}) | {"begin", "begin_nested", "connection", "add", "add_all", "delete", "merge"}
_WORK |= {f"query.{each}" for each in QUERY_IO}


def find(scope: Scope) -> Iterator[Hit]:
    """The first use after each block, here or in a function that is given the session."""
    for opening in scope.uses.openings:
        if opening.item is not None:
            found = [*_operations(scope, opening), *_handed(scope, opening)]
            if found:
                yield min(found, key=lambda hit: hit.line)
    yield from _after_loop(scope)


def _after_loop(scope: Scope) -> Iterator[Hit]:
    """``for session in get_session(): …`` has run to its end, and the session is used once more."""
    for loop in scope.body.loops:
        if not isinstance(loop.node, ast.For | ast.AsyncFor) or not isinstance(loop.node.target, ast.Name):
            continue
        stream = scope.value(loop.node.iter)
        if not isinstance(stream, Stream) or not isinstance(stream.of, Session) or stream.function is None:
            continue
        for each in scope.uses.operations:
            func = each.call.func
            named = isinstance(func, ast.Attribute) and dotted(func.value) == loop.node.target.id
            behind = each.step.order > loop.order and not within(each.step.context, loop.node)
            if named and behind and each.method in _WORK and same(each.session, stream.of):
                text = f"{each.method}() is called when the generator that yielded its session has ended"
                yield Hit(each.line, text, each.session.sure)
                break


def _operations(scope: Scope, opening: Opening) -> Iterator[Hit]:
    for each in scope.uses.of(opening.session):
        if each.method in _WORK and _is_late(scope, each.step, opening):
            what = each.method.replace("query.", "query(...).")
            yield Hit(each.line, f"{what}() is called when the block of its session has ended", opening.session.sure)


def _handed(scope: Scope, opening: Opening) -> Iterator[Hit]:
    for each in scope.uses.handed:
        if same(each.session, opening.session) and _is_late(scope, each.step, opening) and scope.usage.given(each).io:
            name = each.to.name.rpartition(".")[2] if each.to is not None else "a function"
            text = f"{name}() is given a session whose block has ended, and works with it"
            yield Hit(each.step.line, text, opening.session.sure)


def _is_late(scope: Scope, step: Step, opening: Opening) -> bool:
    """Behind the block, and not in a branch in which there was no block."""
    if opening.item is None or not after_block(scope, step, opening.item):
        return False
    around = {(id(each.node), each.part) for each in chain(step.context)}
    branches = [each for each in chain(opening.step.context) if each.part in ("if", "orelse", "handler", "case")]
    return all((id(each.node), each.part) in around for each in branches)


PATTERN = Pattern("late-use", "a session used after its block", use_after_close.RULE, find)
