"""SQLAlchemy -> events. The only package that knows SQLAlchemy; `HOOKS` is the table of what it touches."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.orm import Session, loading, strategies, writeonly
from sqlalchemy.orm.exc import DetachedInstanceError

from ..model import Finding, FindingError
from ..record.tracker import Tracker
from ..record.watchdog import Watchdog
from . import (
    aio,
    changes,
    closing,
    crossing,
    failures,
    forks,
    holding,
    implicit,
    loads,
    mutation,
    ownership,
    pools,
    reads,
    reattach,
    registries,
    sessions,
    settings,
    statements,
    transactions,
)
from .patch import listen, patch

logger = logging.getLogger("sessionwatch")

DETACHED = frozenset({"detached-access", "detached-touch", "detached-write"})
SESSIONS = frozenset({"lost-writes", "session-leak", "use-after-close", "long-session"})
LOADS = frozenset({"implicit-io", "n-plus-one"})
REATTACH = frozenset({"reattach"})
CROSS = frozenset({"cross-session"})
MUTATION = frozenset({"untracked-mutation"})
OWNED = DETACHED | REATTACH | CROSS | MUTATION  # those that ask where an instance came from
# Seen around each statement, by the session's record.
STATEMENTS = frozenset({"cross-task", "blocking-io", "swallowed-error", "cross-process"})
SPLIT = frozenset({"split-unit-of-work"})
# And the counters of telemetry.
EVERY = DETACHED | SESSIONS | LOADS | REATTACH | CROSS | MUTATION | STATEMENTS | SPLIT


class DetachedFindingError(FindingError, DetachedInstanceError):
    """A finding of ``detached-access`` or ``detached-touch``; SQLAlchemy's error as well."""

    def __init__(self, finding: Finding, story: str = "") -> None:
        super().__init__(finding, story)
        self.code = None  # type: ignore[assignment]  # no link to SQLAlchemy's page: the story has its own


class ImplicitFindingError(FindingError, MissingGreenlet):
    """A finding of ``implicit-io``; SQLAlchemy's error as well."""


class StatementFindingError(FindingError, StatementError):
    """The same where SQLAlchemy wraps its error, as 2.1 does."""


@dataclass(slots=True, eq=False, repr=False)
class Hook:
    """One attribute that is replaced. ``needs``: the rules that can't work without it."""

    module: str
    owner: str  # a class in the module; empty for the module itself
    name: str
    needs: frozenset[str]
    make: Callable[[Context], Callable[[Any], Any]]
    optional: bool = False  # absent in some supported versions or set-ups: no rule is lost
    takes: str = ""  # the parameters after ``self``, where the replacement names them: with others it is not installed
    counted: bool = False  # telemetry counts with it, also where no rule needs it


@dataclass(slots=True, eq=False, repr=False)
class Event:
    """One listener on every session. Public, and free of cost a loaded object."""

    name: str
    needs: frozenset[str]
    make: Callable[[Context], Callable[..., None]]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False, repr=False)
class Follower:
    """What installs by itself, and returns its undo."""

    needs: frozenset[str]
    install: Callable[[Context], Callable[[], None]]
    counted: bool = False


@dataclass(slots=True, eq=False, repr=False)
class Context:
    """What the hooks are made from."""

    tracker: Tracker
    pending: changes.PendingWrites
    pools: pools.Pools
    settings: settings.Settings
    sites: bool  # whether places of loads and statements are worth their cost
    loads: int = 5  # queries for one parent at a time from one line that are too many
    rules: frozenset[str] = frozenset()  # those that are on
    crossing: crossing.Crossing = field(default_factory=crossing.Crossing)
    watchdog: Watchdog | None = None  # where a rule that is on needs it


ORM, AIO, ERRORS = "sqlalchemy.orm.session", "sqlalchemy.ext.asyncio.session", "sqlalchemy.exc"
REGISTRY = "sqlalchemy.util._collections"
POOL, CURSOR = "sqlalchemy.pool.base", "sqlalchemy.engine.cursor"
ENGINE, ATTRIBUTES, COLLECTIONS = "sqlalchemy.engine.base", "sqlalchemy.orm.attributes", "sqlalchemy.orm.collections"
COLLECTION_WRITER = "_AbstractCollectionWriter"  # with the underscore since 2.1
if not hasattr(writeonly, COLLECTION_WRITER):
    COLLECTION_WRITER = "AbstractCollectionWriter"
