"""Reads the private names of SQLAlchemy's, as `private` lists them.

By functions of `operator`, which cost hardly more than the attribute does in Python. Where a name is missing they find
nothing: the rules that need it are off, and what asks on behalf of another one says less and does not fail.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Mapper, Session

from ..record.key import KEY
from . import private as names

if TYPE_CHECKING:
    from ..record.life import SessionRecord
    from .private import Private

Reader = Callable[[Any], Any]


class _Everything:
    """Contains whatever is asked for: where sessions can't be looked up, each one may be alive."""

    def __contains__(self, number: object) -> bool:
        return True


class Read:
    """The functions that read them; what each finds where a name is missing is given first."""

    def __init__(self) -> None:
        self.missing: list[Private] = []
        self.settle([])  # an installation probes: importing us imports no more of SQLAlchemy than we name

    def settle(self, missing: list[Private]) -> None:
        """Make the functions, for a SQLAlchemy without the names that are ``missing``."""
        self.missing = missing

        def reader(otherwise: Any, make: Callable[..., Reader], *needed: Private) -> Reader:
            if any(name in missing for name in needed):
                return lambda _: otherwise
            return make(*(name.name for name in needed))

        self._of_sessions(reader)
        self._of_states(reader)
        self._of_statements(reader)
        self._of_listeners(reader)
        self._of_pools(reader)

    def _of_sessions(self, reader: Callable[..., Reader]) -> None:
        def unflushed(new: str, deleted: str, modified: str) -> Reader:
            return attrgetter(new, deleted, f"identity_map.{modified}")

        self.unflushed = reader(((), (), ()), unflushed, names.NEW, names.DELETED, names.MODIFIED)
        self.modified = reader((), lambda name: attrgetter(f"identity_map.{name}"), names.MODIFIED)
        self.deleted = reader((), attrgetter, names.DELETED)
        self.flushing = reader(False, attrgetter, names.FLUSHING)
        self.number = id if names.NUMBER in self.missing else attrgetter(names.NUMBER.name)
        self.close_state = reader(None, _kept_as, names.CLOSE_STATE)
        self.binds = reader(None, _kept_as, names.BINDS)
        self.connections = reader(
            {},
            lambda name, _: attrgetter(name),
            names.CONNECTIONS,
            names.ENTRY,  # of a transaction
        )
        self.written = reader(((), ()), attrgetter, names.ADDED, names.DIRTY)  # the same
        self.is_over = reader(False, methodcaller, names.IS_OVER)  # the same
        sessions = reader(None, _attribute, names.ALL_SESSIONS)(sys.modules[names.SESSIONS])
        self.sessions: Mapping[int, Any] = {} if sessions is None else sessions
        self.live: _Everything | dict[int, Any] = _Everything() if sessions is None else sessions.data

    def _of_states(self, reader: Callable[..., Reader]) -> None:
        self.instance_dict = reader(None, _kept_as, names.INSTANCE_DICT)
        self.kept = reader(None, _attribute, names.KEPT)  # the instance of a changed state
        self.unpickled = reader(None, _kept_as, names.UNPICKLED)
        self.run = reader(None, attrgetter, names.RUN)
        self.state = reader(None, _attribute, names.STATE_ATTRIBUTE)  # of an instance
        self.collection_key = reader(None, attrgetter, names.COLLECTION_KEY)
        self.parents = reader({}, attrgetter, names.PARENTS)  # of a mutable value
        self.refreshed = reader(None, _attribute, names.ONE_INSTANCE)  # of a query's load options
        registries = reader(None, _attribute, names.ALL_REGISTRIES)(sys.modules[names.MAPPERS])
        self.registries: Callable[[], Iterable[Any]] = registries or tuple
        self.between = frozenset(one for name in (names.EMIT_LAZYLOAD, *names.BETWEEN) for one in name.name.split("|"))
        self.between |= {"__call__", "get"}

    def _of_statements(self, reader: Callable[..., Reader]) -> None:
        self.autocommits = reader(False, methodcaller, names.AUTOCOMMITS)
        self.lent = reader(None, attrgetter, names.LENT)
        self.pooled = reader(None, _attribute, names.POOLED)
        self.may_begin = reader(True, attrgetter, names.MAY_BEGIN)
        self.asked_at_connect = reader(True, attrgetter, names.AT_CONNECT)
        self.has_events = reader(
            (True,),
            lambda own, engines: attrgetter(own, f"engine.{engines}"),
            names.HAS_EVENTS,
            names.ENGINE_HAS_EVENTS,
        )
        self.inserted = reader(None, _attribute, names.INSERTED)
        self.fetched = reader(None, _attribute, names.FETCHED)
        self.streams = reader(True, _attribute, names.STREAMS)
        self.values = reader((), _attribute, names.VALUES)
        self.prefixes = reader((), _attribute, names.PREFIXES)
        self.subject = reader(
            None, lambda name: lambda select: getattr(select, name).get("plugin_subject"), names.SUBJECT
        )
        self.locked = reader(None, attrgetter, names.LOCKED)
        self.buffer = reader((), attrgetter, names.BUFFER)

    def _of_listeners(self, reader: Callable[..., Reader]) -> None:
        self.levels = reader(None, attrgetter, names.LEVELS)
        self.by_class = reader(None, attrgetter, names.BY_CLASS)
        self.by_instance = reader(None, attrgetter, names.BY_INSTANCE)

    def _of_pools(self, reader: Callable[..., Reader]) -> None:
        self.pool = reader(None, attrgetter, names.POOL_OF)  # of its record of a connection
        self.dialect = reader(None, attrgetter, names.DIALECT)
        self.queue = reader((None, False), attrgetter, names.QUEUE, names.IS_ASYNC)
        self.waiting = reader((), _attribute, names.WAITING)
        self.waiting_async = reader(None, _kept_as, names.WAITING_ASYNC)
        self.overflow = reader(-1, attrgetter, names.OVERFLOW)  # without a limit
        self.threads = reader((), attrgetter, names.THREADS)
        self.only_one = reader(None, _kept_as, names.ONLY_ONE)


