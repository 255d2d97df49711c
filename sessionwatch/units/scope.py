"""Units of work: a request, a task, a ``unit_of_work()`` block. Rules speak of "the end of its unit"."""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from typing import Any, Literal

from .decorating import F, decorate

__tracebackhide__ = True  # pytest: the story is in the message

Sessions = Literal["one", "many"]
Lodging = Literal["", "all", "registries"]
Name = Callable[..., "str | None"]  # asked when a finding needs the name, and when the unit ends

_numbers = itertools.count(1)
current: ContextVar[Unit | None] = ContextVar("sessionwatch_unit", default=None)
_listeners: list[Callable[[Unit], Exception | None]] = []
_reporters: list[Callable[[str], None]] = []
_enders: list[Callable[[bool], None]] = []
_answerers: list[Callable[[Unit], None]] = []
_lasting: dict[int, weakref.ref[FrameworkUnit]] = {}  # units of responses that nobody has closed, by id()
_taken = threading.local()  # the unit of a response that the thread has taken in full, and may close


class Starting:
    """A server that starts: the loop serves nobody yet. Tasks that are begun meanwhile share it."""

    over = False


starting: ContextVar[Starting | None] = ContextVar("sessionwatch_starting", default=None)


class Unit:
    """One unit of work that is under way. ``sessions="many"`` declares that it is not atomic.

    ``outer`` is the unit around it. ``request`` tells the request whose application is being called.
    ``answered``: an exception left the program's code in it, and the framework made an answer of it.
    ``lodges``: which of its sessions, as the framework's context, are those of something wider.
    """

    __slots__ = (
        "_asked",
        "_handler",
        "_name",
        "_records",
        "answer",
        "answered",
        "commits",
        "ended",
        "half",
        "late",
        "lodges",
        "number",
        "outer",
        "request",
        "sessions",
    )

    def __init__(self, name: str, sessions: Sessions = "one", outer: Unit | None = None) -> None:
        self._name = name
        self._asked: list[tuple[Name, Callable[..., Any] | None, tuple[Any, ...]]] = []
        self._handler: Any = None
        self.sessions = sessions
        self.outer = outer
        self.request: tuple[str, int] | None = None
        self.number = next(_numbers)
        self.ended = self.answered = False
        self.lodges: Lodging = ""
        self.half: Any = None  # a part that was rolled back while another one is stored: see hooks.commits
        self.commits: Any = ()  # of writes, for the rule split-unit-of-work: see hooks.commits
        self.answer = 0  # the status below 400 of a response that was sent in full
        self.late: dict[int, Any] = {}  # commits that failed after it, by the session's number: see hooks.answers
        self._records: list[weakref.ref[Any]] = []

    @property
    def name(self) -> str:
        """What is known of its name by now: a request's route is found long after the request began."""
        for namer, _, about in reversed(self._asked):
            try:
                name: str | None = namer(*about)
            except Exception:
                failed("a unit's name")
                continue
            if name is not None:
                return name
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        self._asked.clear()

    def ask(self, namer: Name, handler: Callable[..., Any] | None = None, *about: Any) -> None:
        """Let ``namer`` tell the name, and ``handler`` the function, as long as they return one; the newest first.

        Both are given what they are asked ``about``.
        """
        self._asked.append((namer, handler, about))

    @property
    def handler(self) -> Any:
        """The function of the program's that a framework runs this unit for, as the route's; None if not known."""
        for _, handler, about in reversed(self._asked):
            try:
                found = handler(*about) if handler is not None else None
            except Exception:
                failed("a unit's handler")
                continue
            if found is not None:
                return found
        return self._handler

    def opened(self, record: Any) -> None:
        """Note the record of a session that was opened in this unit."""
        self._records.append(weakref.ref(record))

    def sent(self, status: int) -> None:
        """The client has the response: what a session of the unit has written by now is promised."""
        if 0 < status < 400 and not self.answer:
            self.answer = status
            for listener in list(_answerers):
                listener(self)

    def records(self) -> list[Any]:
        """The records of its sessions that still exist."""
        return [record for reference in self._records if (record := reference()) is not None]

    def end(self) -> list[Exception]:
        """End it, and ask those who listen; what comes back is to be raised."""
        if self._asked:
            self._name = self.name
            if self._records:
                self._handler = self.handler  # only a finding asks
            self._asked.clear()  # what it was asked from belongs to the host
        self.commits = ()
        self.ended = True
        raised = []
        for listener in tuple(_listeners):
            error = listener(self)
            if error is not None:
                raised.append(error)
        return raised