LAZY = "_LazyLoader" if hasattr(strategies, "_LazyLoader") else "LazyLoader"
BY_KEY = "_load_on_pk_identity" if hasattr(loading, "_load_on_pk_identity") else "load_on_pk_identity"
WRITES, ACCESS, TOUCH = frozenset({"detached-write"}), frozenset({"detached-access"}), frozenset({"detached-touch"})
LOST, LEAK, USE = frozenset({"lost-writes"}), frozenset({"session-leak"}), frozenset({"use-after-close"})
CONFIG = frozenset({"config"})
NONE: frozenset[str] = frozenset()
IMPLICIT, MANY = frozenset({"implicit-io"}), frozenset({"n-plus-one"})

FORKS = frozenset({"cross-process"})
TASKS, SWALLOWED = frozenset({"cross-task"}), frozenset({"swallowed-error"})
HELD = frozenset({"long-session", "session-leak"})  # rules that are checked while it happens


def _begin(context: Context) -> Callable[[Any], Any]:
    return sessions.patch_begin(context.tracker, context.crossing.began if context.rules & CROSS else None)


def _begun(context: Context) -> Callable[..., None]:
    watchdog = context.watchdog if context.rules & HELD else None
    return transactions.after_begin(context.tracker, context.rules, watchdog)


def _close(context: Context) -> Callable[[Any], Any]:
    return closing.patch_close(context.tracker)


def _expunge(context: Context) -> Callable[[Any], Any]:
    return ownership.patch_expunge(context.tracker)


def _deleted(context: Context) -> Callable[[Any], Any]:
    return ownership.patch_deleted(context.tracker)


def _execute(context: Context) -> Callable[[Any], Any]:
    return statements.patch_execute(context.tracker, context.sites, context.rules)


def _driver_error(context: Context) -> Callable[[Any], Any]:
    return statements.patch_error(context.tracker, context.rules)


def _refusal(context: Context) -> Callable[[Any], Any]:
    handlers = [statements.refusals(context.tracker, context.rules)] if context.rules & (TASKS | SWALLOWED) else []
    if context.rules & CROSS:
        handlers.append(crossing.refusals(context.tracker))
    return statements.patch_refusal(context.tracker, tuple(handlers))


def _lazy(context: Context) -> Callable[[Any], Any]:
    return loads.patch_lazy(context.tracker, context.loads if context.rules & MANY else 0)


def _by_key(context: Context) -> Callable[[Any], Any]:
    return loads.patch_by_key(context.tracker, context.loads if context.rules & MANY else 0)


def _connect(context: Context) -> Callable[[Any], Any]:
    return forks.patch_connect(context.tracker)


def _spawn(context: Context) -> Callable[[Any], Any]:
    return failures.patch_spawn(context.tracker)


def _missing(context: Context) -> Callable[[Any], Any]:
    return implicit.patch_missing(context.tracker, ImplicitFindingError)


def _wrapped(context: Context) -> Callable[[Any], Any]:
    return implicit.patch_wrapped(context.tracker, StatementFindingError)


def _merge(context: Context) -> Callable[[Any], Any]:
    return reattach.patch_merge(context.pending, context.tracker, "reattach" in context.rules)


def _fetch(context: Context) -> Callable[[Any], Any]:
    return holding.patch_fetch(context.tracker)


def _sync(session: Any) -> Any:
    return session.sync_session


def _async(scope: str | None, session_of: Callable[[Any], Any] = _sync) -> Callable[[Context], Callable[[Any], Any]]:
    return lambda context: aio.patch_leave(context.tracker, scope, session_of)


def _static(context: Context) -> Callable[[Any], Any]:
    return settings.patch_static(context.settings)


def _engine(context: Context) -> Callable[[Any], Any]:
    return settings.patch_engine_created(context.settings)


