"""What an expression of audited code is, as far as sessions are concerned. None stands for "not known"."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .mapped import Model
    from .tree import Class, Function, Module


@dataclass(frozen=True, slots=True)
class Session:
    """A session. ``origin`` is the node that obtained it: two with the same origin are the same session."""

    asynchronous: bool
    origin: ast.AST | None = field(default=None, compare=False)
    how: str = "call"  # call, with, parameter, global, attribute, registry
    expires: bool | None = None  # at commit; None where not known
    begun: bool = False  # its block commits: maker.begin(), `with session.begin()`
    sure: bool = True  # False where only a name says so
    made: bool = False  # by a constructor, sessionmaker or registry that is seen
    source: Maker | Registry | Engine | None = field(default=None, compare=False)  # what made it
    provider: Function | None = field(default=None, compare=False)  # the function that handed it out


@dataclass(frozen=True, slots=True)
class Maker:
    """A sessionmaker or async_sessionmaker, or a class of sessions."""

    asynchronous: bool
    place: ast.AST | None = field(default=None, compare=False)
    expires: bool | None = None
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Registry:
    """A scoped_session, async_scoped_session or Flask-SQLAlchemy's ``db.session``."""

    asynchronous: bool
    place: ast.AST | None = field(default=None, compare=False)
    flask: bool = False


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine, sync or asyncio."""

    asynchronous: bool
    place: ast.AST | None = field(default=None, compare=False)
    autocommit: bool = False


@dataclass(frozen=True, slots=True)
class Connection:
    """A Core connection. ``begun``: it came from ``engine.begin()``."""

    asynchronous: bool
    origin: ast.AST | None = field(default=None, compare=False)
    begun: bool = False
    autocommit: bool = False
    owned: bool = False  # by a session


@dataclass(frozen=True, slots=True)
class Flask:
    """Flask-SQLAlchemy's ``db``."""


@dataclass(frozen=True, slots=True)
class Statement:
    """``select()``, ``insert()``, …, ``text()``. ``eager``: relationships that it loads; None where not known."""

    verb: str  # select, insert, update, delete, ddl, other, unknown
    model: Model | None = None
    eager: frozenset[str] | None = frozenset()
    narrowed: bool = False  # by a WHERE: it may match no row
    limit: int | None = None  # rows at most; 0 where the number is not written there


@dataclass(frozen=True, slots=True)
class Query:
    """``session.query(...)``."""

    session: Session | None
    statement: Statement


@dataclass(frozen=True, slots=True)
class Rows:
    """What ``execute()`` returned; ``scalars``: rows were turned into their first value."""

    session: Session | None
    statement: Statement
    scalars: bool = False


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance of a mapped class."""

    model: Model
    session: Session | None = field(default=None, compare=False)  # that loaded it
    eager: frozenset[str] | None = None  # relationships loaded with it; None where not known
    detached: bool = False
    expired: bool = False
    how: str = "loaded"  # loaded, new, parameter


@dataclass(frozen=True, slots=True)
class Many:
    """A collection, or anything that is looped over."""

    of: Value


@dataclass(frozen=True, slots=True)
class Pair:
    """A row or tuple of several values."""

    parts: tuple[Value | None, ...]


@dataclass(frozen=True, slots=True)
class Manager:
    """A context manager; ``of`` is what its block gets."""

    of: Value | None
    asynchronous: bool = False
    function: Function | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Stream:
    """A running generator, or an annotation that says so."""

    of: Value | None
    function: Function | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Later:
    """What has to be awaited."""

    of: Value | None


@dataclass(frozen=True, slots=True)
class Returning:
    """A callable that is not a function of the tree; ``of`` is what a call gives."""

    of: Value | None


@dataclass(frozen=True, slots=True)
class Method:
    """A method of one of the values above, not yet called."""

    owner: Value
    name: str


@dataclass(frozen=True, slots=True)
class FunctionValue:
    """A function of the tree; ``bound``: called as a method, so without its first parameter."""

    function: Function
    bound: bool = False


@dataclass(frozen=True, slots=True)
class ClassValue:
    """A class of the tree."""

    cls: Class


@dataclass(frozen=True, slots=True)
class Object:
    """An object of a class of the tree that is not mapped."""

    cls: Class


@dataclass(frozen=True, slots=True)
class ModuleValue:
    """A module of the tree."""

    module: Module


@dataclass(frozen=True, slots=True)
class External:
    """A name from outside of the tree, in full."""

    name: str


Value = (
    Session
    | Maker
    | Registry
    | Engine
    | Connection
    | Flask
    | Statement
    | Query
    | Rows
    | Instance
    | Many
    | Pair
    | Manager
    | Stream
    | Later
    | Returning
    | Method
    | FunctionValue
    | ClassValue
    | Object
    | ModuleValue
    | External
)
