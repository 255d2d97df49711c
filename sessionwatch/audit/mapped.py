"""A mapped class of the tree, as far as it matters when its attributes are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tree import Class


@dataclass(frozen=True, slots=True)
class Relation:
    """A relationship. ``lazy``: it is loaded one parent at a time when it is first read."""

    name: str
    target: str | None
    many: bool
    lazy: bool
    by_attribute: bool = False  # lazy="dynamic" and the like: reading it gives no rows


@dataclass(eq=False, slots=True)
class Model:
    """A mapped class; compared by identity."""

    name: str
    cls: Class
    relations: dict[str, Relation] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    deferred: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