def _async_maker(context: Context) -> Callable[[Any], Any]:
    return settings.patch_made(context.settings, lambda maker: maker)


def _async_call(context: Context) -> Callable[[Any], Any]:
    return settings.patch_async_call(context.settings)


def _collection(verb: str, initiator: int) -> Callable[[Context], Callable[[Any], Any]]:
    return lambda context: changes.patch_collection(context.pending, verb, initiator)


def _writer(verb: str) -> Callable[[Context], Callable[[Any], Any]]:
    return lambda context: changes.patch_writer(context.pending, verb)


HOOKS: tuple[Hook, ...] = (
    Hook(ORM, "Session", "__init__", EVERY, lambda c: sessions.patch_init(c.tracker)),
    Hook(ORM, "Session", "_close_impl", EVERY, _close, takes="invalidate, is_reset"),
    Hook(ORM, "SessionTransaction", "__init__", EVERY, _begin, takes="session, origin, parent"),
    Hook(ORM, "Session", "__enter__", USE, lambda c: sessions.patch_enter(c.tracker)),
    Hook(REGISTRY, "ScopedRegistry", "__call__", USE | LEAK, lambda c: registries.patch_ask(c.tracker)),
    Hook(REGISTRY, "ThreadLocalRegistry", "__call__", USE | LEAK, lambda c: registries.patch_ask(c.tracker)),
    Hook(ORM, "Session", "add", LOST, lambda c: sessions.patch_add(c.tracker), takes="instance, _warn"),
    Hook(ORM, "Session", "expunge_all", DETACHED | REATTACH, lambda c: closing.patch_expunge_all(c.tracker)),
    Hook(ORM, "Session", "_expunge_states", DETACHED | REATTACH, _expunge, takes="states, to_transient"),
    Hook(ORM, "Session", "_remove_newly_deleted", DETACHED | REATTACH, _deleted, takes="states"),
    Hook(ORM, "Session", "_merge", WRITES | REATTACH, _merge),
    Hook(ORM, "Session", "_update_impl", REATTACH, lambda c: reattach.patch_update(c.tracker)),
    Hook(ORM, "SessionTransaction", "_prepare_impl", MUTATION, lambda c: mutation.patch_prepare(c.tracker)),
    Hook("sqlalchemy.orm.exc", "StaleDataError", "__init__", REATTACH, lambda c: reattach.patch_stale(c.tracker)),
    Hook(ENGINE, "Connection", "_exec_single_context", LOST | HELD | STATEMENTS | SPLIT, _execute, counted=True),
    Hook(ENGINE, "Connection", "_exec_insertmany_context", LOST | HELD | STATEMENTS | SPLIT, _execute, counted=True),
    Hook(ENGINE, "Engine", "raw_connection", NONE, lambda c: pools.patch_raw_connection(c.pools), counted=True),
    Hook(ENGINE, "Connection", "_handle_dbapi_exception", TASKS | SWALLOWED, _driver_error),
    Hook(ERRORS, "InvalidRequestError", "__init__", TASKS | SWALLOWED | CROSS, _refusal),
    Hook(POOL, "_ConnectionRecord", "_ConnectionRecord__connect", FORKS, _connect, optional=True),
    Hook(AIO, "", "greenlet_spawn", SWALLOWED, _spawn, optional=True),
    Hook("sqlalchemy.ext.asyncio.engine", "", "greenlet_spawn", SWALLOWED, _spawn, optional=True),
    Hook(ORM, "Session", "connection", HELD, lambda c: holding.patch_connection(c.tracker)),
    Hook(CURSOR, "CursorFetchStrategy", "fetchmany", HELD, _fetch, optional=True),
    Hook(CURSOR, "BufferedRowCursorFetchStrategy", "fetchmany", HELD, _fetch, optional=True),
    Hook(CURSOR, "BufferedRowCursorFetchStrategy", "_buffer_rows", HELD, _fetch, optional=True),
    Hook(ERRORS, "TimeoutError", "__init__", HELD, lambda c: holding.patch_timeout(c.tracker), optional=True),
    Hook(
        "sqlalchemy.orm.exc",
        "DetachedInstanceError",
        "__init__",
        ACCESS,
        lambda c: reads.patch_refusal(c.tracker, DetachedFindingError),
    ),
    Hook(ERRORS, "MissingGreenlet", "__init__", IMPLICIT, _missing),
    Hook(ERRORS, "StatementError", "__init__", IMPLICIT, _wrapped),
    Hook("sqlalchemy.orm.strategies", LAZY, "_emit_lazyload", MANY, _lazy, counted=True),
    Hook("sqlalchemy.orm.loading", "", BY_KEY, MANY, _by_key, counted=True),
    Hook(ORM, "Session", "expire", LOADS, lambda c: ownership.patch_expire(c.tracker)),
    Hook(ORM, "Session", "expire_all", LOADS, lambda c: ownership.patch_expire_all(c.tracker)),
    Hook("sqlalchemy.orm.loading", "", "_new_runid", OWNED | LOADS, lambda c: ownership.patch_runid(c.tracker)),
    Hook(ATTRIBUTES, "InstrumentedAttribute", "__get__", TOUCH, lambda c: reads.patch_get(c.tracker)),
    Hook(ATTRIBUTES, "InstrumentedAttribute", "__set__", WRITES, lambda c: changes.patch_set(c.pending)),
    Hook(ATTRIBUTES, "InstrumentedAttribute", "__delete__", WRITES, lambda c: changes.patch_delete(c.pending)),
    Hook(COLLECTIONS, "CollectionAdapter", "fire_append_event", WRITES, _collection("appended to", 1)),
    Hook(COLLECTIONS, "CollectionAdapter", "fire_remove_event", WRITES, _collection("removed from", 1)),
    Hook(COLLECTIONS, "CollectionAdapter", "fire_pre_remove_event", WRITES, _collection("removed from", 0)),
    Hook(writeonly.__name__, COLLECTION_WRITER, "_add_all_impl", WRITES, _writer("appended to"), optional=True),
    Hook(writeonly.__name__, COLLECTION_WRITER, "_remove_impl", WRITES, _writer("removed from"), optional=True),
    Hook(ORM, "Session", "bulk_save_objects", WRITES, lambda c: changes.patch_bulk_save(c.pending), optional=True),
    Hook(ORM, "", "_state_session", WRITES, lambda c: changes.patch_state_session(c.pending), optional=True),
    Hook("sqlalchemy.ext.mutable", "Mutable", "changed", WRITES, lambda c: changes.patch_mutable(c.pending)),
    Hook(
        ORM, "sessionmaker", "__init__", CONFIG, lambda c: settings.patch_made(c.settings, lambda maker: maker.class_)
    ),
    Hook("sqlalchemy.engine.interfaces", "Dialect", "engine_created", CONFIG, _engine),
    Hook(ORM, "Session", "no_autoflush", CONFIG, lambda c: settings.patch_no_autoflush(c.settings)),
    Hook(ORM, "Session", "_autoflush", CONFIG, lambda c: settings.patch_autoflush(c.settings), optional=True),
    Hook("sqlalchemy.pool.impl", "StaticPool", "_do_get", CONFIG, _static, optional=True),
    Hook(AIO, "async_sessionmaker", "__init__", CONFIG, _async_maker, optional=True),
    Hook(AIO, "async_sessionmaker", "__call__", CONFIG, _async_call, optional=True),
    Hook(AIO, "AsyncSession", "__init__", EVERY, lambda c: aio.patch_init(c.tracker), optional=True),
    Hook(AIO, "AsyncSession", "__aenter__", USE, lambda c: aio.patch_aenter(c.tracker), optional=True),
    Hook(AIO, "AsyncSession", "__aexit__", EVERY, _async("with"), optional=True),
    Hook(AIO, "AsyncSession", "close", EVERY, _async(None), optional=True),
    Hook(AIO, "AsyncSession", "reset", EVERY, _async(None), optional=True),
    Hook(AIO, "AsyncSession", "invalidate", EVERY, _async(None), optional=True),
    Hook(
        AIO,
        "_AsyncSessionContextManager",
        "__aexit__",
        EVERY,
        _async("with", lambda manager: manager.async_session.sync_session),
        optional=True,
    ),
)

