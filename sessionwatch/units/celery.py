"""A Celery task is a unit of work, from before it runs until all handlers of ``task_postrun`` have run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .scope import FrameworkUnit, answers, failed, process_ends

__tracebackhide__ = True  # pytest: the story is in the message


def _quiet(handler: Callable[..., None]) -> Callable[..., None]:
    """Celery would log an error of ours as the program's."""

    def quiet(*args: Any, **kwargs: Any) -> None:
        try:
            handler(*args, **kwargs)
        except Exception:
            failed("a Celery task")

    return quiet


def connect(signals: Any) -> Callable[[], None]:
    """Listen to the module ``celery.signals``; returns the undo. Celery keeps errors of handlers from the task."""
    units: dict[str, FrameworkUnit] = {}

    def begin(task_id: str | None = None, task: Any = None, **_: Any) -> None:
        unit = units[str(task_id)] = FrameworkUnit("task", str(getattr(task, "name", task)))
        unit.__enter__()
        receivers = signals.task_postrun.receivers
        if receivers and receivers[-1][1] is not end:  # programs remove their sessions there: they come first
            signals.task_postrun.disconnect(end)
            signals.task_postrun.connect(end, weak=False)

    def end(task_id: str | None = None, **_: Any) -> None:
        unit = units.pop(str(task_id), None)
        if unit is not None:
            unit.__exit__()
            unit.end()

    def answered(**_: Any) -> None:
        answers()

    def worker_ends(**_: Any) -> None:
        process_ends(over=True)  # a prefork worker: `os._exit` comes next

    begin, end, answered, worker_ends = map(_quiet, (begin, end, answered, worker_ends))
    signals.task_prerun.connect(begin, weak=False)
    signals.task_postrun.connect(end, weak=False)
    signals.worker_process_shutdown.connect(worker_ends, weak=False)
    for signal in (signals.task_failure, signals.task_retry):
        signal.connect(answered, weak=False)

    def undo() -> None:
        signals.task_prerun.disconnect(begin)
        signals.task_postrun.disconnect(end)
        signals.worker_process_shutdown.disconnect(worker_ends)
        for signal in (signals.task_failure, signals.task_retry):
            signal.disconnect(answered)

    return undo
