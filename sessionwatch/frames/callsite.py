"""The user's frame: where in the user's own code something happened, taken cheaply.

A frame walk keeps the code object and the instruction's offset; what kind of code a code object is
gets looked up once, and files that are passed through as a whole are told by their name. Lines are
resolved only for findings. The walk goes on across greenlet switches,
which is where the user's frames are under ``sqlalchemy.ext.asyncio``, and stops at an event loop or a
server's accept loop: whoever started the server did not call the handler.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from threading import get_ident
from types import CodeType, FrameType, SimpleNamespace
from typing import Any, Protocol, TypeVar

from ..model import Mark, RawSite

USER, LIBRARY, THROUGH, STOP = range(4)

_MEMO_LIMIT = 50_000  # code objects; a program that generates code without end must not fill memory
_kinds: dict[int, int] = {}  # by id(): code objects of two files may be equal, and hashing one reads all of it
_codes: dict[int, CodeType] = {}  # the same ids: keeps each one from being given to another code object
_passed: set[str] = set()  # files all of whose code is THROUGH: told without a look at the code
_users: set[str] = set()  # the same of the user's
_source: tuple[str, ...] = ()

_T = TypeVar("_T", bound=tuple[Any, ...])


class _New(Protocol):
    def __call__(self, kind: type[_T], values: tuple[Any, ...], /) -> _T: ...


_new: _New = tuple.__new__  # of a NamedTuple: without the Python function that its class puts around it
_threads: dict[int, Any] = threading._active  # type: ignore[attr-defined]  # no public look-up by number


class _Here(threading.local):
    """The current thread. Each session asks twice, and the look-up by number is dearer than this one."""

    def __init__(self) -> None:
        # one that Python did not start has a stand-in: no dummy is registered for it
        self.thread: Any = _threads.get(get_ident()) or SimpleNamespace(_name=f"thread-{get_ident()}")


_here = _Here()

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_DEMO = os.path.join(_HERE, "demo") + os.sep
_STDLIB = tuple(
    {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")}
    | {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")}
)
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_TRANSPARENT = tuple(f"{os.sep}{name}{os.sep}" for name in ("sqlalchemy", "greenlet", "wrapt"))
_LOOPS = (
    (os.path.join("asyncio", "events.py"), "_run"),
    (os.path.join("asyncio", "base_events.py"), "run_forever"),
    (os.path.join("asyncio", "base_events.py"), "run_until_complete"),
    (os.path.join("asyncio", "runners.py"), "run"),
    ("socketserver.py", "serve_forever"),
)
_NOWHERE: tuple[CodeType | None, int] = (None, -1)
_running_loop: Any = None  # asyncio's function, once asyncio is there: most marks are taken outside of any loop
_current_task: Any = None  # the same
_tasks: dict[Any, Any] = {}  # by loop; asyncio's own, where it has one
_LOOP_FILES = tuple({ending for ending, _ in _LOOPS})
_GENERATED = "<sqlalchemy generated "  # how it names the functions that it writes around its own, since 2.1


# A `Mark` that nobody has looked at yet, in a plain tuple: code and offset of its place, thread and task. Nearly all
# of them are never looked at, and a NamedTuple is far dearer to make.
Raw = tuple[CodeType | None, int, str, str | None]

# Codes to look out for: so many that each can be looked for by itself, which is cheaper than to ask a collection.
Wanted = tuple[CodeType | None, CodeType | None, CodeType | None, CodeType | None]
NONE: Wanted = (None, None, None, None)

# Who called into SQLAlchemy. A plain tuple for the same reason:
# - the mark of the user's place;
# - whether the direct caller is a library other than SQLAlchemy and the standard library;
# - the user's code if it is a generator's, else None;
# - the index into the codes that were asked for, -1 if none of them was on the way.
Caller = tuple[Raw, bool, CodeType | None, int]


def treat_as_user(folders: tuple[str, ...]) -> None:
    """Count files below these folders as the user's own code, wherever they are installed."""
    global _source
    _source = tuple(folder.rstrip(os.sep) + os.sep for folder in folders)
    _forget()


def kind_of(frame: FrameType) -> int:
    """USER, LIBRARY (installed packages), THROUGH (SQLAlchemy, us, standard library) or STOP (a loop)."""
    code = frame.f_code
    kind = _kinds.get(id(code))
    if kind is None:
        if len(_kinds) >= _MEMO_LIMIT:
            _forget()
        kind = _classify(code, frame.f_globals)
        _codes[id(code)] = code
        _kinds[id(code)] = kind
        path = code.co_filename
        if (not path.startswith("<") and not path.endswith(_LOOP_FILES)) or path.startswith(_GENERATED):
            if kind == THROUGH:
                _passed.add(path)
            elif kind == USER and path.endswith(".py"):  # not a template's
                _users.add(path)
    return kind


def _forget() -> None:
    _kinds.clear()
    _codes.clear()
    _passed.clear()
    _users.clear()