# One row an event for all rules, where several need it: see `transactions`.
EVENTS: tuple[Event, ...] = (
    Event("after_begin", EVERY, _begun),
    Event("after_transaction_end", EVERY, lambda c: transactions.after_transaction_end(c.crossing.ended)),
    Event("before_flush", CROSS, lambda c: crossing.before_flush(c.tracker, c.crossing)),
    Event("after_flush", EVERY, lambda c: sessions.flushed),
    Event("after_flush", CONFIG, lambda c: settings.after_flush(c.settings)),
    Event("before_commit", TASKS | SWALLOWED, lambda c: transactions.before_commit(c.tracker)),
    Event("after_commit", EVERY, lambda c: transactions.after_commit(c.tracker, c.rules)),
    Event("after_commit", CONFIG, lambda c: settings.after_commit(c.settings)),
    Event("after_rollback", EVERY, lambda c: transactions.after_rollback(c.tracker)),
    Event("after_soft_rollback", SWALLOWED, lambda c: failures.after_soft_rollback(c.tracker)),
    # raw: without a function around it that makes the instance of the state, for each one that is added
    Event("after_attach", WRITES, lambda c: changes.attached(c.pending), {"raw": True}),
)

FOLLOWERS: tuple[Follower, ...] = (
    Follower(MUTATION, lambda c: mutation.follow(c.tracker)),
    Follower(NONE, lambda c: pools.follow(c.pools), counted=True),
)


