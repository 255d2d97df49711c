"""Syntax trees, built where the program's own are not disturbed."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Callable
from functools import partial
from operator import call
from types import FrameType
from typing import Any

_ONE_AT_A_TIME = sys.version_info < (3, 11, 8)
_NO_FILE = "<source \ud800>"  # Python looks for an error's line in the file of that name, and threads run meanwhile
_FOR_A_TREE = "PyCF_ONLY_AST"  # what is named by whoever has the compiler build one, as `ast.parse` does


def parse(text: str | bytes, mode: str = "exec") -> Any:
    """A text's tree, None where it has none, or where it can't be asked for now.

    Python builds one tree at a time in a process before 3.11.8: where another one is begun meanwhile, by a thread or by
    what the collector calls, both fail with a SystemError (https://github.com/python/cpython/issues/106905). So none of
    ours is begun while the program builds one, and the collector waits until ours is there.
    """
    build = partial(compile, text, _NO_FILE, mode, ast.PyCF_ONLY_AST, dont_inherit=True)
    if _ONE_AT_A_TIME and any(map(_is_parsing, sys._current_frames().values())):
        return None
    try:
        return _uncollected(build) if _ONE_AT_A_TIME else build()
    except (SyntaxError, ValueError, SystemError):
        return None


def _uncollected(build: Callable[[], Any]) -> Any:
    """Call it while the collector is off, which nobody else can see.

    From the first step to the last one Python reaches no point at which it changes to another thread or runs a signal's
    handler, but for a warning of the compiler's that the program shows: the steps are called from C, and the last one
    is the next call of all. So whoever else switches the collector does it before or after, and it is left as it was.
    """
    steps = map(call, (gc.isenabled, gc.disable, build))
    done: list[Any] = []
    try:
        done += steps  # what came before a step that fails is kept
        return done[2]
    finally:
        if done[0]:
            gc.enable()


def _is_parsing(frame: FrameType | None) -> bool:
    while frame is not None:
        if _FOR_A_TREE in frame.f_code.co_names and frame.f_code is not parse.__code__:
            return True
        frame = frame.f_back
    return False
