"""A broad ``except`` around work on the database that neither raises nor rolls back."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...rules import swallowed_error
from ..body import Context, Step, chain, within
from ..tree import dotted
from ..use import Opening, Operation, begun_blocks, same, settled_by_parts
from ..values import Session
from ..vocabulary import BROAD, DATABASE_ERRORS
from ._base import Hit, Pattern, Scope

_UNDOES = frozenset({"rollback", "abort", "close", "remove", "reset", "invalidate", "expunge_all"})
_LEAVES = frozenset({"exit", "_exit", "fail", "abort", "skip", "reraise", "exc_info"})
_FAILING = frozenset({"flush", "commit", "execute", "scalars", "scalar", "get", "get_one", "refresh", "exec", "merge"})


def find(scope: Scope) -> Iterator[Hit]:
    """One hit per handler, at the first statement that may fail."""
    for step in scope.body.tries:
        if isinstance(step.node, ast.Try | ast.TryStar):
            handler = _swallowing(scope, step.node)
            work = _work(scope, step.node, "try") if handler is not None else []
            if handler is not None and work and not _is_protected(scope, step.node, work[0].session):
                where = f"is caught in line {handler.lineno}, without a rollback or a raise"
                yield from _judged(scope, step, work, where, _is_broad(handler.type))
    for step in scope.body.withs:  # contextlib.suppress(Exception)
        expr = step.node.context_expr if isinstance(step.node, ast.withitem) else None
        if isinstance(expr, ast.Call) and (dotted(expr.func) or "").rpartition(".")[2] == "suppress":
            caught = [each for each in expr.args if _is_broad(each) or _is_narrow(each)]
            work = _work(scope, step.node, "with") if caught else []
            if work:
                broad = any(_is_broad(each) for each in caught)
                yield from _judged(scope, step, work, "is suppressed, without a rollback", broad)


def _judged(scope: Scope, step: Step, work: list[Operation], where: str, broad: bool) -> Iterator[Hit]:
    wrote = [each for each in work if each.writes or each.method in ("flush", "commit")]
    first = (wrote or work)[0]
    session = first.session
    if any(each.order > step.order and each.context is step.context for each in scope.body.raises):
        return  # an exception leaves the function all the same
    if _is_undone(scope, step, session):
        return
    later = _goes_on(scope, step, session)
    text = f"an error of {first.method.replace('query.', 'query(...).')}() {where}"
    if later or (wrote and broad):
        yield Hit(first.line, text, session.sure)
    elif session.how in ("parameter", "registry", "attribute", "global") and (wrote or broad):
        yield Hit(first.line, text, False)


def _work(scope: Scope, node: ast.AST, part: str) -> list[Operation]:
    """What the block does with sessions that were there before it, and that no savepoint holds."""
    found = []
    for each in scope.uses.operations:
        context = each.step.context
        if within(context, node, part) and (each.io or each.writes) and _direct(context, node):
            opened = _opening(scope, each.session)
            inside = opened is not None and within(opened.step.context, node, part)
            if not inside and not _in_block(scope, each, node) and each.method not in ("rollback", "add", "add_all"):
                found.append(each)
    return found if any(each.method in _FAILING or "." in each.method or each.io for each in found) else []


def _direct(context: Context | None, node: ast.AST) -> bool:
    """Not inside another try, with handlers of its own, in this one."""
    for each in chain(context):
        if each.node is node:
            return True
        if each.part == "try" and isinstance(each.node, ast.Try) and each.node.handlers:
            return False
    return False


def _in_block(scope: Scope, operation: Operation, node: ast.AST) -> bool:
    """Whether a block of the session, or a savepoint, holds the statement and so ends the transaction with it."""
    inside = True
    for each in chain(operation.step.context):
        inside = inside and each.node is not node
        if not isinstance(each.node, ast.withitem):
            continue
        expr = each.node.context_expr
        name = expr.func.attr if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Attribute) else ""
        if name == "begin_nested":
            return True  # also where it stands around the handler: its end goes back to the savepoint
        value = scope.inference.entered(scope.value(expr), expr)
        mine = isinstance(value, Session) and same(value, operation.session)
        if inside and each.node is not node and (name == "begin" or mine):
            return True
    return False


def _opening(scope: Scope, session: Session) -> Opening | None:
    return next((each for each in scope.uses.openings if same(each.session, session)), None)


def _swallowing(scope: Scope, node: ast.Try | ast.TryStar) -> ast.ExceptHandler | None:
    """The broad handler, where it neither raises, nor ends the transaction, nor leaves the program."""
    for handler in node.handlers:
        if not _is_broad(handler.type) and not _is_narrow(handler.type):
            continue
        for each in ast.walk(handler):
            if isinstance(each, ast.Raise):
                return None
            if isinstance(each, ast.Call):
                name = (dotted(each.func) or "").rpartition(".")[2]
                if name in _UNDOES or name in _LEAVES or "rollback" in name or "raise" in name:
                    return None
                if any(
                    isinstance(scope.value(one), Session)
                    for one in each.args
                    if isinstance(one, ast.Name | ast.Attribute)
                ):
                    return None
            if isinstance(each, ast.Assign) and handler.name and _keeps(each, handler.name):
                return None
        return handler
    return None


def _keeps(node: ast.Assign, name: str) -> bool:
    """Whether the error is kept, to be raised later."""
    return isinstance(node.value, ast.Name) and node.value.id == name


def _is_broad(node: ast.expr | None) -> bool:
    if node is None:
        return True
    if isinstance(node, ast.Tuple):
        return any(_is_broad(each) for each in node.elts)
    return (dotted(node) or "").rpartition(".")[2] in BROAD


def _is_narrow(node: ast.expr | None) -> bool:
    """An error of the database that leaves the transaction unusable, by its own name."""
    if isinstance(node, ast.Tuple):
        return any(_is_narrow(each) for each in node.elts)
    return node is not None and (dotted(node) or "").rpartition(".")[2] in DATABASE_ERRORS


def _is_protected(scope: Scope, node: ast.Try | ast.TryStar, session: Session) -> bool:
    """Whether the finally clause rolls back, or it is the session's own begin() block that is around."""
    for each in scope.uses.of(session):
        if each.method in ("rollback", "invalidate", "reset", "remove") and within(each.step.context, node, "finally"):
            return True
    return bool(begun_blocks(scope.uses, session)) and any(
        within(step.context, node, "try") for step in begun_blocks(scope.uses, session)
    )