def import_all() -> None:
    """Import every module that a hook may go into, where it is there; its package too, which may not be complete."""
    for name in dict.fromkeys(hook.module for hook in HOOKS):
        _module(name.rpartition(".")[0])
        _module(name)


def missing(rules: Iterable[str]) -> dict[str, str]:
    """The rules that can't work with this SQLAlchemy, each with the name that it lacks."""
    lost: dict[str, str] = {}
    for hook in HOOKS:
        if not hook.optional and _owner(hook) is None:
            lost |= dict.fromkeys(hook.needs, f"{hook.module}.{hook.owner}.{hook.name}")
    return {rule: lost[rule] for rule in rules if rule in lost}


def install(context: Context, rules: frozenset[str], everything: bool = False) -> contextlib.ExitStack:
    """Install the hooks that the enabled ``rules`` need; closing the returned stack undoes all of them.

    ``everything`` adds what counting needs. An installation that fails half way is undone before the
    error is raised.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(context.settings.close)
        for hook in HOOKS:
            wanted = hook.needs & rules or (everything and (hook.counted or hook.needs == EVERY))
            owner = _owner(hook) if wanted and (context.sites or hook.name != "_new_runid") else None
            if owner is not None:
                stack.callback(patch(owner, hook.name, hook.make(context)))
        for event in EVENTS:
            if event.needs & rules or (everything and event.needs == EVERY):
                stack.callback(listen(Session, event.name, event.make(context), **event.options))
        for follower in FOLLOWERS:
            if follower.needs & rules or (everything and follower.counted):
                stack.callback(follower.install(context))
        return stack.pop_all()
    raise AssertionError("unreachable")


def _module(name: str) -> Any:
    try:
        if name.startswith("sqlalchemy.ext.asyncio"):
            importlib.import_module("greenlet")  # asyncio's modules refuse without it, but not a second time
        return importlib.import_module(name)
    except ImportError:
        return None


def _owner(hook: Hook) -> Any:
    """The object whose attribute is replaced; None where this SQLAlchemy, or greenlet, is without it."""
    module = _module(hook.module)
    owner = getattr(module, hook.owner, None) if hook.owner else module
    return owner if owner is not None and _takes_what_is_known(hook, getattr(owner, hook.name, None)) else None


def _takes_what_is_known(hook: Hook, target: Any) -> bool:
    """Whether it is there, with the parameters that its replacement passes on."""
    if target is None or not hook.takes:
        return target is not None
    taken = tuple(inspect.signature(target).parameters.values())[1:]
    open_ended = any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in taken)  # somebody else's wrapper
    return open_ended or ", ".join(one.name for one in taken) == hook.takes