class unit_of_work:  # noqa: N801 (reads as a verb in a with statement)
    """Declare a unit of work, as a ``with`` or ``async with`` block or as a decorator.

    Sessions that are opened inside and still hold a connection when it ends are a ``session-leak``;
    sessions that are used after it are a ``use-after-close``; changes to detached instances are
    reported when it ends. ``sessions="many"`` declares that several sessions may commit in it.

    Raises `sessionwatch.FindingError` at its end for findings of rules that are set to ``raise``,
    unless the block is left by an exception already.
    """

    def __init__(self, name: str, *, sessions: Sessions = "one") -> None:
        if sessions not in ("one", "many"):
            raise ValueError(f"sessions must be 'one' or 'many', not {sessions!r}")
        self.name = name
        self.sessions = sessions
        self._entered: list[tuple[Unit, Token[Unit | None]]] = []

    def __call__(self, function: F) -> F:
        return decorate(lambda: unit_of_work(self.name, sessions=self.sessions), function)

    def __enter__(self) -> Unit:
        unit = Unit(self.name, self.sessions, current_unit())
        self._entered.append((unit, current.set(unit)))
        return unit

    def __exit__(self, type_: object, value: BaseException | None, traceback: object) -> None:
        unit, token = self._entered.pop()
        leave(token)
        errors = unit.end()
        if errors and value is None:
            raise errors[0]

    async def __aenter__(self) -> Unit:
        return self.__enter__()

    async def __aexit__(self, type_: object, value: BaseException | None, traceback: object) -> None:
        self.__exit__(type_, value, traceback)


