"""Boundaries that no instance of a mapped class may cross: the decorator and the assertion."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from ..frames import callsite
from ..model import Finding, FindingError, Options, RawSite, Site
from ..output.messages import render
from ..record.allowances import active_allowances, matching
from ..record.events import Crossed
from ..rules import boundary as rule
from .instances import find

if TYPE_CHECKING:
    from ..watch.watch import Watch

__tracebackhide__ = True  # pytest: the story is in the message
F = TypeVar("F", bound=Callable[..., Any])
_MOST = 50  # instances of one crossing that are counted


class InstanceError(FindingError, AssertionError):
    """`assert_no_instances` found instances; ``finding`` holds the finding."""


class _Declared(NamedTuple):
    """A function that was declared to be a boundary."""

    name: str
    site: Site | None
    signature: inspect.Signature | None
    receiver: bool  # whether its first argument is the object that it is a method of


def boundary(function: F) -> F:
    """Declare that no instance of a mapped class goes into ``function`` or comes out of it.

    Arguments are searched before each call, the result after it, with the containers and models that they
    consist of; the object that a method belongs to is not searched. What is found is a finding of the rule
    ``boundary``: where that is set to ``raise``, a `FindingError` is raised instead of the call, or instead
    of the result. Where sessionwatch is not installed, and where the rule is off, nothing is searched.

    Takes functions, coroutine functions and methods (below ``@classmethod`` and ``@staticmethod``). Raises
    TypeError for generator functions, whose values come later, and for anything else.
    """
    kind = type(function).__name__
    below = f": put it below @{kind}" if kind in ("classmethod", "staticmethod") else ""
    if below or not inspect.isfunction(inspect.unwrap(function)):
        raise TypeError(f"boundary takes a function, not a {kind}{below}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__qualname__} is a generator: mark the function that its values are given to")
    declared = _declared(function)

    def call(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(declared, args, kwargs, sys._getframe(1))
        result = function(*args, **kwargs)
        _check("result", declared, (("result", result),), sys._getframe(1))
        return result

    async def call_coroutine(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(declared, args, kwargs, sys._getframe(1))
        result = await function(*args, **kwargs)
        _check("result", declared, (("result", result),), sys._getframe(1))
        return result

    wrapper = call_coroutine if inspect.iscoroutinefunction(function) else call
    return cast(F, functools.wraps(function)(wrapper))


def assert_no_instances(value: object, name: str = "value") -> None:
    """Raise where ``value``, or what it consists of, is an instance of a mapped class.

    The error is an AssertionError and a `FindingError`; it names each instance by the expression that leads
    to it, beginning with ``name``, and says whether it is detached. It is raised in every mode and without
    an installation, too; where there is one, the finding is recorded as one of the rule ``boundary``, and
    `allow` covers it.
    """
    watch = _installed()
    event = _crossed("value", None, ((name, value),), sys._getframe(1), watch)
    if event is None:
        return
    (finding,) = rule.check(event, Options())
    error = watch.tracker.emit(event) if watch is not None else None
    if isinstance(error, FindingError):
        finding = error.finding
    elif _allowed(finding, watch):
        return
    finding.raised = True
    raise InstanceError(finding, render(finding))


def _allowed(finding: Finding, watch: Watch | None) -> bool:
    if watch is not None:
        return watch.covers(finding)
    return matching(rule.RULE.slug, active_allowances()) is not None


def _declared(function: Any) -> _Declared:
    inner = inspect.unwrap(function)
    code: CodeType = inner.__code__
    try:
        signature = inspect.signature(function)
    except ValueError:
        signature = None
    owner, _, name = function.__qualname__.rpartition(".")
    first = next(iter(signature.parameters), "") if signature is not None else ""
    method = bool(owner) and not owner.endswith("<locals>") and first in ("self", "cls", "mcs")
    return _Declared(name, RawSite(code, -1).resolve(), signature, method)


def _check_arguments(declared: _Declared, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> None:
    if _watching() is None:
        return
    try:
        assert declared.signature is not None
        given = list(declared.signature.bind(*args, **kwargs).arguments.items())
    except (AssertionError, TypeError):  # the call itself will say so
        given = [*((f"args[{index}]", value) for index, value in enumerate(args)), *kwargs.items()]
    _check("argument", declared, given[1:] if declared.receiver else given, frame)


def _check(
    how: Literal["argument", "result"], declared: _Declared, values: Iterable[tuple[str, Any]], frame: FrameType
) -> None:
    """Report what crosses; raise where the rule says so."""
    watch = _watching()
    if watch is None:
        return
    error = None
    try:
        event = _crossed(how, declared, values, frame, watch)
        error = watch.tracker.emit(event) if event is not None else None
    except Exception:
        watch.tracker.failed("a crossing")
    if error is not None:
        raise error


def _crossed(
    how: Literal["argument", "result", "value"],
    declared: _Declared | None,
    values: Iterable[tuple[str, Any]],
    frame: FrameType,
    watch: Watch | None,
) -> Crossed | None:
    found = list(islice((item for name, value in values for item in find(name, value)), _MOST))
    if not found:
        return None
    return Crossed(
        how=how,
        function=declared.name if declared is not None else "",
        declared=declared.site if declared is not None else None,
        mark=callsite.mark(frame),
        places=tuple((item.path, item.model, item.state) for item in found),
        ownership=watch.owner_of(found[0].instance) if watch is not None else None,
    )


def _watching() -> Watch | None:
    """The installation, where the rule is on."""
    watch = _installed()
    return watch if watch is not None and watch.config.levels[rule.RULE.slug] != "off" else None


def _installed() -> Watch | None:
    module = sys.modules.get("sessionwatch.watch.installation")  # not imported: then nothing is installed
    return module.current() if module is not None else None
