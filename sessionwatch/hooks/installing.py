"""Installation of those hooks of a table that somebody needs, and what this SQLAlchemy lacks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from ..imports import watched
from . import private
from .patch import guarded, listen, patch
from .reading import read
from .shapes import ASYNCIO, completed, is_of_asyncio, waits

if TYPE_CHECKING:
    from .context import Context, Hook, Table


def import_all(table: Table) -> None:
    """Import every module that a hook may go into, where it is there; its package too, which may not be complete.

    And those that names are only read from. But for SQLAlchemy's asyncio, whose hooks wait for the program's import.
    """
    for name in dict.fromkeys(hook.place.spelled()[0] for hook in table.hooks):
        completed(name.rpartition(".")[0])
        completed(name)
    private.probe()


def missing(table: Table, kinds: Iterable[type]) -> dict[type, str]:
    """Those of some types of event, and of their parts, that can't be made with this SQLAlchemy: each with the first
    name that it lacks. From now on what is missing is not read either.
    """
    names = private.probe()
    read.settle(names)
    lacks: list[tuple[str, tuple[type, ...]]] = [(str(name), name.needs) for name in names]
    for hook in table.hooks:
        if not hook.optional and hook.place.owner() is None:
            lacks.append((str(hook.place), hook.makes))
    lost: dict[type, str] = {}
    for kind in kinds:
        for name, makes in lacks:
            if issubclass(kind, makes):
                lost.setdefault(kind, name)
    return lost


def install(table: Table, context: Context, arrives: Callable[[], None]) -> contextlib.ExitStack:
    """Install the hooks that make the events which the context wants; closing the returned stack undoes all of them.

    Those of SQLAlchemy's asyncio are installed when the program imports it, after ``arrives`` was called. An
    installation that fails half way is undone before the error is raised.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(context.makers.close)
        later: list[Hook] = []
        for hook in table.hooks:
            if context.wants(*hook.makes) and (context.sites or hook.place is not private.NEW_RUN):
                if is_of_asyncio(hook.place.where):
                    later.append(hook)
                else:
                    _put(hook, context, stack)
        for listener in table.listeners:
            if context.wants(*listener.makes):
                function = listener.make(context)
                if not listener.bordered:
                    function = guarded(function, context.tracker, listener.name)
                stack.callback(listen(Session, listener.name, function, **listener.options))
        for follower in table.followers:
            if context.wants(*follower.makes):
                stack.callback(follower.install(context))
        if later:
            stack.enter_context(_arrival(later, context, arrives))
        return stack.pop_all()
    raise AssertionError("unreachable")


def _put(hook: Hook, context: Context, stack: contextlib.ExitStack) -> None:
    owner = hook.place.owner()
    if owner is not None:
        stack.callback(patch(owner, hook.place.spelled()[2], hook.make(context)))


def _arrival(
    later: list[Hook], context: Context, arrives: Callable[[], None]
) -> contextlib.AbstractContextManager[object]:
    """Install what is left for ``later`` when SQLAlchemy's asyncio is there: each hook once."""
    waiting = waits(ASYNCIO)

    def arrived(name: str, is_active: object, stack: contextlib.ExitStack) -> None:
        if waiting:
            arrives()
        while later:
            _put(later.pop(0), context, stack)

    return watched({ASYNCIO}, arrived, lambda name: context.tracker.failed(f"the hooks of {name}"))
