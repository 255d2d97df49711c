"""Calls that run something elsewhere: in a thread, a task, a process, or by a message."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..body import Step, chain
from ..tree import Function, dotted
from ..values import External, FunctionValue, Method

if TYPE_CHECKING:
    from ._base import Scope

_TASKS = frozenset({"create_task", "ensure_future", "start_soon", "run_coroutine_threadsafe"})
_THREADS = frozenset({"Thread", "Timer", "to_thread", "run_in_threadpool", "run_in_executor", "submit"})
_AWAITED = frozenset({"to_thread", "run_in_threadpool", "run_in_executor", "run_sync"})
_MESSAGES = frozenset({"delay", "apply_async", "send_task", "si", "enqueue", "s"})
_PROCESSES = frozenset({"Process", "ProcessPoolExecutor"})
_POOLS = frozenset({"map", "starmap", "apply_async", "imap", "imap_unordered", "map_async", "apply"})


@dataclass(frozen=True, slots=True)
class Launch:
    """One call that runs ``target`` elsewhere. ``kind``: thread, task, process, message, background."""

    step: Step
    call: ast.Call
    kind: str
    target: ast.expr | None
    given: tuple[ast.expr, ...]  # what the target is given


def launches(scope: Scope) -> Iterator[Launch]:
    """Every such call of a function, in order. ``create_task(to_thread(work))`` is one: the inner one, not awaited."""
    found: list[Launch] = []
    for step in scope.body.calls:
        call = step.node
        launch = _launch(scope, step, call) if isinstance(call, ast.Call) else None
        if launch is None:
            continue
        inner = next((each for each in found if any(each.call is one for one in launch.call.args)), None)
        if inner is not None:
            found[found.index(inner)] = replace(inner, step=launch.step)
        else:
            found.append(launch)
    yield from found


def _launch(scope: Scope, step: Step, call: ast.Call) -> Launch | None:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    value = scope.value(call.func)
    if isinstance(value, FunctionValue) or (isinstance(value, Method) and not isinstance(value.owner, FunctionValue)):
        return None  # a method of the tree, or of a session, that only bears such a name
    full = value.name if isinstance(value, External) else ""
    words = {word.arg: word.value for word in call.keywords if word.arg}
    if name in ("Thread", "Timer", "Process"):
        arguments = words.get("args")
        given = tuple(arguments.elts) if isinstance(arguments, ast.Tuple | ast.List) else ()
        named = words.get("kwargs")
        given += tuple(named.values) if isinstance(named, ast.Dict) else ()
        target = words.get("target") or (call.args[1] if name == "Timer" and len(call.args) > 1 else None)
        if target is None:
            return None
        return Launch(step, call, "process" if name == "Process" else "thread", target, given)
    if name in _TASKS:
        return _task(step, call, name)
    if name in _MESSAGES and isinstance(call.func, ast.Attribute):
        return _message(scope, step, call, name, words)
    if name == "add_task" and isinstance(call.func, ast.Attribute) and call.args:
        return Launch(step, call, "background", call.args[0], (*call.args[1:], *words.values()))
    if name in ("to_thread", "run_in_threadpool") or full.endswith("to_thread.run_sync"):
        return _first(step, call, "thread", 0)
    if name == "run_in_executor":
        return _first(step, call, _pool(scope, call.args[0]) if call.args else "thread", 1)
    if name in ("submit", *_POOLS) and isinstance(call.func, ast.Attribute) and call.args:
        return _first(step, call, kind, 0) if (kind := _executor(scope, call.func.value)) is not None else None
    return None


def _first(step: Step, call: ast.Call, kind: str, position: int) -> Launch | None:
    if len(call.args) <= position:
        return None
    rest = (*call.args[position + 1 :], *(word.value for word in call.keywords))
    return Launch(step, call, kind, call.args[position], rest)


def _task(step: Step, call: ast.Call, name: str) -> Launch | None:
    if not call.args:
        return None
    first = call.args[0]
    if name == "start_soon":
        return Launch(step, call, "task", first, tuple(call.args[1:]))
    if isinstance(first, ast.Call):
        return Launch(step, call, "task", first.func, (*first.args, *(word.value for word in first.keywords)))
    return None


def _message(scope: Scope, step: Step, call: ast.Call, name: str, words: dict[str, ast.expr]) -> Launch | None:
    if name in ("s", "si", "delay", "enqueue"):
        return Launch(step, call, "message", call.func, (*call.args, *words.values()))
    given: tuple[ast.expr, ...] = ()
    start = 1 if name == "send_task" else 0
    for node in (*call.args[start : start + 2], words.get("args"), words.get("kwargs")):
        if isinstance(node, ast.Tuple | ast.List):
            given += tuple(node.elts)
        elif isinstance(node, ast.Dict):
            given += tuple(node.values)
    return Launch(step, call, "message", call.func, given) if given else None


def _pool(scope: Scope, node: ast.expr) -> str:
    return _executor(scope, node) or "thread"


def _executor(scope: Scope, node: ast.expr) -> str | None:
    """Whether an expression is a pool of threads or of processes; None for anything else."""
    name = dotted(node.func) if isinstance(node, ast.Call) else _made_by(scope, node)
    last = (name or "").rpartition(".")[2]
    if last in ("ThreadPoolExecutor", "ThreadPool"):
        return "thread"
    if last in ("ProcessPoolExecutor", "Pool"):
        return "process"
    told = (dotted(node) or "").rpartition(".")[2].lower()
    return ("process" if "process" in told else "thread") if "executor" in told or "pool" in told else None


def _made_by(scope: Scope, node: ast.expr) -> str | None:
    """The name of what was called to make a local or a module's variable."""
    if not isinstance(node, ast.Name):
        return None
    function: Function | None = scope.function
    while function is not None:
        for binding in reversed(scope.inference.body(function).bindings.get(node.id, ())):
            if isinstance(binding.expr, ast.Call):
                return dotted(binding.expr.func)
        function = function.outer
    return None


