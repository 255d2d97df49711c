"""Syntax trees, built where the program's own are not disturbed."""

from __future__ import annotations

import ast
import gc
import sys
from types import FrameType
from typing import Any

_FOR_A_TREE = "PyCF_ONLY_AST"  # what is named by whoever has the compiler build one, as `ast.parse` does


def parse(text: str | bytes, mode: str = "exec") -> Any:
    """A text's tree, None where it has none, or where it can't be asked for now.

    Python 3.11 builds one tree at a time in a process: where another one is begun meanwhile, by a thread or by what the
    collector calls, both fail with a SystemError (https://github.com/python/cpython/issues/106905). So none of ours is
    begun while the program builds one, and the collector waits until ours is there.
    """
    alone = sys.version_info < (3, 12)
    if alone and any(map(_is_parsing, sys._current_frames().values())):
        return None
    collects = alone and gc.isenabled()
    if collects:
        gc.disable()
    try:
        return compile(text, "<source>", mode, ast.PyCF_ONLY_AST, dont_inherit=True)
    except (SyntaxError, ValueError, SystemError):
        return None
    finally:
        if collects:
            gc.enable()


def _is_parsing(frame: FrameType | None) -> bool:
    while frame is not None:
        if _FOR_A_TREE in frame.f_code.co_names and frame.f_code is not parse.__code__:
            return True
        frame = frame.f_back
    return False
