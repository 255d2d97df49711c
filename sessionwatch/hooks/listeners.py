"""Listeners that may come and go while other threads are inside the event.

SQLAlchemy keeps the listeners of a class in a deque and iterates over it while they run; ``event.listen()`` and
``event.remove()`` change that deque, and an iteration that another thread has under way then raises in its caller.
So the change is made to a copy, which takes the place of the deque afterwards; who iterates goes on with the old one.

Private, because nothing public changes them otherwise. Where a release has other names, the public functions alone do
it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.event import registry

from .reading import read


def listen(target: Any, name: str, function: Callable[..., Any], **options: Any) -> Callable[[], None]:
    """Listen to a SQLAlchemy event; returns the undo, which minds that a program may have removed every listener."""
    with _apart(target, name):
        event.listen(target, name, function, **options)

    def undo() -> None:
        if event.contains(target, name, function):
            with _apart(target, name):
                event.remove(target, name, function)

    return undo


@contextmanager
def _apart(target: Any, name: str) -> Iterator[None]:
    """What the block changes of the listeners of a class, others see at its end."""
    try:
        level = getattr(target.dispatch, name)
        before = dict(read.levels(level))
        readers = list(_readers(target.dispatch, level, name))
    except (AttributeError, TypeError):  # another release, or a mapped class, whose listeners are elsewhere
        yield
        return
    copies = {id(listeners): deque(listeners) for listeners in before.values() if type(listeners) is deque}
    for cls, listeners in before.items():
        read.levels(level)[cls] = copies.get(id(listeners), listeners)
    try:
        yield
    finally:
        for reader in readers:
            reader.parent_listeners = copies.get(id(reader.parent_listeners), reader.parent_listeners)


def _readers(dispatch: Any, level: Any, name: str) -> Iterator[Any]:
    """Who keeps one of the deques: one object for each class, and one for each instance with listeners of its own."""
    for by_name in list(read.by_class(dispatch).values()):
        reader = by_name.get(name)
        if reader is not None and reader.parent is level:
            yield reader
    references: list[weakref.ref[Any]] = list(read.by_instance(registry))
    for reference in references:
        collection = reference()
        if getattr(collection, "parent", None) is level:
            yield collection
