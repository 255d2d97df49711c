"""A session that a module keeps: every thread, task and request that uses it is in the same transaction."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...rules import session_leak
from ..body import chain
from ..use import same
from ..values import Session
from ._base import Hit, Pattern, Scope, ends

if TYPE_CHECKING:
    from ..tree import Function
    from ..use import Opening


def find(scope: Scope) -> Iterator[Hit]:
    """Sessions that a module's or class's own code opens for good, and those that a function keeps in a global."""
    if isinstance(scope.function.node, ast.Module):
        yield from _of_module(scope)
        yield from _of_classes(scope)
    elif scope.body.globals:
        yield from _of_global(scope)


def _of_module(scope: Scope) -> Iterator[Hit]:
    for opening in scope.uses.openings:
        name = _kept_as(scope, opening)
        if opening.item is not None or name is None or _is_main(opening) or ends(scope, opening):
            continue
        users = [
            each for each in scope.function.module.functions if each is not scope.function and _uses(scope, each, name)
        ]
        if users:
            what = f"{users[0].name}() uses it" if len(users) == 1 else f"{len(users)} functions use it"
            yield Hit(
                opening.line,
                f"the module keeps a session for as long as the program runs, and {what}",
                opening.session.sure,
            )
        elif not _is_script(scope):
            yield Hit(opening.line, "the module keeps a session for as long as the program runs", False)


def _of_classes(scope: Scope) -> Iterator[Hit]:
    """``class Repo: session = SessionLocal()``: one session for all objects of the class."""
    module = scope.function.module
    for cls in {id(each): each for each in module.classes.values()}.values():
        values = {id(value): name for name, declared in cls.fields.items() for _, value in declared}
        for opening in scope.uses.openings:
            name = values.get(id(opening.step.node))
            if name is None:
                continue
            used = [each for method in cls.methods.values() for each in scope.usage.of(method).operations]
            certain = any(same(each.session, opening.session) for each in used) and opening.session.sure
            yield Hit(opening.line, f"the class {cls.name} keeps one session, {name}, for all of its objects", certain)


def _of_global(scope: Scope) -> Iterator[Hit]:
    for opening in scope.uses.openings:
        name = _kept_as(scope, opening)
        if name in scope.body.globals and opening.item is None and not ends(scope, opening):
            yield Hit(opening.line, f"a session is kept in the module's variable {name}", opening.session.sure)


def _kept_as(scope: Scope, opening: Opening) -> str | None:
    for name, bindings in scope.body.bindings.items():
        for binding in bindings:
            if binding.how == "value" and binding.expr is opening.step.node:
                return name
    return None


def _is_main(opening: Opening) -> bool:
    """Below ``if __name__ == "__main__":``."""
    return any(
        isinstance(each.node, ast.If) and "__name__" in ast.unparse(each.node.test)
        for each in chain(opening.step.context)
    )


def _is_script(scope: Scope) -> bool:
    """Whether the module's own code works with sessions: then it is a program, and ends."""
    return any(each.method != "close" for each in scope.uses.operations)


def _uses(scope: Scope, function: Function, name: str) -> bool:
    body = scope.inference.body(function)
    if name in body.bindings and name not in body.globals:
        return False
    for step in body.names:
        if isinstance(step.node, ast.Name) and step.node.id == name:
            value = scope.inference.value(step.node, function)
            opened = (each.session for each in scope.uses.openings)
            if isinstance(value, Session) and any(same(value, each) for each in opened):
                return True
    return False


PATTERN = Pattern("module-session", "a session that a module keeps", session_leak.RULE, find)
