"""A block around each call of a function, whatever kind of function it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

__tracebackhide__ = True  # pytest: the story is in the message
F = TypeVar("F", bound=Callable[..., Any])


def decorate(block: Callable[[], Any], function: F) -> F:
    """Run each call of ``function`` (plain, coroutine or generator function) in a new ``with block()``.

    Raises TypeError for async generator functions: put the ``with`` block inside of them.
    """
    if inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__qualname__} is an async generator: put the with block inside of it")

    async def run_coroutine(*args: Any, **kwargs: Any) -> Any:
        with block():
            return await function(*args, **kwargs)

    def run_generator(*args: Any, **kwargs: Any) -> Any:
        with block():
            return (yield from function(*args, **kwargs))

    def run(*args: Any, **kwargs: Any) -> Any:
        with block():
            return function(*args, **kwargs)

    wrapper: Callable[..., Any] = run
    if inspect.iscoroutinefunction(function):
        wrapper = run_coroutine
    elif inspect.isgeneratorfunction(function):
        wrapper = run_generator
    return cast(F, functools.wraps(function)(wrapper))