def site(frame: FrameType | None) -> RawSite | None:
    """The innermost place in the user's code at or outside ``frame``; a library's if there is none.

    None when no Python code but SQLAlchemy's and the standard library's is on the stack.
    """
    passed = _passed
    fallback: RawSite | None = None
    current: Any = None
    while True:
        try:
            while True:
                # nothing else for each of the frames between a cursor and the user
                while (path := frame.f_code.co_filename) in passed:  # type: ignore[union-attr]
                    frame = frame.f_back  # type: ignore[union-attr]
                code = frame.f_code  # type: ignore[union-attr]
                kind = USER if path in _users else kind_of(frame)  # type: ignore[arg-type]
                if kind == USER:
                    return _new(RawSite, (code, frame.f_lasti))  # type: ignore[union-attr]
                if kind == STOP:
                    return fallback
                if kind == LIBRARY and fallback is None:
                    fallback = RawSite(code, frame.f_lasti)  # type: ignore[union-attr]
                frame = frame.f_back  # type: ignore[union-attr]
        except AttributeError:  # the outermost one's f_back is None
            current, frame = outer_greenlet(current)
            if frame is None:
                return fallback


def mark(frame: FrameType | None) -> Mark:
    """`site` plus the names of the current thread and task."""
    return marked(site(frame))


def marked(place: RawSite | None) -> Mark:
    """The same of a place that was taken already, by the current thread and task."""
    task = None if _running_loop is not None and _running_loop() is None else task_name()  # as `_by`
    return _new(Mark, (place, _here.thread._name, task))


def raw(frame: FrameType) -> Raw:
    """The same as `mark`, for `looked_at`."""
    code = frame.f_code
    if code.co_filename in _users:  # the usual case; as `_by`, without its call
        task = None if _running_loop is not None and _running_loop() is None else task_name()
        return code, frame.f_lasti, _here.thread._name, task
    return _by(*(site(frame) or _NOWHERE))


def looked_at(raw: Raw) -> Mark:
    """The mark that a plain tuple stands for."""
    code, lasti, thread, task = raw
    return _new(Mark, (_new(RawSite, (code, lasti)) if code is not None else None, thread, task))


def _by(code: CodeType | None, lasti: int) -> Raw:
    """A place, with the names of the current thread and task."""
    task = None if _running_loop is not None and _running_loop() is None else task_name()
    return code, lasti, _here.thread._name, task


def caller(frame: FrameType | None, wanted: Wanted = NONE) -> Caller:
    """Like `raw`, and says what lies between: a framework, a generator, one of the ``wanted`` codes."""
    users, passed = _users, _passed
    first, second, third, fourth = wanted
    fallback: RawSite | None = None
    seen, current = -1, None
    while True:
        while frame is not None:
            code = frame.f_code
            path = code.co_filename
            if path not in passed:
                kind = USER if path in users else kind_of(frame)
                if kind == USER:
                    generator = code if code.co_flags & 0x220 and not code.co_flags & 0x80 else None
                    task = None if _running_loop is not None and _running_loop() is None else task_name()  # as `_by`
                    return (code, frame.f_lasti, _here.thread._name, task), fallback is not None, generator, seen
                if kind == STOP:
                    break
                if kind == LIBRARY and fallback is None and code not in wanted:
                    fallback = RawSite(code, frame.f_lasti)
            if code is first or code is second or code is third or code is fourth:
                seen = max(seen, wanted.index(code))
            frame = frame.f_back
        else:
            current, frame = outer_greenlet(current)
            if frame is not None:
                continue
        return _by(*(fallback or _NOWHERE)), True, None, seen


def stack(frame: FrameType | None) -> Iterator[FrameType]:
    """Every frame at or outside ``frame``, which is the current thread's, across greenlet switches."""
    current = None
    while frame is not None:
        yield frame
        frame = frame.f_back
        if frame is None:
            current, frame = outer_greenlet(current)


def user_frames(frame: FrameType | None, limit: int) -> list[FrameType]:
    """The frames of the user's functions at and outside ``frame``, innermost first.

    They end where a library, a module's own code or an event loop called the outermost one.
    """
    users, passed = _users, _passed
    found: list[FrameType] = []
    current = None
    while True:
        while frame is not None:
            code = frame.f_code
            path = code.co_filename
            if path not in passed:
                kind = USER if path in users else kind_of(frame)
                if kind == USER:
                    if code.co_name == "<module>":
                        return found
                    found.append(frame)
                    if len(found) >= limit:
                        return found
                elif kind == STOP or (kind == LIBRARY and found):
                    return found
            frame = frame.f_back
        current, frame = outer_greenlet(current)
        if frame is None:
            return found