def _kept_as(name: str) -> Reader:
    """What an object's own dictionary holds under the name, or one of its alternatives; None without it."""
    spelled = name.split("|")
    if len(spelled) == 1:
        return lambda owner: owner.__dict__.get(name)
    return lambda owner: next((owner.__dict__[one] for one in spelled if one in owner.__dict__), None)


def _attribute(name: str) -> Reader:
    """The attribute; None without it, as some kinds of objects are."""
    return lambda owner: getattr(owner, name, None)


read = Read()


def entries(session: Any) -> set[Any]:
    """The connections of a session's transaction, each with its own one, whose commit it is, and who closes it."""
    root = session.get_transaction()
    return set(read.connections(root).values()) if root is not None else set()


def live_sessions() -> list[Any]:
    """Every session that exists. At one go: to iterate over the dictionary itself fails while others open sessions."""
    if isinstance(read.live, _Everything):
        return [found for found in gc.get_objects() if Session in type(found).__mro__]
    return [session for reference in list(read.live.values()) if (session := reference()) is not None]


def session_of(record: SessionRecord) -> Any:
    """The session that a record is of, if it has not gone; looked for, if need be. For rare questions."""
    found = read.sessions.get(record.session_id)
    if found is None and isinstance(read.live, _Everything):
        return next((one for one in live_sessions() if one.__dict__.get(KEY) is record), None)
    return found


def mappers() -> list[Mapper[Any]]:
    """Every mapper, without those of a registry that is just mapping a class: the collector runs there, too."""
    found: list[Mapper[Any]] = []
    for registry in read.registries():
        try:
            found += registry.mappers
        except InvalidRequestError:  # the class is not mapped yet
            continue
    return found


def waiting(pool: Any) -> Iterable[Any]:
    """The records of a QueuePool that nobody uses. What is public takes the lock of the queue."""
    queue, is_async = read.queue(pool)
    if not is_async:
        return read.waiting(queue) or ()
    made = read.waiting_async(queue)
    return getattr(made, names.ASYNCIO_QUEUE, ())


def name_of(engine: Any, pool: Any) -> str:
    """What the user called the pool, else host:port/database; never a user's name or a password."""
    given = getattr(pool, "logging_name", None)
    if given:
        return str(given)
    url = engine.url
    host, port, database = url.host or url.query.get("host"), url.port, url.database or ""
    if url.get_backend_name() == "sqlite":
        database = os.path.basename(database.partition("?")[0]) or ":memory:"
    host = ",".join(host) if isinstance(host, tuple) else host
    where = f"{host or url.get_backend_name()}{f':{port}' if port else ''}"
    return f"{where}/{database}" if database else where


def in_greenlet() -> bool:
    """Whether SQLAlchemy awaits in this greenlet. Its own function came after 2.0.22."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and type(greenlet.getcurrent()).__name__ == names.GREENLET.name
