"""A session that is handed to a thread, a task, a process or a message, while others may use it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import boundary, cross_process, cross_task, use_after_close
from ..body import may_follow
from ..hands import as_session
from ..use import same
from ..values import FunctionValue, Method, Session
from ._base import Hit, Pattern, Scope, in_loop
from ._concurrent import Launch, joined_at, launches, parts, waits

if TYPE_CHECKING:
    from ..tree import Function

_WHERE = {"thread": "a thread", "task": "a task", "process": "another process", "message": "a message"}
_RULES = {"process": cross_process.RULE, "message": boundary.RULE}


def find(scope: Scope) -> Iterator[Hit]:
    """Sessions among the arguments of what runs elsewhere, and those that its target uses."""
    found = list(launches(scope))
    for launch in found:
        if waits(scope, launch) and launch.kind not in _RULES:
            continue
        sessions = _handed(scope, launch)
        for session in sessions[:1]:
            yield from _judged(scope, launch, session, found)


def _judged(scope: Scope, launch: Launch, session: Session, every: list[Launch]) -> Iterator[Hit]:
    if session.how == "registry" or (launch.kind == "task" and not session.asynchronous):
        return  # tasks of one thread do not meet in a sync session
    name = f"the {'AsyncSession' if session.asynchronous else 'session'}"
    if launch.kind == "background":
        if session.how in ("depends", "with"):
            yield Hit(
                launch.call.lineno,
                f"{name} is handed to a background task, which may run when the session has ended",
                False,
                use_after_close.RULE,
            )
        return
    rule = _RULES.get(launch.kind)
    if rule is not None:
        yield Hit(
            launch.call.lineno, f"{name} is handed to {_WHERE[launch.kind]}, where it can't be used", session.sure, rule
        )
        return
    why = _why(scope, launch, session, every)
    if why is not None:
        yield Hit(launch.call.lineno, f"{name} is handed to {_WHERE[launch.kind]} {why[0]}", why[1] and session.sure)


def _why(scope: Scope, launch: Launch, session: Session, every: list[Launch]) -> tuple[str, bool] | None:
    """What is wrong with it, and whether that is certain; None for a hand-over."""
    end = joined_at(scope, launch)
    if _is_opened_outside_of_loop(scope, launch, session):
        return "again and again, and all of them use it at once", True
    others = [each for each in every if each is not launch and any(same(session, one) for one in _handed(scope, each))]
    if any(launch.step.order < each.step.order < end and not waits(scope, each) for each in others):
        return "and to another one that runs at the same time", True
    mine = [each for each in scope.uses.of(session) if each.io or each.method in ("close", "reset", "invalidate")]
    used = [each for each in mine if launch.step.order < each.step.order < end]
    if any(may_follow(launch.step, each.step) for each in used):
        return f"while {used[0].method}() is called on it here", True
    given = [
        each for each in scope.uses.handed if same(each.session, session) and launch.step.order < each.step.order < end
    ]
    if any(scope.usage.given(each).io and not _is_part(each.call, launch) for each in given):
        return "while a function that is called here uses it", True
    if session.how == "with" and end == float("inf"):
        return "and its with block may end before that does", False
    if session.how in ("parameter", "depends", "global", "attribute") and end == float("inf"):
        return "that nobody waits for, while its owner may use it", False
    return None


def _is_part(call: ast.Call, launch: Launch) -> bool:
    return call is launch.call or any(call is node for node in ast.walk(launch.call))


def _is_opened_outside_of_loop(scope: Scope, launch: Launch, session: Session) -> bool:
    if not in_loop(launch.step.context):
        return launch.kind == "thread" and _maps(launch)
    opened = next((each for each in scope.uses.openings if same(each.session, session)), None)
    return in_loop(launch.step.context, opened.step.context if opened is not None else None)


def _maps(launch: Launch) -> bool:
    return isinstance(launch.call.func, ast.Attribute) and launch.call.func.attr in ("map", "starmap", "imap")


def _handed(scope: Scope, launch: Launch) -> list[Session]:
    found: list[Session] = []
    for node in (each for argument in launch.given for each in parts(argument)):
        session = as_session(scope.value(node))
        if session is not None and session.origin is not None:
            found.append(session)
    target = scope.value(launch.target)
    if isinstance(target, Method) and (session := as_session(target.owner)) is not None:
        found.append(session)
    if isinstance(launch.target, ast.Lambda):
        inner = scope.function.module.by_node.get(launch.target)
        found += _used_in(scope, inner) if inner is not None else []
    if isinstance(target, FunctionValue) and target.function.outer is scope.function:
        found += _used_in(scope, target.function)
    return [each for each in found if not _is_made_in(launch, each)]


def _is_made_in(launch: Launch, session: Session) -> bool:
    """``submit(work, Session())``: nobody else has it."""
    return session.origin is not None and any(node is session.origin for node in ast.walk(launch.call))


def _used_in(scope: Scope, inner: Function) -> list[Session]:
    """The sessions of this function that a function inside it works with."""
    own = [each.session for each in scope.uses.openings]
    own += [each.session for each in scope.uses.operations]
    for argument in scope.function.arguments:
        value = as_session(scope.inference.parameter(scope.function, argument))
        own += [value] if value is not None else []
    used = scope.usage.of(inner)
    sessions = [each.session for each in used.operations] + [each.session for each in used.handed]
    return [each for each in sessions if any(same(each, one) for one in own)]


PATTERN = Pattern("shared-session", "a session handed to a thread, task, process or message", cross_task.RULE, find)
