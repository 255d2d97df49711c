"""The table of the hooks: what of SQLAlchemy each of them touches, and which events it makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from ..record.events import (
    Blocked,
    ChangedInPlace,
    ChangedTwice,
    ConnectionEnded,
    Counted,
    DetachedRead,
    DetachedTouch,
    DetachedWrite,
    DiscardedWrites,
    ErrorSwallowed,
    ForeignLoop,
    GivenAway,
    ImplicitRead,
    InheritedConnection,
    InstanceEvent,
    LateCommit,
    Misconfigured,
    Overlap,
    Reattached,
    RepeatedGet,
    RepeatedLoad,
    SessionEnded,
    SessionEvent,
    SessionReused,
    SharedConnection,
    SplitCommit,
)
from ..record.watchdog import KINDS
from . import (
    aio,
    answers,
    attributes,
    autoflush,
    closing,
    connections,
    database_errors,
    discards,
    foreign_keys,
    forks,
    holding,
    identities,
    implicit,
    loads,
    loops,
    makers,
    mutation,
    ownership,
    pools,
    private,
    reads,
    reattach,
    registries,
    rows,
    sessions,
    statements,
    static_pool,
    transactions,
)
from .context import Context, Follower, Hook, Kinds, Listener, Table
from .errors import DetachedFindingError, ImplicitFindingError, StatementFindingError
from .patch import patch_error
from .shapes import Place

# What hooks make together.
EVERY: Kinds = (SessionEvent,)  # whatever is about a session
COUNTED: Kinds = (Counted,)
DETACHED: Kinds = (DetachedRead, DetachedTouch, DetachedWrite)
REATTACHED: Kinds = (Reattached,)
GONE: Kinds = (*DETACHED, *REATTACHED)  # about instances whose session has let go of them
CHANGED: Kinds = (DetachedWrite,)
LOADS: Kinds = (ImplicitRead, RepeatedLoad)
REPEATED: Kinds = (RepeatedLoad, RepeatedGet)
OWNED: Kinds = (InstanceEvent, Reattached, GivenAway, ChangedTwice, ChangedInPlace)  # an instance: where from?
TAKEN: Kinds = (SessionReused, SessionEnded)
FAILED: Kinds = (ErrorSwallowed, DiscardedWrites)
REFUSED: Kinds = (Overlap, ErrorSwallowed)
DISCARDED: Kinds = (DiscardedWrites,)
LATE: Kinds = (LateCommit,)
CORE: Kinds = (ConnectionEnded,)
WROTE: Kinds = (SessionEnded, SplitCommit, SharedConnection, *LATE, *DISCARDED, *CORE)
CONNECTED: Kinds = (InheritedConnection, ForeignLoop, SharedConnection)
STATEMENTS: Kinds = (*WROTE, *KINDS, *REFUSED, Blocked, InheritedConnection)
SETTINGS: Kinds = (Misconfigured,)

ORM, AIO, ERRORS = "sqlalchemy.orm.session", "sqlalchemy.ext.asyncio.session", "sqlalchemy.exc"
ASYNC_ENGINE = "sqlalchemy.ext.asyncio.engine"
REGISTRY = "sqlalchemy.util._collections"
ENGINE, ATTRIBUTES, COLLECTIONS = "sqlalchemy.engine.base", "sqlalchemy.orm.attributes", "sqlalchemy.orm.collections"


def _public(module: str, owner: str, name: str, takes: str = "") -> Place:
    return Place(f"{module}:{owner}", name, takes)


def _begin(context: Context) -> Callable[[Any], Any]:
    return sessions.patch_begin(context.tracker, context.neighbours.began if context.wants(ChangedTwice) else None)


def _begun(context: Context) -> Callable[..., None]:
    watchdog = context.watchdog if context.wants(*KINDS) else None
    context.watchdog.describe = holding.describe
    sharing = context.sharing if context.wants(SharedConnection) else None
    return transactions.after_begin(context.tracker, context.wants(Reattached, ChangedTwice), watchdog, sharing)


def _transaction_ended(context: Context) -> Callable[..., None]:
    return transactions.after_transaction_end(context.tracker, context.neighbours.ended)


def _committed(context: Context) -> Callable[..., None]:
    return transactions.after_commit(context.tracker, context.wants(SplitCommit))


def _rolled_back(context: Context) -> Callable[..., None]:
    return transactions.after_rollback(context.tracker, context.wants(SplitCommit))


def _expunge(context: Context) -> Callable[[Any], Any]:
    return ownership.patch_expunge(context.tracker, context.allowed(DetachedTouch), context.pending.thrown)


def _expunge_all(context: Context) -> Callable[[Any], Any]:
    return closing.patch_expunge_all(context.tracker, context.allowed(DetachedTouch), context.pending.thrown)


def _execute(context: Context) -> Callable[[Any], Any]:
    return partial(
        statements.patch_execute,
        context.tracker,
        sites=context.sites,
        entering=context.wants(Overlap, *KINDS),
        stalls=context.limits.blocked if context.wants(Blocked) else None,
        forking=context.wants(InheritedConnection),
        originating=context.wants(*DISCARDED),
        core=context.connections if context.wants(*CORE) else None,
    )


def _driver_error(context: Context) -> Callable[[Any], Any]:
    return statements.patch_error(
        context.tracker,
        overlaps=context.wants(Overlap),
        failures=context.wants(*FAILED),
        late=context.wants(*LATE),
        loops=context.loops if context.wants(ForeignLoop) else None,
    )


def _add(context: Context) -> Callable[[Any], Any]:
    return sessions.patch_add(context.tracker, originating=context.wants(*DISCARDED))


def _refusal(context: Context) -> Callable[[Any], Any]:
    handlers = []
    if context.wants(*REFUSED):
        overlaps, failures = context.wants(Overlap), context.wants(ErrorSwallowed)
        handlers.append(statements.refusals(context.tracker, overlaps=overlaps, failures=failures))
    if context.wants(GivenAway):
        handlers.append(identities.refusals(context.tracker))
    return patch_error(context.tracker, "InvalidRequestError", *handlers)


def _lazy(context: Context) -> Callable[[Any], Any]:
    return loads.patch_lazy(context.tracker, context.limits.loads if context.wants(*REPEATED) else 0)


def _by_key(context: Context) -> Callable[[Any], Any]:
    return loads.patch_by_key(context.tracker, context.limits.loads if context.wants(*REPEATED) else 0)


def _collected(context: Context) -> Callable[[Any], Any]:
    return loads.patch_collection(context.tracker, context.limits.loads)


def _connect(context: Context) -> Callable[[Any], Any]:
    opened = [forks.noted(context.tracker)] if context.wants(InheritedConnection) else []
    opened += [context.loops.connected] if context.wants(ForeignLoop) else []
    opened += [context.sharing.connected] if context.wants(SharedConnection) else []
    opened += [context.pools.connected] if context.wants(Counted) else []
    return forks.patch_connect(context.tracker, tuple(opened))


def _spawn(context: Context) -> Callable[[Any], Any]:
    return database_errors.patch_spawn(context.tracker)


def _missing(context: Context) -> Callable[[Any], Any]:
    return implicit.patch_missing(context.tracker, ImplicitFindingError)


def _wrapped(context: Context) -> Callable[[Any], Any]:
    return implicit.patch_wrapped(context.tracker, StatementFindingError)


def _merge(context: Context) -> Callable[[Any], Any]:
    return reattach.patch_merge(context.pending, context.tracker, context.wants(Reattached), context.wants(GivenAway))


def _fetch(context: Context) -> Callable[[Any], Any]:
    return holding.patch_fetch(context.tracker)


def between(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """Our frames stand between SQLAlchemy's and the user's line: its warnings step over both to find that line."""
    return re.compile(rf"{pattern.pattern}|^sessionwatch\.(?!demo\.)", pattern.flags)


def _sync(session: Any) -> Any:
    return session.sync_session


def _async(scope: str | None, session_of: Callable[[Any], Any] = _sync) -> Callable[[Context], Callable[[Any], Any]]:
    return lambda context: aio.patch_leave(context.tracker, scope, session_of)


def _engine(context: Context) -> Callable[[Any], Any]:
    made = [makers.remembered(context.makers)] if context.wants(Misconfigured) else []
    made += [context.pools.made] if context.wants(Counted) else []
    return makers.patch_engine_created(context.tracker, tuple(made))


def _async_maker(context: Context) -> Callable[[Any], Any]:
    return makers.patch_made(context.makers, lambda maker: maker)


def _async_call(context: Context) -> Callable[[Any], Any]:
    return makers.patch_async_call(context.makers)


def _collection(verb: str, initiator: int) -> Callable[[Context], Callable[[Any], Any]]:
    return lambda context: attributes.patch_collection(context.pending, verb, initiator)


def _writer(verb: str) -> Callable[[Context], Callable[[Any], Any]]:
    return lambda context: attributes.patch_writer(context.pending, verb)


HOOKS: tuple[Hook, ...] = (
    Hook(private.NOT_SQLALCHEMY, (*EVERY, *CORE, *SETTINGS), lambda c: between, optional=True),
    Hook(_public(ORM, "Session", "__init__"), EVERY, lambda c: sessions.patch_init(c.tracker)),
    Hook(private.CLOSE_IMPL, EVERY, lambda c: closing.patch_close(c.tracker)),
    Hook(_public(ORM, "SessionTransaction", "__init__", "session, origin, parent"), EVERY, _begin),
    Hook(_public(ORM, "Session", "__enter__"), (SessionReused,), lambda c: sessions.patch_enter(c.tracker)),
    Hook(_public(REGISTRY, "ScopedRegistry", "__call__"), TAKEN, lambda c: registries.patch_ask(c.tracker)),
    Hook(_public(REGISTRY, "ThreadLocalRegistry", "__call__"), TAKEN, lambda c: registries.patch_ask(c.tracker)),
    Hook(_public(ORM, "Session", "add", "instance, _warn"), (SessionEnded, *DISCARDED), _add),
    Hook(_public(ORM, "Session", "expunge_all"), (*GONE, SessionEnded), _expunge_all),
    Hook(private.EXPUNGE, (*GONE, SessionEnded), _expunge),
    Hook(private.REMOVE_DELETED, GONE, lambda c: ownership.patch_deleted(c.tracker)),
    Hook(private.MERGE, (*CHANGED, *REATTACHED, GivenAway), _merge),
    Hook(private.UPDATE_IMPL, REATTACHED, lambda c: reattach.patch_update(c.tracker)),
    Hook(private.PREPARE, (ChangedInPlace,), lambda c: mutation.patch_prepare(c.tracker)),
    Hook(
        _public("sqlalchemy.orm.exc", "StaleDataError", "__init__"),
        REATTACHED,
        lambda c: reattach.patch_stale(c.tracker),
    ),
    Hook(private.EXECUTE, (*STATEMENTS, *COUNTED), _execute),
    Hook(private.EXECUTE_MANY, (*STATEMENTS, *COUNTED), _execute),
    Hook(
        private.SETUP_RESULT,
        (SessionEnded,),
        lambda c: rows.patch_result,
        optional=True,
    ),
    Hook(_public(ENGINE, "Engine", "raw_connection"), COUNTED, lambda c: pools.patch_raw_connection(c.pools)),
    Hook(private.HANDLE_ERROR, (*REFUSED, *FAILED, *LATE, ForeignLoop), _driver_error),
    Hook(private.AUTOBEGIN, CORE, lambda c: connections.patch_autobegin(c.connections)),
    Hook(
        _public(ASYNC_ENGINE, "AsyncConnection", "__aexit__"),
        CORE,
        lambda c: connections.patch_aexit(c.connections),
        optional=True,
    ),
    Hook(private.PING, (ForeignLoop,), lambda c: loops.patch_ping(c.loops)),
    Hook(_public(ERRORS, "InvalidRequestError", "__init__"), (*REFUSED, GivenAway), _refusal),
    Hook(private.CONNECT, (*CONNECTED, *COUNTED), _connect, optional=True),
    Hook(private.SPAWN, FAILED, _spawn, optional=True),
    Hook(private.SPAWN_ENGINE, (*FAILED, *CORE), _spawn, optional=True),
    Hook(_public(ORM, "Session", "connection"), KINDS, lambda c: holding.patch_connection(c.tracker)),
    Hook(private.FETCH, KINDS, _fetch),
    Hook(private.FETCH_BUFFERED, KINDS, _fetch),
    Hook(private.BUFFER_ROWS, KINDS, _fetch),
    Hook(_public(ERRORS, "TimeoutError", "__init__"), KINDS, lambda c: holding.patch_timeout(c.tracker), optional=True),
    Hook(
        _public("sqlalchemy.orm.exc", "DetachedInstanceError", "__init__"),
        (DetachedRead,),
        lambda c: reads.patch_refusal(c.tracker, DetachedFindingError),
    ),
    Hook(_public(ERRORS, "MissingGreenlet", "__init__"), (ImplicitRead,), _missing),
    Hook(_public(ERRORS, "StatementError", "__init__"), (ImplicitRead,), _wrapped),
    Hook(private.EMIT_LAZYLOAD, (*REPEATED, *COUNTED), _lazy),
    Hook(private.APPENDER_QUERY, REPEATED, _collected, optional=True),
    Hook(_public("sqlalchemy.orm.writeonly", "WriteOnlyCollection", "select"), REPEATED, _collected, optional=True),
    Hook(private.LOAD_BY_KEY, (*REPEATED, *COUNTED), _by_key),
    Hook(_public(ORM, "Session", "expire"), LOADS, lambda c: ownership.patch_expire(c.tracker)),
    Hook(_public(ORM, "Session", "expire_all"), LOADS, lambda c: ownership.patch_expire_all(c.tracker)),
    Hook(private.NEW_RUN, OWNED, lambda c: ownership.patch_runid(c.tracker), optional=True),
    Hook(
        _public(ATTRIBUTES, "InstrumentedAttribute", "__get__"), (DetachedTouch,), lambda c: reads.patch_get(c.tracker)
    ),
    Hook(_public(ATTRIBUTES, "InstrumentedAttribute", "__set__"), CHANGED, lambda c: attributes.patch_set(c.pending)),
    Hook(
        _public(ATTRIBUTES, "InstrumentedAttribute", "__delete__"),
        CHANGED,
        lambda c: attributes.patch_delete(c.pending),
    ),
    Hook(_public(COLLECTIONS, "CollectionAdapter", "fire_append_event"), CHANGED, _collection("appended to", 1)),
    Hook(_public(COLLECTIONS, "CollectionAdapter", "fire_remove_event"), CHANGED, _collection("removed from", 1)),
    Hook(_public(COLLECTIONS, "CollectionAdapter", "fire_pre_remove_event"), CHANGED, _collection("removed from", 0)),
    Hook(private.ADD_ALL, CHANGED, _writer("appended to")),
    Hook(private.REMOVE, CHANGED, _writer("removed from")),
    Hook(
        _public(ORM, "Session", "bulk_save_objects"),
        CHANGED,
        lambda c: attributes.patch_bulk_save(c.pending),
        optional=True,
    ),
    Hook(private.FIND_SESSION, CHANGED, lambda c: attributes.patch_state_session(c.pending)),
    Hook(
        _public("sqlalchemy.ext.mutable", "Mutable", "changed"), CHANGED, lambda c: attributes.patch_mutable(c.pending)
    ),
    Hook(
        _public(ORM, "sessionmaker", "__init__"),
        SETTINGS,
        lambda c: makers.patch_made(c.makers, lambda maker: maker.class_),
    ),
    Hook(_public("sqlalchemy.engine.interfaces", "Dialect", "engine_created"), (*SETTINGS, *COUNTED), _engine),
    Hook(_public(ORM, "Session", "no_autoflush"), SETTINGS, lambda c: autoflush.patch_no_autoflush(c.makers)),
    Hook(private.AUTOFLUSH, SETTINGS, lambda c: autoflush.patch_autoflush(c.makers)),
    Hook(private.STATIC_GET, SETTINGS, lambda c: static_pool.patch_static(c.makers)),
    Hook(_public(AIO, "async_sessionmaker", "__init__"), SETTINGS, _async_maker, optional=True),
    Hook(_public(AIO, "async_sessionmaker", "__call__"), SETTINGS, _async_call, optional=True),
    Hook(_public(AIO, "AsyncSession", "__init__"), EVERY, lambda c: aio.patch_init(c.tracker), optional=True),
    Hook(
        _public(AIO, "AsyncSession", "__aenter__"),
        (SessionReused,),
        lambda c: aio.patch_aenter(c.tracker),
        optional=True,
    ),
    Hook(_public(AIO, "AsyncSession", "__aexit__"), EVERY, _async("with"), optional=True),
    Hook(_public(AIO, "AsyncSession", "close"), EVERY, _async(None), optional=True),
    Hook(_public(AIO, "AsyncSession", "reset"), EVERY, _async(None), optional=True),
    Hook(_public(AIO, "AsyncSession", "invalidate"), EVERY, _async(None), optional=True),
    Hook(
        private.LEAVE_BEGIN,
        EVERY,
        _async("with", lambda manager: manager.async_session.sync_session),
        optional=True,
    ),
)

# One row an event for all rules, where several need it: see `transactions`.
LISTENERS: tuple[Listener, ...] = (
    Listener("after_begin", EVERY, _begun, bordered=True),
    Listener("after_transaction_end", EVERY, _transaction_ended, bordered=True),
    Listener("before_flush", (ChangedTwice,), lambda c: identities.before_flush(c.tracker, c.neighbours)),
    Listener("after_flush", EVERY, lambda c: sessions.after_flush(c.tracker), bordered=True),
    Listener("after_flush", SETTINGS, lambda c: foreign_keys.after_flush(c.makers)),
    Listener("before_commit", REFUSED, lambda c: transactions.before_commit(c.tracker), bordered=True),
    Listener("after_commit", EVERY, _committed, bordered=True),
    Listener("after_commit", SETTINGS, lambda c: makers.after_commit(c.makers)),
    Listener("after_rollback", EVERY, _rolled_back, bordered=True),
    Listener("after_soft_rollback", DISCARDED, lambda c: discards.after_soft_rollback(c.tracker)),
    Listener("after_soft_rollback", LATE, lambda c: answers.after_soft_rollback(c.tracker)),
    Listener("after_soft_rollback", FAILED, lambda c: database_errors.after_soft_rollback(c.tracker)),
    # raw: without a function around it that makes the instance of the state, for each one that is added
    Listener("after_attach", (*CHANGED, SessionEnded), lambda c: attributes.attached(c.pending), {"raw": True}),
)

FOLLOWERS: tuple[Follower, ...] = (
    Follower((ChangedInPlace,), lambda c: mutation.follow(c.tracker)),
    Follower(LATE, lambda c: answers.follow(c.tracker)),
    Follower(CORE, lambda c: c.connections.forget),
    Follower((SharedConnection,), lambda c: c.sharing.forget),
    Follower(COUNTED, lambda c: pools.follow(c.pools)),
)

TABLE = Table(HOOKS, LISTENERS, FOLLOWERS)
