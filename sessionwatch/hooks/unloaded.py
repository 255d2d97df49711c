"""What an attribute that is not loaded is, and the way from the query to it. Shared by the hooks of reads and loads."""

from __future__ import annotations

import ast
import itertools
import linecache
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from ..frames import callsite
from ..model import by_instruction
from ..record.parts import Step
from ..syntax import parse
from .ownership import described, owner
from .reading import read

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState

    from ..record.tracker import Tracker

_LONGEST_PATH = 4  # steps; a longer one is no option that anybody would write


def facts(tracker: Tracker, state: InstanceState[Any], key: str, frame: FrameType) -> dict[str, Any]:
    """The fields of an `UnloadedRead` of one attribute."""
    steps, recursive = _path(state, key)
    held = owner(tracker, state)
    return {
        "model": state.class_.__name__,
        "attribute": key,
        "mark": callsite.mark(frame),
        "ownership": described(tracker, state, held, key),
        "record": held[0],
        "kind": kind_of(state, key),
        "base": _base(state, key),
        "path": steps,
        "recursive": recursive,
        "queried": bool(state.load_path.path),
        "by_get": _by_get(tracker, state, held[0]),
    }


def _by_get(tracker: Tracker, state: InstanceState[Any], record: Any) -> bool:
    """Whether the query that an instance goes back to was a call of ``get()`` or ``get_one()``."""
    run = read.run(state)
    place = tracker.ledger.load_site(record.roots.get(run, run) if record is not None else run)
    return place is not None and _gets(*place)


@by_instruction
def _gets(code: CodeType, lasti: int) -> bool:
    """Whether an instruction calls, or awaits, a ``get()`` that takes loader options; no where the source is missing.

    The legacy ``Query.get()`` does not.
    """
    first, last, begin, end = next(itertools.islice(code.co_positions(), max(lasti, 0) // 2, None), (None,) * 4)
    if first is None or last is None or begin is None or end is None:
        return False
    lines = [line.encode() for line in linecache.getlines(code.co_filename)[first - 1 : last]]  # columns are of bytes
    if len(lines) != last - first + 1:
        return False
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][begin:]
    expression = parse(b"(" + b"".join(lines) + b")", "eval")
    if expression is None:  # the file is another one by now
        return False
    called = expression.body
    if isinstance(called, ast.Await):
        called = called.value
    if not isinstance(called, ast.Call) or not isinstance(called.func, ast.Attribute):
        return False
    return called.func.attr in ("get", "get_one") and "query" not in ast.unparse(called.func.value)


def kind_of(state: InstanceState[Any], key: str) -> Any:
    """What was not there: a relationship or collection, or why a column was not loaded."""
    prop = state.mapper.attrs.get(key)
    if hasattr(prop, "direction"):
        return _kind_of_relationship(prop)
    if key in state.expired_attributes and state.expired:
        return "expired"
    if getattr(prop, "deferred", False):
        return "deferred"
    if _base(state, key):
        return "inherited"  # the query asked for the parent class
    return "expired" if key in state.expired_attributes else "unloaded"


def _kind_of_relationship(prop: Any) -> Any:
    return "collection" if prop.uselist else "relationship"


def _entity(state: Any) -> Any:
    """The mapper that the query, or the relationship that led here, asked for."""
    path = state.load_path.path
    return path[-1].mapper if path else state.mapper


def _base(state: InstanceState[Any], key: str) -> str:
    """The class that was asked for, where only its subclass has the attribute; else an empty string."""
    entity = _entity(state)
    if not state.load_path.path and entity.inherits is not None:
        entity = entity.inherits
    return "" if key in entity.attrs else str(entity.class_.__name__)


def _path(state: Any, key: str) -> tuple[tuple[Step, ...], bool]:
    """The steps from the query's class to the attribute; whether they are one step over and over, as in a tree."""
    entity = _entity(state)
    owner = entity if key in entity.attrs else state.mapper
    last = Step(owner.class_.__name__, key, kind_of(state, key))
    before = [prop for prop in state.load_path.path[1::2] if hasattr(prop, "direction")]
    steps = [Step(prop.parent.class_.__name__, prop.key, _kind_of_relationship(prop)) for prop in before]
    if before and all(prop.key == key and prop.parent.isa(owner.base_mapper) for prop in before):
        return (last,), True
    return ((*steps, last) if len(steps) < _LONGEST_PATH else (last,)), False
