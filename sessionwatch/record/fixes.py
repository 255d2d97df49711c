"""The words of a fix that are the program's own: what it calls its session, its registry, and whether it awaits."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from ..frames import source
from ..frames.callsite import looked_at

if TYPE_CHECKING:
    from ..model import Mark, RawSite
    from .life import Known

_COROUTINE = 0x80 | 0x200  # CO_COROUTINE, CO_ASYNC_GENERATOR
_GENERATOR = 0x20 | 0x200
# Methods of a session that a program calls, but for those that its factory has, too.
_METHODS = frozenset({
    "add", "add_all", "bulk_insert_mappings", "bulk_save_objects", "bulk_update_mappings", "close", "commit",
    "connection", "delete", "execute", "flush", "get", "get_one", "merge", "query", "refresh", "rollback", "scalar",
    "scalars", "stream", "stream_scalars",
})  # fmt: skip
_OTHERS = ("query", "repo", "service", "dao")  # objects of the program or a library that have such methods, too


def awaited(record: Known | None) -> str:
    """What stands before a call of an async session's."""
    return "await " if record is not None and record.kind == "async" else ""


def registry(record: Known | None) -> str | None:
    """What the program calls the registry that a session was taken from; None of another session."""
    taken = getattr(record, "taken", None)
    if taken is None:
        return None
    place = looked_at(taken).site
    return (source.asked_object(*place) if place is not None else None) or "registry"


def session_name(record: Known | None, *marks: Mark | None) -> str:
    """What the program calls the session: as its registry, else as in one of its calls, else ``session``."""
    asked = registry(record)
    if asked is not None:
        return asked
    sites = [mark.site for mark in marks if mark is not None and mark.site is not None]
    for site in sites:
        name = _called_on(site)
        if name is not None:
            return name
    opened = record.opened.site if record is not None and record.opened is not None else None
    if record is not None and opened is not None and any(site.code is opened.code for site in sites):
        return given_name(record) or "session"
    return "session"


def _called_on(site: RawSite) -> str | None:
    name = source.method_object(*site, _METHODS)
    if name is None or not name.rpartition(".")[2][:1].islower() or any(one in name for one in _OTHERS):
        return None
    return name


def name_nearby(record: Known | None, *marks: Mark | None) -> str:
    """The same where the places say nothing of a session: as in its last statement."""
    site = getattr(record, "last_site", None)
    name = session_name(record, *marks)
    return (_called_on(site) if name == "session" and site is not None else None) or name


def given_name(record: Known) -> str | None:
    """The name that a session is given where it is made."""
    site = record.opened.site if record.opened is not None else None
    nodes = source.around(*site) if site is not None else []
    for node in nodes:
        if isinstance(node, ast.With | ast.AsyncWith):
            given = (item.optional_vars for item in node.items if nodes[0] in ast.walk(item.context_expr))
            return next((one.id for one in given if isinstance(one, ast.Name)), None)
        if isinstance(node, ast.stmt):
            return next(iter(_names(node)), None)
    return None


def instance_name(model: str, mark: Mark | None = None) -> str:
    """What the program calls an instance where it reads it; else its class in lower case."""
    site = mark.site if mark is not None else None
    return (source.read_object(*site) if site is not None else None) or model.rpartition(".")[2].lower()


def opening(record: Known, otherwise: str) -> str:
    """The call that makes a session: the program's own where a factory knows the engine."""
    site = record.opened.site if record.opened is not None else None
    return (source.factory_call(*site) if site is not None else None) or otherwise


def awaits_nothing(coroutine: RawSite) -> bool:
    """Whether an async function has no ``await``, ``async for`` or ``async with`` of its own; no without its source."""
    nodes = source.around(*coroutine)
    function = nodes[-1] if nodes else None
    if not isinstance(function, ast.AsyncFunctionDef):
        return False
    asynchronous = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    comprehensions = (one.is_async for one in source.within(function.body, kinds=(ast.comprehension,)))
    return not any(source.within(function.body, kinds=asynchronous)) and not any(comprehensions)


class Provider:
    """The function that opened a session, if it hands it out: by ``return``, or by ``yield``."""

    def __init__(self, opened: Mark | None) -> None:
        self.name, self.how, self.is_async, self._call = "", "", False, ""
        site = opened.site if opened is not None else None
        if site is None:
            return
        nodes = source.around(site.code, site.lasti)
        function = nodes[-1] if nodes and isinstance(nodes[-1], ast.FunctionDef | ast.AsyncFunctionDef) else None
        if function is None:
            return
        self.name, self.is_async = function.name, bool(site.code.co_flags & _COROUTINE)
        given = [one.arg for one in function.args.args if one.arg not in ("self", "cls")]
        self._call = f"{self.name}({'…' if given else ''})"
        if site.code.co_flags & _GENERATOR:
            self.how = "yield"
        elif any(isinstance(node, ast.Return) for node in nodes) or self._returns(nodes, function):
            self.how = "return"

    def _returns(self, nodes: list[ast.AST], function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        """Whether the name that the session is given is what the function returns."""
        given = {name for node in nodes for name in _names(node)}
        returned = (one.value for one in source.within(function.body, kinds=(ast.Return,)))
        return any(isinstance(value, ast.Name) and value.id in given for value in returned)

    def called(self, used: RawSite | None) -> str:
        """Its call, as it stands in a ``with``: the one of the function that ``used`` the session, if it is there."""
        return self.call_in(used) or self._awaited(self._call)

    def call_in(self, *used: RawSite | None) -> str | None:
        """The call of one of the functions that ``used`` the session; None where it was called elsewhere."""
        calls = (source.call_of(site.code, self.name) for site in used if site is not None)
        call = next((one for one in calls if one is not None), None)
        return self._awaited(call) if call is not None else None

    def _awaited(self, call: str) -> str:
        return f"await {call}" if self.is_async and self.how == "return" else call


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.With | ast.AsyncWith):
        given = (item.optional_vars for item in node.items)
        return [one.id for one in given if isinstance(one, ast.Name)]
    return []
