"""An instance that is handed to a thread, a task, a process or a message."""

from __future__ import annotations

from collections.abc import Iterator

from ...rules import boundary
from ..values import Instance, Many, Value
from ._base import Hit, Pattern, Scope
from ._concurrent import launches, parts, waits

_WHERE = {"thread": "a thread", "task": "a task", "process": "another process", "message": "a message"}


def find(scope: Scope) -> Iterator[Hit]:
    """Instances among the arguments of what runs elsewhere."""
    for launch in launches(scope):
        certain = launch.kind in ("message", "process")
        if launch.kind == "background" or (waits(scope, launch) and not certain):
            continue
        for node in (each for argument in launch.given for each in parts(argument)):
            instance = _instance(scope.value(node))
            if instance is not None and (certain or instance.session is not None or instance.how == "parameter"):
                yield Hit(launch.call.lineno, f"a {instance.model.name} is handed to {_WHERE[launch.kind]}", certain)
                break


def _instance(value: Value | None) -> Instance | None:
    value = value.of if isinstance(value, Many) else value
    return value if isinstance(value, Instance) else None


PATTERN = Pattern("sent-instance", "an instance handed to a thread, task, process or message", boundary.RULE, find)
