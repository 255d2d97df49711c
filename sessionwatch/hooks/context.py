"""What hooks are made from, and the rows of the table: what is replaced, listened to or followed, for which events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..record.allowances import Allowance, active_allowances, matching
from ..record.events import Event
from .identities import Neighbours

if TYPE_CHECKING:
    from ..model import Limits
    from ..record.tracker import Tracker
    from ..record.watchdog import Watchdog
    from .attributes import PendingWrites
    from .connections import Connections
    from .loops import Loops
    from .makers import Makers
    from .pools import Pools
    from .shapes import Place
    from .sharing import Sharing

Kinds = tuple[type[Event], ...]


@dataclass(slots=True, eq=False, repr=False)
class Hook:
    """One attribute that is replaced. ``makes``: the types of event that can't be made without it, or their bases."""

    place: Place  # a private one is in the list of `private`
    makes: Kinds
    make: Callable[[Context], Callable[[Any], Any]]
    optional: bool = False  # absent in some supported versions or set-ups, or what it makes is seen without it, too


@dataclass(slots=True, eq=False, repr=False)
class Listener:
    """A listener on every session. Public, and free of cost for loaded objects."""

    name: str
    makes: Kinds
    make: Callable[[Context], Callable[..., None]]
    options: Mapping[str, Any] = field(default_factory=dict)
    bordered: bool = False  # has the border's handler inside: a function around it would cost each session


@dataclass(slots=True, eq=False, repr=False)
class Follower:
    """What installs by itself, and returns its undo."""

    makes: Kinds
    install: Callable[[Context], Callable[[], None]]


class Table(NamedTuple):
    """All that may be installed; see `table`."""

    hooks: tuple[Hook, ...]
    listeners: tuple[Listener, ...]
    followers: tuple[Follower, ...]


@dataclass(slots=True, eq=False, repr=False)
class Context:
    """What the hooks are made from."""

    tracker: Tracker
    pending: PendingWrites
    pools: Pools
    makers: Makers
    loops: Loops
    connections: Connections
    sharing: Sharing
    sites: bool  # whether places of loads and statements are worth their cost
    limits: Limits
    watchdog: Watchdog
    events: frozenset[type[Event]]  # what somebody wants to know of
    handlers: Mapping[type, tuple[str, ...]]  # the slugs of all rules, those that are off too, by what they handle
    neighbours: Neighbours = field(default_factory=Neighbours)

    def wants(self, *kinds: type[Event]) -> bool:
        """Whether somebody wants to know of an event of these types, or derived from them."""
        return any(issubclass(event, kinds) for event in self.events)

    def allowed(self, kind: type[Event]) -> Callable[[], Allowance | None]:
        """What tells whether an allowance covers the events of a type at the moment at which it is asked."""
        slugs = self.handlers.get(kind, ())

        def allowance() -> Allowance | None:
            covering = (matching(slug, active_allowances()) for slug in slugs)
            return next((found for found in covering if found is not None), None)

        return allowance
