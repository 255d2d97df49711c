"""Installation of the hooks that somebody needs, and what this SQLAlchemy lacks for them."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterable
from typing import Any

from sqlalchemy.orm import Session

from . import private
from .context import Context, Hook
from .patch import listen, patch
from .reading import read
from .table import FOLLOWERS, HOOKS, LISTENERS


def import_all() -> None:
    """Import every module that a hook may go into, where it is there; its package too, which may not be complete."""
    for name in dict.fromkeys(hook.module for hook in HOOKS):
        _module(name.rpartition(".")[0])
        _module(name)


def missing(kinds: Iterable[type]) -> dict[type, str]:
    """Those of some types of event, and of their parts, that can't be made with this SQLAlchemy: each with the first
    name that it lacks. From now on what is missing is not read either.
    """
    names = private.probe()
    read.settle(names)
    lacks: list[tuple[str, tuple[type, ...]]] = [(str(name), name.needs) for name in names]
    for hook in HOOKS:
        if not hook.optional and _owner(hook) is None:
            lacks.append((f"{hook.owner}.{hook.name}" if hook.owner else hook.name, hook.makes))
    lost: dict[type, str] = {}
    for kind in kinds:
        for name, makes in lacks:
            if issubclass(kind, makes):
                lost.setdefault(kind, name)
    return lost


def install(context: Context) -> contextlib.ExitStack:
    """Install the hooks that make the events which the context wants; closing the returned stack undoes all of them.

    An installation that fails half way is undone before the error is raised.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(context.settings.close)
        for hook in HOOKS:
            wanted = context.wants(*hook.makes) and (context.sites or hook.name != "_new_runid")
            owner = _owner(hook) if wanted else None
            if owner is not None:
                stack.callback(patch(owner, hook.name, hook.make(context)))
        for listener in LISTENERS:
            if context.wants(*listener.makes):
                stack.callback(listen(Session, listener.name, listener.make(context), **listener.options))
        for follower in FOLLOWERS:
            if context.wants(*follower.makes):
                stack.callback(follower.install(context))
        return stack.pop_all()
    raise AssertionError("unreachable")


def _module(name: str) -> Any:
    try:
        if name.startswith("sqlalchemy.ext.asyncio"):
            importlib.import_module("greenlet")  # asyncio's modules refuse without it, but not a second time
        return importlib.import_module(name)
    except ImportError:
        return None


def _owner(hook: Hook) -> Any:
    """The object whose attribute is replaced; None where this SQLAlchemy, or greenlet, is without it."""
    module = _module(hook.module)
    owner = getattr(module, hook.owner, None) if hook.owner else module
    return owner if owner is not None and _takes_what_is_known(hook, getattr(owner, hook.name, None)) else None


def _takes_what_is_known(hook: Hook, target: Any) -> bool:
    """Whether it is there, with the parameters that its replacement passes on."""
    if target is None or not hook.takes:
        return target is not None
    taken = tuple(inspect.signature(target).parameters.values())[1:]
    open_ended = any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in taken)  # somebody else's wrapper
    return open_ended or ", ".join(one.name for one in taken) == hook.takes