def waits(scope: Scope, launch: Launch) -> bool:
    """Whether the caller stands still until it has ended: a hand-over in sequence."""
    name = launch.call.func.attr if isinstance(launch.call.func, ast.Attribute) else getattr(launch.call.func, "id", "")
    if launch.step.awaited:
        return True
    parent = launch.step.parent
    if isinstance(parent, ast.Attribute) and parent.attr in ("result", "get"):
        return True
    return name == "apply"


def joined_at(scope: Scope, launch: Launch) -> float:
    """The order at which the caller has waited for it; infinite where it never does."""
    name = _kept_as(scope, launch)
    for step in (*scope.body.calls, *scope.body.awaits):
        if step.order <= launch.step.order or name is None:
            continue
        node = step.node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and dotted(node.func.value) == name:
            if node.func.attr in ("join", "result"):
                return step.order
        elif isinstance(node, ast.Await) and any(
            dotted(each) == name for each in ast.walk(node) if isinstance(each, ast.Name)
        ):
            return step.order
    return _end_of_block(scope, launch)


def _end_of_block(scope: Scope, launch: Launch) -> float:
    """``with ThreadPoolExecutor() as pool`` and ``async with TaskGroup() as group`` wait at their end."""
    if not isinstance(launch.call.func, ast.Attribute):
        return float("inf")
    owner = dotted(launch.call.func.value)
    for context in chain(launch.step.context):
        item = context.node
        if isinstance(item, ast.withitem) and item.optional_vars is not None and dotted(item.optional_vars) == owner:
            inside = [each.order for each in scope.body.calls if any(one.node is item for one in chain(each.context))]
            return max(inside, default=launch.step.order) + 0.5
    return float("inf")


def _kept_as(scope: Scope, launch: Launch) -> str | None:
    for name, bindings in scope.body.bindings.items():
        for binding in bindings:
            if binding.expr is launch.call or (
                isinstance(binding.expr, ast.Await) and binding.expr.value is launch.call
            ):
                return name
    return None


def parts(node: ast.expr) -> Iterator[ast.expr]:
    """The expression, or what a list, dict or comprehension holds."""
    match node:
        case ast.Starred():
            yield from parts(node.value)
        case ast.List() | ast.Tuple() | ast.Set():
            for each in node.elts:
                yield from parts(each)
        case ast.Dict():
            for each in node.values:
                yield from parts(each)
        case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
            yield from parts(node.elt)
        case _:
            yield node
