"""Our own errors: they are counted, said once, and never reach the program."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress as suppress_all

from ..border import is_foreign
from ..saying import say


class Guard:
    """Whom errors of ours are told, by the name of the hook in which they arose."""

    def __init__(self) -> None:
        self.reraise = bool(os.environ.get("SESSIONWATCH_TESTING"))  # our own tests see our own errors
        self.discreet = False  # whether messages of exceptions, which may quote values, stay out of the log
        self.internal_errors: Counter[str] = Counter()

    @contextmanager
    def guarded(self, hook: str) -> Iterator[None]:
        """Keep an error of ours away from the host program. For slow paths; hot ones write it out."""
        try:
            yield
        except Exception:
            self.failed(hook)

    def failed(self, hook: str) -> None:
        """Count and log the exception that is being handled; raise it again under our own tests.

        And where it is none of ours: see `border`.
        """
        if is_foreign(sys.exception()):
            raise
        self.internal_errors[hook] += 1
        path = os.environ.get("SESSIONWATCH_INTERNAL_ERRORS")
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"--- {hook}\n{traceback.format_exc()}\n")
        if self.internal_errors[hook] == 1:
            with suppress_all(Exception):  # a handler of the program's may be what failed
                said = "sessionwatch failed in %s; the program is not affected"
                if self.discreet:
                    say(logging.ERROR, f"{said}%s", hook, _discreetly(sys.exception()))
                else:
                    say(logging.ERROR, said, hook, error=sys.exception())
        if self.reraise:
            raise


def _discreetly(error: BaseException | None) -> str:
    """Class and way of an exception; neither its message nor the text of the lines."""
    frames = traceback.extract_tb(error.__traceback__, 20) if error is not None else []
    way = "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    return f": {type(error).__name__}{way}"
