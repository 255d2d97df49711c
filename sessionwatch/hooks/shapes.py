"""Whether SQLAlchemy has a name, and as what: looked up in its classes and in its functions' code.

Nothing is made and nothing is called, so that no wrapper of the program's is run and no listener hears of it.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

ASYNCIO = "sqlalchemy.ext.asyncio"
_WITH_IT = (ASYNCIO, "sqlalchemy.connectors.asyncio", "sqlalchemy.dialects.sqlite.aiosqlite")
_STORES = dis.opmap["STORE_ATTR"]
_known: set[tuple[str, str]] = set()  # what was found


@dataclass(slots=True, eq=False)
class Place:
    """An attribute of a module or a class, where each of both may have alternatives; see `has`."""

    where: str
    name: str
    takes: str = ""  # its parameters after ``self``; with others it is another thing

    def __str__(self) -> str:
        _, _, path = self.where.split("|")[0].partition(":")
        name = self.name.split("|")[0]
        return f"{path}.{name}" if path else name

    def spelled(self) -> tuple[str, str, str]:
        """Module, class (empty for the module itself) and name, as this SQLAlchemy spells them; else as the first."""
        every = [(place, name) for place in self.where.split("|") for name in self.name.split("|")]
        where, name = next((one for one in every if hasattr(_resolved(one[0]), one[1])), every[0])
        module, _, owner = where.partition(":")
        return module, owner, name

    def owner(self) -> Any:
        """What has it, with the parameters that are known; None where this SQLAlchemy, or greenlet, is without it."""
        module, owner, name = self.spelled()
        found = _resolved(f"{module}:{owner}")
        return found if _takes(getattr(found, name, None), self.takes) else None


def _takes(target: Any, known: str) -> bool:
    if target is None or not known:
        return target is not None
    try:
        taken = tuple(inspect.signature(target).parameters.values())[1:]
    except (TypeError, ValueError):  # a wrapper that says nothing of what it takes
        return True
    open_ended = any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in taken)  # somebody else's wrapper
    return open_ended or ", ".join(one.name for one in taken) == known


def has(where: str, name: str) -> bool:
    """Whether what ``where`` names has ``name``.

    ``where`` is ``module:Class.method``, each part of it, but the module, as needed; ``name`` is an attribute of a
    module or a class, a variable of a function (several with commas: next to each other, in this order), or the
    value of a constant. Both may have alternatives, with ``|`` between them.
    """
    if (where, name) in _known:
        return True
    found = any(_has(_resolved(place), one) for place in where.split("|") for one in name.split("|"))
    if found:
        _known.add((where, name))
    return found


def module_of(name: str) -> ModuleType | None:
    """The module, imported if need be; None where it, or what it needs, is not installed, and while it `waits`."""
    return sys.modules.get(name) or completed(name)


def completed(name: str) -> ModuleType | None:
    """The same, once whoever imports it at the moment has done so."""
    if waits(name):
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def is_of_asyncio(where: str) -> bool:
    """Whether a module, or what `has` is asked for, is of those that only programs with asyncio need."""
    return where.startswith(_WITH_IT)


def waits(where: str) -> bool:
    """Whether it is one that waits for the program to import SQLAlchemy's asyncio, and greenlet with it."""
    return is_of_asyncio(where) and ASYNCIO not in sys.modules


def _resolved(where: str) -> Any:
    module, _, path = where.partition(":")
    found: Any = module_of(module)
    for part in path.split(".") if path else ():
        found = getattr(found, part, None)
    return found


def _has(owner: Any, name: str) -> bool:
    if owner is None:
        return False
    if isinstance(owner, str):
        return owner == name
    if isinstance(owner, ModuleType):
        return hasattr(owner, name)
    if isinstance(owner, type):
        return any(name in vars(base) for base in owner.__mro__) or _is_set(owner, name)
    code = code_of(owner)
    if code is None:
        return False
    names = name.split(", ")
    known = code.co_varnames + code.co_names
    return any(list(known[at : at + len(names)]) == names for at in range(len(known)))


def code_of(function: Any) -> CodeType | None:
    """The code of a function, below whatever wraps it; None for one that is not written in Python."""
    try:
        function = inspect.unwrap(function)
    except ValueError:  # wrappers in a circle
        return None
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _is_set(owner: type, name: str) -> bool:
    """Whether a method of the class sets the attribute, on ``self``."""
    return any(_sets(code, name) for base in owner.__mro__ for code in _codes(base))


def _codes(owner: type) -> Iterator[CodeType]:
    for function in list(vars(owner).values()):
        code = code_of(getattr(function, "__func__", getattr(function, "fget", function)))
        if code is not None:
            yield code


def _sets(code: CodeType, name: str) -> bool:
    if name not in code.co_names:
        return False
    if bytes((_STORES, code.co_names.index(name) & 0xFF)) not in code.co_code:  # to take it apart is dear
        return False
    for before, now in itertools.pairwise(dis.get_instructions(code)):
        if now.opname == "STORE_ATTR" and now.argval == name:
            loaded = (
                before.argval[-1] if isinstance(before.argval, tuple) else before.argval
            )  # of two in one, since 3.13
            if loaded == "self":
                return True
    return False
