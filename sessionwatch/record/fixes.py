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
        name = source.method_object(*site, _METHODS)
        if name is not None and name.rpartition(".")[2][:1].islower() and not any(one in name for one in _OTHERS):
            return name
    opened = record.opened.site if record is not None and record.opened is not None else None
    if opened is not None and any(site.code is opened.code for site in sites):
        given = [name for node in source.around(*opened) for name in _names(node)]
        return given[0] if given else "session"
    return "session"


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
        self.name, self.how, self.is_async = "", "", False
        site = opened.site if opened is not None else None
        if site is None:
            return
        nodes = source.around(site.code, site.lasti)
        function = nodes[-1] if nodes and isinstance(nodes[-1], ast.FunctionDef | ast.AsyncFunctionDef) else None
        if function is None:
            return
        self.name, self.is_async = function.name, bool(site.code.co_flags & _COROUTINE)
        if site.code.co_flags & _GENERATOR:
            self.how = "yield"
        elif any(isinstance(node, ast.Return) for node in nodes) or self._returns(nodes, function):
            self.how = "return"

    def _returns(self, nodes: list[ast.AST], function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        """Whether the name that the session is given is what the function returns."""
        given = {name for node in nodes for name in _names(node)}
        returned = (one.value for one in source.within(function.body, kinds=(ast.Return,)))
        return any(isinstance(value, ast.Name) and value.id in given for value in returned)

    def called(self) -> str:
        """Its call, as it stands in a ``with``."""
        return f"await {self.name}()" if self.is_async and self.how == "return" else f"{self.name}()"


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.With | ast.AsyncWith):
        given = (item.optional_vars for item in node.items)
        return [one.id for one in given if isinstance(one, ast.Name)]
    return []