class FrameworkUnit:
    """A unit that a framework's adapter began: a context manager that may be entered again until its `end`.

    Nothing is raised out of it: the response may have been sent already, and a failure of ours leaves the
    host's call as it is. A request within the call of the same request (an application that is mounted in
    another one) is no unit of its own, and adds only its name.

    Args:
        kind: "request" or "task".
        name: of the unit, as long as ``namer`` has none.
        key: the protocol, and what is the same object in all calls of one request.
        handler: returns the function of the program's that answers, None where there is none yet.
        about: what both are given.
    """

    __slots__ = ("__weakref__", "_token", "unit")

    def __init__(
        self,
        kind: str,
        name: str,
        namer: Name | None = None,
        key: tuple[str, int] | None = None,
        sessions: Sessions = "one",
        handler: Callable[..., Any] | None = None,
        about: tuple[Any, ...] = (),
    ) -> None:
        self._token: Token[Unit | None] | None = None
        self.unit = begun(kind, name, namer, key, sessions, handler, about)

    def __enter__(self) -> None:
        if self.unit is not None:
            self._token = current.set(self.unit)

    def __exit__(self, *_: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            leave(token)

    def end(self) -> None:
        """End the unit; calling it again does nothing."""
        unit, self.unit = self.unit, None
        if unit is not None:
            _lasting.pop(id(self), None)
            over(unit)


def begun(
    kind: str,
    name: str,
    namer: Name | None = None,
    key: tuple[str, int] | None = None,
    sessions: Sessions = "one",
    handler: Callable[..., Any] | None = None,
    about: tuple[Any, ...] = (),
) -> Unit | None:
    """The unit that `FrameworkUnit` is about; None within the call of the same request."""
    try:
        around = current.get()
        if around is not None and around.ended:
            around = current_unit()
        serving = around.request if around is not None else None
        if around is not None and key and serving and (serving == key or serving[0] != key[0]):
            if namer is not None:
                around.ask(namer, handler, *about)
            return None
        unit = Unit(name, sessions, around)
        unit.request = key
        if namer is not None:
            unit.ask(namer, handler, *about)
        return unit
    except Exception:
        failed(f"the unit of a {kind}")
        return None


def over(unit: Unit, token: Token[Unit | None] | None = None) -> None:
    """End a framework's unit, and leave it by what entering it returned. Calling it again does nothing."""
    if token is not None:
        leave(token)
    try:
        if not unit.ended:
            unit.end()
    except Exception:
        failed("the end of a unit")


def lasts(unit: FrameworkUnit) -> None:
    """A unit goes on with a response, which some clients keep, or drop without a close."""
    _lasting[id(unit)] = weakref.ref(unit)


def taken(unit: FrameworkUnit) -> None:
    """A response was taken in full: a server closes it next."""
    _taken.unit = weakref.ref(unit)


def end_taken(everywhere: bool = False) -> None:
    """End the unit of a response that this thread has taken and not closed; ``everywhere``: all that go on."""
    last = _taken.__dict__.pop("unit", None)
    for reference in list(_lasting.values()) if everywhere else [last]:
        unit = reference() if reference is not None else None
        if unit is not None:
            unit.end()


def current_unit() -> Unit | None:
    """The unit of work that the current context is in. One that has ended is not current any more.

    A task that outlives its unit is in the unit around that one, if there is any.
    """
    unit = current.get()
    while unit is not None and unit.ended:
        unit = unit.outer
    return unit


def answers() -> None:
    """A framework makes an answer of an exception that left the program's code in the current unit."""
    unit = current_unit()
    if unit is not None:
        unit.answered = True


def leave(token: Token[Unit | None]) -> None:
    """Make the one before it the current one. Where that is done already, nothing happens."""
    try:  # not by suppress(), which is three calls
        current.reset(token)
    except (ValueError, RuntimeError):
        return  # left in another context than it was entered in, or twice


@contextlib.contextmanager
def on_unit_end(
    listener: Callable[[Unit], Exception | None], reporter: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Call ``listener`` at the end of each unit, for as long as the block lasts.

    ``reporter`` is told, while an exception is handled, what of ours has failed with it.
    """
    reporters = [reporter] if reporter is not None else []
    _listeners.append(listener)
    _reporters.extend(reporters)
    try:
        yield
    finally:
        _listeners.remove(listener)
        for told in reporters:
            _reporters.remove(told)


@contextlib.contextmanager
def on_answer(listener: Callable[[Unit], None]) -> Iterator[None]:
    """Call ``listener`` when a request's response has been sent, for as long as the block lasts."""
    _answerers.append(listener)
    try:
        yield
    finally:
        _answerers.remove(listener)


def are_answers_heard() -> bool:
    """Whether anybody wants to know when a response has been sent."""
    return bool(_answerers)


@contextlib.contextmanager
def on_process_end(listener: Callable[[bool], None]) -> Iterator[None]:
    """Call ``listener`` where a framework ends a process without Python's exit, for as long as the block lasts.

    It is told whether the process is over: where it is not, the framework itself has ended, and the process may go on.
    """
    _enders.append(listener)
    try:
        yield
    finally:
        _enders.remove(listener)


def process_ends(over: bool) -> None:
    """A framework has ended, and maybe the process with it. Never raises."""
    for listener in list(_enders):
        try:
            listener(over)
        except Exception:
            failed("the end of the process")


def failed(what: str) -> None:
    """Report the error of ours that is being handled to whoever is installed; the host program goes on."""
    for reporter in list(_reporters):
        reporter(what)
