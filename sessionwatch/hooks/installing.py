"""Installation of those hooks of a table that somebody needs, and what this SQLAlchemy lacks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from . import private
from .patch import guarded, listen, patch
from .reading import read
from .shapes import module_of

if TYPE_CHECKING:
    from .context import Context, Table


def import_all(table: Table) -> None:
    """Import every module that a hook may go into, where it is there; its package too, which may not be complete.

    And those that names are only read from.
    """
    for name in dict.fromkeys(hook.place.spelled()[0] for hook in table.hooks):
        module_of(name.rpartition(".")[0])
        module_of(name)
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


def install(table: Table, context: Context) -> contextlib.ExitStack:
    """Install the hooks that make the events which the context wants; closing the returned stack undoes all of them.

    An installation that fails half way is undone before the error is raised.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(context.makers.close)
        for hook in table.hooks:
            wanted = context.wants(*hook.makes) and (context.sites or hook.place is not private.NEW_RUN)
            owner = hook.place.owner() if wanted else None
            if owner is not None:
                stack.callback(patch(owner, hook.place.spelled()[2], hook.make(context)))
        for listener in table.listeners:
            if context.wants(*listener.makes):
                function = listener.make(context)
                if not listener.bordered:
                    function = guarded(function, context.tracker, listener.name)
                stack.callback(listen(Session, listener.name, function, **listener.options))
        for follower in table.followers:
            if context.wants(*follower.makes):
                stack.callback(follower.install(context))
        return stack.pop_all()
    raise AssertionError("unreachable")
