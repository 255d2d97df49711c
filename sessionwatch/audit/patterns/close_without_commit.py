"""A session that is closed without a commit after it wrote, by the function itself or by the provider behind it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import lost_writes
from ..body import Context, Step, chain, dominates, may_follow, within
from ..use import Opening, Operation, Usage, Uses, begun_blocks, same, settled_by_parts
from ..values import Engine, Session
from ._base import Hit, Pattern, Scope, ends, is_always_raised

if TYPE_CHECKING:
    from ..infer import Inference
    from ..tree import Function

_SETTLED = ("commit", "rollback", "prepare", "expunge", "expunge_all")


def find(scope: Scope) -> Iterator[Hit]:
    """Blocks and functions that end a session of theirs with writes, and providers whose users write."""
    if scope.body.is_generator:
        yield from _provider(scope)
        return
    yield from _registries(scope)
    for opening in scope.uses.openings:
        if opening.session.how in ("call", "with") and not _settled_elsewhere(scope, opening):
            writes = _writes(scope, opening)
            lost = [each for each in writes if not _settled_after(scope, opening.session, each[0])]
            if lost and not is_always_raised(scope, lost[0][0], _block(scope, opening)):
                certain = any(surely and not _may_be_settled(scope, opening.session, step) for step, surely in lost)
                certain = certain and opening.session.sure and not _is_cancelled(scope)
                certain = certain and not _may_have_failed(scope, opening)
                text = f"{_how(scope, opening)} after a write, without commit() or rollback()"
                yield Hit(_line(scope, opening, lost[-1][0]), text, certain)


def _registries(scope: Scope) -> Iterator[Hit]:
    """``registry.add(...)`` and then ``registry.remove()``, with no commit between."""
    for removing in scope.uses.operations:
        if removing.method != "remove" or removing.session.how != "registry":
            continue
        mine = scope.uses.of(removing.session)
        lost = [each for each in mine if each.writes and dominates(each.step, removing.step)]
        settled = any(each.method in _SETTLED for each in mine) or begun_blocks(scope.uses, removing.session)
        handed = any(same(each.session, removing.session) for each in scope.uses.handed)
        if lost and not settled and not handed:
            certain = any(each.surely for each in lost)
            yield Hit(removing.line, "the registry's session is removed after a write, without commit()", certain)


def _may_have_failed(scope: Scope, opening: Opening) -> bool:
    """Whether what goes to the database stands where errors are caught: then there may be nothing to lose."""
    outside = {id(each.node) for each in chain(opening.step.context)} | {id(opening.item)}
    sent = [each.step for each in scope.uses.of(opening.session) if each.writes or each.method in ("flush", "commit")]
    sent += [each.step for each in scope.uses.handed if same(each.session, opening.session)]
    return any(_is_caught(one) for step in sent for one in chain(step.context) if id(one.node) not in outside)


def _is_caught(context: Context) -> bool:
    node = context.node
    if isinstance(node, ast.withitem):
        text = ast.unparse(node.context_expr)
        return any(word in text for word in ("suppress(", "raises(", "assertRaises"))
    return context.part == "try" and isinstance(node, ast.Try | ast.TryStar) and bool(node.handlers)


def _is_cancelled(scope: Scope) -> bool:
    """A function inside another one that cancels: it may never come to its commit."""
    outer = scope.function.outer
    return outer is not None and any(
        isinstance(each.node, ast.Call)
        and isinstance(each.node.func, ast.Attribute)
        and each.node.func.attr == "cancel"
        for each in scope.inference.body(outer).calls
    )


def _settled_elsewhere(scope: Scope, opening: Opening) -> bool:
    """Whether somebody else may commit: a block, a provider, a caller, code that is not known."""
    session = opening.session
    options = [ast.unparse(each.call) for each in scope.uses.of(session) if each.method == "connection"]
    if session.begun or begun_blocks(scope.uses, session) or scope.uses.escaped(session) or _autocommits(session):
        return True
    if any("AUTOCOMMIT" in each for each in options):
        return True
    if session.provider is not None and not _never_commits(scope.usage, session.provider):
        return True
    for handing in scope.uses.handed:
        if same(handing.session, session):
            effects = scope.usage.given(handing)
            if effects.unknown or effects.commits or effects.rolls_back:
                return True
    return any(_sees(scope, inner, session) for inner in scope.function.inner.values())


def _sees(scope: Scope, inner: Function, session: Session) -> bool:
    return any(same(each.session, session) for each in scope.usage.of(inner).operations)


def _autocommits(session: Session) -> bool:
    return isinstance(session.source, Engine) and session.source.autocommit


def _writes(scope: Scope, opening: Opening) -> list[tuple[Step, bool]]:
    """What writes by the session, in order, and whether it does so for certain."""
    session = opening.session
    found = [(each.step, each.surely) for each in scope.uses.of(session) if each.writes]
    for step, instance in scope.uses.dirty:
        inside = opening.item is None or within(step.context, opening.item)
        if inside and instance.session is not None and same(instance.session, session) and instance.how != "new":
            found.append((step, step.order in scope.uses.sets))
    for handing in scope.uses.handed:
        if same(handing.session, session) and scope.usage.given(handing).writes:
            found.append((handing.step, True))
    return sorted(found, key=lambda each: each[0].order)


def _settled_after(scope: Scope, session: Session, write: Step) -> bool:
    settling = [each.step for each in scope.uses.of(session) if each.method in _SETTLED]
    settling += settled_by_parts(scope.body, scope.uses, session)
    return any(may_follow(write, each) or _same_loop(write, each) for each in settling)


def _may_be_settled(scope: Scope, session: Session, write: Step) -> bool:
    """Whether a statement follows that may commit: DDL on MariaDB, SQL that is not written here."""
    return any(
        each.verb in ("ddl", "other", "unknown") and may_follow(write, each.step) for each in scope.uses.of(session)
    ) or any(each.method == "connection" and may_follow(write, each.step) for each in scope.uses.of(session))


def _same_loop(first: Step, second: Step) -> bool:
    loops = {id(each.node) for each in chain(first.context) if each.part == "loop"}
    return any(id(each.node) in loops for each in chain(second.context))


def _block(scope: Scope, opening: Opening) -> ast.AST | None:
    """What ends the session: its with statement, or the try statement whose finally clause closes it."""
    closing = [one for each in ends(scope, opening) for one in chain(each.step.context) if one.part == "finally"]
    return opening.item or (closing[0].node if closing else None)


def _line(scope: Scope, opening: Opening, write: Step) -> int:
    if opening.item is not None:
        return opening.line
    closing = ends(scope, opening)
    return closing[-1].line if closing else write.line


def _how(scope: Scope, opening: Opening) -> str:
    if opening.item is not None:
        return "the block ends its session"
    return "the session is closed" if ends(scope, opening) else "the session is dropped"


# -- providers ----------------------------------------------------------------------------------------------


def _provider(scope: Scope) -> Iterator[Hit]:
    for opening in scope.uses.openings:
        session = opening.session
        if not _is_yielded(scope, session) or session.begun or begun_blocks(scope.uses, session):
            continue
        if not _never_commits(scope.usage, scope.function):
            continue
        writers = _writers(scope, scope.function)
        if writers:
            names = ", ".join(sorted({each.name for each in writers})[:3])
            line = (
                opening.line
                if opening.item is not None
                else next((each.line for each in ends(scope, opening)), opening.line)
            )
            yield Hit(
                line, f"ends its session without a commit, and {names} writes by it and does not commit", session.sure
            )


def _is_yielded(scope: Scope, session: Session) -> bool:
    values = [scope.value(getattr(step.node, "value", None)) for step in scope.body.yields]
    return any(isinstance(value, Session) and same(value, session) for value in values)


def _never_commits(usage: Usage, provider: Function) -> bool:
    """Whether a function that hands out a session leaves the commit to its users, and says nothing of a rollback."""
    uses: Uses = usage.of(provider)
    if not any(each.session.made or each.session.provider not in (None, provider) for each in uses.openings):
        return False  # where its session comes from is not seen
    if any(
        each.session.begun or begun_blocks(uses, each.session) or _autocommits(each.session) for each in uses.openings
    ):
        return False
    if any(each.method in ("commit", "prepare") or _is_plain_rollback(each) for each in uses.operations):
        return False
    inner = [each.session.provider for each in uses.openings if each.session.provider is not None]
    if any(each is not provider and not _never_commits(usage, each) for each in inner):
        return False
    return not any(usage.given(each).commits or usage.given(each).unknown for each in uses.handed)


def _is_plain_rollback(operation: Operation) -> bool:
    return operation.method == "rollback" and not any(each.part == "handler" for each in chain(operation.step.context))


def _writers(scope: Scope, provider: Function) -> list[Function]:
    """Functions that are given the provider's session as a dependency, write by it and do not commit."""
    found = []
    for function, session in dependants(scope.inference).get(provider, ()):
        effects = scope.usage.effects(function, session)
        if effects.writes and not (effects.commits or effects.rolls_back or effects.unknown):
            found.append(function)
    return found


_dependants: dict[int, dict[Function, list[tuple[Function, Session]]]] = {}


def dependants(inference: Inference) -> dict[Function, list[tuple[Function, Session]]]:
    """Who is given whose session by ``Depends``: by provider."""
    known = _dependants.get(id(inference))
    if known is None:
        _dependants.clear()
        known = _dependants[id(inference)] = {}
        for module in inference.tree.modules.values():
            for function in module.functions:
                for argument in function.arguments:
                    value = inference.parameter(function, argument) if _may_depend(function, argument) else None
                    if isinstance(value, Session) and value.how == "depends" and value.provider is not None:
                        known.setdefault(value.provider, []).append((function, value))
    return known


def _may_depend(function: Function, argument: ast.arg) -> bool:
    return argument.annotation is not None or function.default_of(argument) is not None


PATTERN = Pattern(
    "close-without-commit", "a session that is closed without a commit after it wrote", lost_writes.RULE, find
)