def _behind(scope: Scope, step: Step, session: Session) -> list[Operation]:
    """What is done with the session behind the statement."""
    return [
        each
        for each in scope.uses.of(session)
        if each.step.order > step.order and not any(one.node is step.node for one in chain(each.step.context))
    ]


def _is_undone(scope: Scope, step: Step, session: Session) -> bool:
    """Whether a rollback comes behind the statement, before anything else of the session."""
    behind = _behind(scope, step, session)
    undone = [each.step.order for each in behind if each.method in ("rollback", "reset", "invalidate")]
    parts = settled_by_parts(scope.body, scope.uses, session)
    undone += [each.order for each in parts if _is_rollback(each) and each.order > step.order]
    first = min((each.step.order for each in behind if each.io and each.method != "rollback"), default=None)
    return any(first is None or each < first for each in undone)


def _goes_on(scope: Scope, step: Step, session: Session) -> bool:
    """Whether the session is used again after the handler: behind the statement, or in the next round of a loop."""
    if isinstance(step.node, ast.Try) and all(isinstance(each.body[-1], ast.Return) for each in step.node.handlers):
        return False
    if any(each.io and each.method != "rollback" for each in _behind(scope, step, session)):
        return True
    opened = _opening(scope, session)
    around = {id(each.node) for each in chain(opened.step.context)} if opened is not None else set()
    return any(each.part == "loop" and id(each.node) not in around for each in chain(step.context))


def _is_rollback(step: Step) -> bool:
    return (
        isinstance(step.node, ast.Call)
        and isinstance(step.node.func, ast.Attribute)
        and step.node.func.attr == "rollback"
    )


PATTERN = Pattern(
    "broad-except", "a broad except around database work, without raise or rollback", swallowed_error.RULE, find
)
