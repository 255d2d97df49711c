"""Places in the program: taken cheaply, resolved to file and line only for findings; and how their paths are shown.

Standard library only.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")
_REMEMBERED = 4096  # instructions
_TYPED = ("<stdin>", "<console>")  # files of an interactive interpreter: each statement is line 1 of a new one
_numbers = itertools.count(1)
_COMPREHENSION = re.compile(r"\.?<(?:listcomp|setcomp|dictcomp|genexpr)>")
_modules: dict[str, str] = {}  # by file
_root: str | None = None  # the project's, while something is installed


class RawSite(NamedTuple):
    """A place in the program, as cheap to take as possible: the line is looked up only when asked for."""

    code: CodeType
    lasti: int  # offset of the instruction in ``code``, in bytes; -1 where unknown

    def resolve(self) -> Site:
        function = function_of(self.code)
        path = self.code.co_filename
        return Site(path, line_of(self.code, self.lasti), function, _statement(self.code, -1) if path in _TYPED else 0)


class Called(RawSite):
    """A place that was taken before there is a finding, with the user's frames around it, innermost first."""

    callers: tuple[RawSite, ...]

    def resolve(self) -> Site:
        return replace(super().resolve(), callers=self.callers)


class Mark(NamedTuple):
    """A place and who was there."""

    site: RawSite | None
    thread: str
    task: str | None


def called_by(place: RawSite, callers: tuple[RawSite, ...]) -> Called:
    """A place with the frames around it."""
    found = tuple.__new__(Called, place)
    found.callers = callers
    return found


def with_callers(mark: Mark, callers: tuple[RawSite, ...]) -> Mark:
    """A mark, with the frames around it that were kept elsewhere."""
    return mark._replace(site=called_by(mark.site, callers)) if callers and mark.site is not None else mark


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a source file. ``line`` counts from 1; ``function`` is the qualified name.

    ``callers``: the user's frames around it, where they were kept when it was taken.

    ``statement`` tells apart what was typed into an interactive interpreter, where lines can't; 0 elsewhere.
    """

    path: str
    line: int
    function: str
    statement: int = field(default=0, repr=False, compare=False)
    callers: tuple[RawSite, ...] = field(default=(), repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Site], tuple[str, int, str, int]]:
        return Site, (self.path, self.line, self.function, self.statement)  # code can't be pickled

    @property
    def shown_path(self) -> str:
        """The path relative to the working directory where it lies below it, else absolute."""
        return shown_path(self.path)

    @property
    def name(self) -> str:
        """File and function, as they are known by: the file as it is seen from the project's root."""
        return f"{self.project_path.replace(os.sep, '/')}\0{self.function.replace('<lambda>', '<module>')}"

    def as_json(self) -> dict[str, str | int]:
        return {"path": self.shown_path, "line": self.line, "function": self.function}

    @property
    def project_path(self) -> str:
        """The path relative to the project's root where it lies below it, else as it is shown."""
        return project_path(self.path)

    @property
    def full_function(self) -> str:
        """The function with its module in front, ``shop.orders.Cart.pay``; alone where no module has the file."""
        module = module_of(self.path)
        return f"{module}.{self.function}" if module else self.function

    def attributes(self) -> dict[str, str | int]:
        """By OpenTelemetry's names, https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/."""
        return {
            "code.file.path": exportable(self.path),
            "code.line.number": self.line,
            "code.function.name": exportable(self.full_function),
        }


def by_instruction(function: Callable[[CodeType, int], _T]) -> Callable[[CodeType, int], _T]:
    """Remember what a function says of an instruction. By the code's identity: those of two files may be equal."""
    known: dict[tuple[int, int], tuple[CodeType, _T]] = {}  # keeps the code, and so its id()

    @functools.wraps(function)
    def remembered(code: CodeType, lasti: int) -> _T:
        found = known.get((id(code), lasti))
        if found is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            found = known[id(code), lasti] = code, function(code, lasti)
        return found[1]

    return remembered