def users(frame: FrameType | None, limit: int) -> tuple[RawSite, ...]:
    """The places of the user's code at and outside ``frame``, innermost first, whatever lies between them."""
    found: list[RawSite] = []
    for outer in stack(frame):
        kind = kind_of(outer)
        if kind == STOP or len(found) >= limit:
            break
        if kind == USER:
            found.append(RawSite(outer.f_code, outer.f_lasti))
    return tuple(found)


def on_stack(frame: FrameType | None, code: CodeType) -> bool:
    """Whether ``code`` is running at or outside ``frame``, across greenlet switches."""
    return any(outer.f_code is code for outer in stack(frame))


def place_among(frames: Iterable[FrameType]) -> RawSite | None:
    """The first place in the user's code, of frames of any thread or task, the innermost first; a library's if none."""
    fallback: RawSite | None = None
    for frame in frames:
        kind = kind_of(frame)
        if kind == USER:
            return RawSite(frame.f_code, frame.f_lasti)
        if kind == STOP:
            break
        if kind == LIBRARY and fallback is None:
            fallback = RawSite(frame.f_code, frame.f_lasti)
    return fallback


def is_user(place: RawSite | None) -> bool:
    """Whether a captured place is the user's own code."""
    return place is not None and _kinds.get(id(place.code), USER) == USER


def is_users(code: CodeType, namespace: dict[str, Any]) -> bool:
    """Whether a function is the user's own code, whether or not it ran."""
    return _classify(code, namespace) == USER


def user_files() -> set[str]:
    """Source files of the user's code that were seen so far."""
    return {code.co_filename for code in list(_codes.values()) if _kinds.get(id(code)) == USER}


def thread_name() -> str:
    """The current thread's name, without registering a dummy for foreign threads."""
    name: str = _here.thread._name  # the property checks first what holds for every thread here
    return name


def task_name() -> str | None:
    """The running asyncio task's name, None outside of a task."""
    if _running_loop is None and not _meet_asyncio():
        return None
    loop = _running_loop()
    if loop is None:
        return None
    try:
        task = _tasks.get(loop)  # the usual case; what is public is a function of Python until 3.12
        if task is None:
            task = _current_task(loop)
        return task.get_name() if task is not None else None
    except (AttributeError, RuntimeError):  # the loop, or the task, is not asyncio's
        return None


def _meet_asyncio() -> bool:
    """Take its functions, once it is imported. Not imported here: `sessionwatch run` starts without it."""
    global _running_loop, _current_task, _tasks
    asyncio = sys.modules.get("asyncio")
    try:
        _current_task = asyncio.current_task  # type: ignore[union-attr]
        # Private: where a later release keeps its tasks elsewhere, nothing is found in here, and it is asked itself.
        _tasks = getattr(asyncio.tasks, "_current_tasks", {})  # type: ignore[union-attr]
        _running_loop = asyncio._get_running_loop  # type: ignore[union-attr]
    except AttributeError:  # not there, or half imported
        return False
    return True


def running_tasks() -> set[str]:
    """The names of the running loop's tasks that are not done; none outside of a loop."""
    asyncio = sys.modules.get("asyncio")
    try:
        return {task.get_name() for task in asyncio.all_tasks()} if asyncio is not None else set()
    except RuntimeError:
        return set()


def outer_greenlet(current: Any) -> tuple[Any, FrameType | None]:
    greenlet = sys.modules.get("greenlet")
    if greenlet is None:
        return None, None
    if current is None:
        try:
            current = greenlet.getcurrent()
        except AttributeError:  # half imported
            return None, None
    current = current.parent
    return current, (current.gr_frame if current is not None else None)


def _classify(code: CodeType, namespace: dict[str, Any]) -> int:
    path = code.co_filename
    if path.startswith("<"):
        return _classify_generated(path, namespace)
    if "__jinja_template__" in namespace:
        return LIBRARY  # a template: the place that matters is the line that rendered it
    path = os.path.abspath(path)
    for ending, name in _LOOPS:
        if path.endswith(ending) and code.co_name == name:
            return STOP
    if _source and path.startswith(_source):
        return USER
    if path.startswith(_HERE):
        return USER if path.startswith(_DEMO) else THROUGH
    if any(folder in path for folder in _PACKAGES):
        tail = path[max(path.rfind(folder) + len(folder) for folder in _PACKAGES if folder in path) - 1 :]
        return THROUGH if tail.startswith(_TRANSPARENT) else LIBRARY
    if path.startswith(_STDLIB):
        return THROUGH
    return THROUGH if str(namespace.get("__name__", "")).startswith("sqlalchemy.") else USER


def _classify_generated(path: str, namespace: dict[str, Any]) -> int:
    """Code without a file: a prompt, ``python -c`` and notebooks are the user's, generated methods are not."""
    name = str(namespace.get("__name__", ""))
    if path.startswith("<frozen") or name.partition(".")[0] in ("sqlalchemy", "sessionwatch"):
        return THROUGH
    if path.startswith(("<stdin", "<ipython", "<python-input", "<console")):
        return USER
    return THROUGH if "__file__" in namespace else USER
