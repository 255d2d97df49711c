"""Exceptions that can be pickled and copied, whatever other class they are of, and whatever they hold."""

from __future__ import annotations

from typing import Any


class Portable(Exception):  # noqa: N818 (its subclasses are the errors)
    """Base of our exceptions: `multiprocessing.Pool` waits forever for one that its parent can't unpickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, {name: _portable(value) for name, value in vars(self).items()})


def _restored(kind: type[Portable], args: tuple[Any, ...], state: dict[str, Any]) -> Portable:
    """Make the exception again, without ``__init__``: SQLAlchemy's classes take other arguments, and we watch some."""
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


def _portable(value: Any) -> Any:
    """``value``, or its text where it can't be pickled."""
    import pickle  # most programs never get here

    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return str(value)
    return value