def function_of(code: CodeType) -> str:
    """The qualified name of the function that ``code`` is of, from the innermost function around it.

    A comprehension is a part of what is around it, as most are since Python 3.12 (PEP 709); so is a generator
    expression, and a lambda within a function. One that is in no function is named as it is.
    """
    name = code.co_qualname
    if name.endswith(">"):
        name = _COMPREHENSION.sub("", name).lstrip(".").replace(".<locals>.<lambda>", "").removesuffix(".<locals>")
    return name.rpartition("<locals>.")[2] or "<module>"


@by_instruction
def line_of(code: CodeType, lasti: int) -> int:
    """The line of an instruction; the function's first line where the offset is unknown."""
    if lasti >= 0:
        for start, end, line in code.co_lines():
            if start <= lasti < end and line is not None:
                return line
    return code.co_firstlineno


@by_instruction
def _statement(code: CodeType, _: int) -> int:
    """The number of a statement that was typed; the same one while its code is remembered."""
    return next(_numbers)


def module_of(path: str) -> str:
    """The name of the module that was imported from a file; empty where none was. Remembered: it looks at all of them.

    The program's own file is the module that ``-m`` was given, else ``__main__``.
    """
    known = _modules.get(path)
    if known is None:
        if len(_modules) >= _REMEMBERED:
            _modules.clear()
        known = _modules[path] = next((name for name, file in _imported() if file == path), "")
    return known


def _imported() -> Iterator[tuple[str, str]]:
    for name, module in list(sys.modules.items()):
        try:
            inside = object.__getattribute__(module, "__dict__")  # an attribute of a lazy one would import it
            file, spec = inside.get("__file__"), inside.get("__spec__")
        except Exception:  # a stand-in of any kind
            continue
        if isinstance(file, str):
            yield str(getattr(spec, "name", name)) if name == "__main__" else name, file


def exportable(value: object) -> str:
    """``value`` as a string that every exporter can encode: a file name may hold bytes that are no text."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def shown_path(path: str) -> str:
    """``path`` relative to the working directory where it lies below it, else absolute."""
    if path.startswith("<"):
        return path
    absolute = os.path.abspath(path)
    try:
        return _below(os.getcwd(), absolute) or absolute
    except OSError:  # the working directory was removed
        return absolute


def project_path(path: str) -> str:
    """``path`` relative to the project's root where it lies below it, else as `shown_path` has it."""
    if _root is None or path.startswith("<"):
        return shown_path(path)
    return _below(_root, os.path.abspath(path)) or shown_path(path)


def _below(folder: str, path: str) -> str | None:
    return os.path.relpath(path, folder) if path.startswith(folder.rstrip(os.sep) + os.sep) else None


@contextlib.contextmanager
def project_root(folder: str) -> Iterator[None]:
    """For the length of a block, fingerprints and the baseline name files as they are seen from ``folder``."""
    global _root
    before, _root = _root, os.path.abspath(folder)
    try:
        yield
    finally:
        _root = before


# -- files of tests -----------------------------------------------------------------------------------

_tests: tuple[str, ...] = ("test_*.py", "*_test.py")  # pytest's python_files


def is_test(path: str) -> bool:
    """Whether a file is one of tests: they play the caller, and do not count as one."""
    name = os.path.basename(path)
    shown = path.replace(os.sep, "/")
    return name == "conftest.py" or any(
        fnmatch.fnmatch(shown, f"*/{pattern.lstrip('/')}") if "/" in pattern else fnmatch.fnmatch(name, pattern)
        for pattern in _tests
    )


@contextlib.contextmanager
def test_files(patterns: Iterable[str]) -> Iterator[None]:
    """For the length of a block, these are the names of files of tests."""
    global _tests
    before, _tests = _tests, tuple(patterns)
    try:
        yield
    finally:
        _tests = before
