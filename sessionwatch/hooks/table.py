"""The table of the hooks: what of SQLAlchemy each of them touches, and which events it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import loading, strategies, writeonly

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
    changes,
    closing,
    connections,
    crossing,
    discards,
    failures,
    forks,
    holding,
    implicit,
    loads,
    loops,
    mutation,
    ownership,
    pools,
    reads,
    reattach,
    registries,
    rows,
    sessions,
    settings,
    statements,
    transactions,
)
from .context import Context, Follower, Hook, Kinds, Listener
from .errors import DetachedFindingError, ImplicitFindingError, StatementFindingError

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
POOL, CURSOR = "sqlalchemy.pool.base", "sqlalchemy.engine.cursor"
ENGINE, ATTRIBUTES, COLLECTIONS = "sqlalchemy.engine.base", "sqlalchemy.orm.attributes", "sqlalchemy.orm.collections"
COLLECTION_WRITER = "_AbstractCollectionWriter"  # with the underscore since 2.1
if not hasattr(writeonly, COLLECTION_WRITER):
    COLLECTION_WRITER = "AbstractCollectionWriter"
LAZY = "_LazyLoader" if hasattr(strategies, "_LazyLoader") else "LazyLoader"
BY_KEY = "_load_on_pk_identity" if hasattr(loading, "_load_on_pk_identity") else "load_on_pk_identity"


def _begin(context: Context) -> Callable[[Any], Any]:
    return sessions.patch_begin(context.tracker, context.crossing.began if context.wants(ChangedTwice) else None)


def _begun(context: Context) -> Callable[..., None]:
    watchdog = context.watchdog if context.wants(*KINDS) else None
    context.watchdog.describe = holding.describe
    sharing = context.sharing if context.wants(SharedConnection) else None
    return transactions.after_begin(context.tracker, context.wants(Reattached, ChangedTwice), watchdog, sharing)


def _close(context: Context) -> Callable[[Any], Any]:
    return closing.patch_close(context.tracker)


def _expunge(context: Context) -> Callable[[Any], Any]:
    return ownership.patch_expunge(context.tracker, context.allowed(DetachedTouch))


def _expunge_all(context: Context) -> Callable[[Any], Any]:
    return closing.patch_expunge_all(context.tracker, context.allowed(DetachedTouch))


def _deleted(context: Context) -> Callable[[Any], Any]:
    return ownership.patch_deleted(context.tracker)


def _execute(context: Context) -> Callable[[Any], Any]:
    return statements.patch_execute(
        context.tracker,
        sites=context.sites,
        entering=context.wants(Overlap, *KINDS),
        blocking=context.wants(Blocked),
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


def _aexit(context: Context) -> Callable[[Any], Any]:
    return connections.patch_aexit(context.connections)


def _autobegin(context: Context) -> Callable[[Any], Any]:
    return connections.patch_autobegin(context.connections)


def _ping(context: Context) -> Callable[[Any], Any]:
    return loops.patch_ping(context.loops)


def _refusal(context: Context) -> Callable[[Any], Any]:
    handlers = []
    if context.wants(*REFUSED):
        overlaps, failures = context.wants(Overlap), context.wants(ErrorSwallowed)
        handlers.append(statements.refusals(context.tracker, overlaps=overlaps, failures=failures))
    if context.wants(GivenAway):
        handlers.append(crossing.refusals(context.tracker))
    return statements.patch_refusal(context.tracker, tuple(handlers))


def _lazy(context: Context) -> Callable[[Any], Any]:
    return loads.patch_lazy(context.tracker, context.limits.loads if context.wants(*REPEATED) else 0)


def _by_key(context: Context) -> Callable[[Any], Any]:
    return loads.patch_by_key(context.tracker, context.limits.loads if context.wants(*REPEATED) else 0)


def _connect(context: Context) -> Callable[[Any], Any]:
    opened = [forks.noted(context.tracker)] if context.wants(InheritedConnection) else []
    opened += [context.loops.connected] if context.wants(ForeignLoop) else []
    opened += [context.sharing.connected] if context.wants(SharedConnection) else []
    return forks.patch_connect(context.tracker, tuple(opened))


def _spawn(context: Context) -> Callable[[Any], Any]:
    return failures.patch_spawn(context.tracker)


def _missing(context: Context) -> Callable[[Any], Any]:
    return implicit.patch_missing(context.tracker, ImplicitFindingError)


def _wrapped(context: Context) -> Callable[[Any], Any]:
    return implicit.patch_wrapped(context.tracker, StatementFindingError)


def _merge(context: Context) -> Callable[[Any], Any]:
    return reattach.patch_merge(context.pending, context.tracker, context.wants(Reattached))


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
    Hook(ORM, "Session", "__enter__", (SessionReused,), lambda c: sessions.patch_enter(c.tracker)),
    Hook(REGISTRY, "ScopedRegistry", "__call__", TAKEN, lambda c: registries.patch_ask(c.tracker)),
    Hook(REGISTRY, "ThreadLocalRegistry", "__call__", TAKEN, lambda c: registries.patch_ask(c.tracker)),
    Hook(ORM, "Session", "add", (SessionEnded, *DISCARDED), _add, takes="instance, _warn"),
    Hook(ORM, "Session", "expunge_all", GONE, _expunge_all),
    Hook(ORM, "Session", "_expunge_states", GONE, _expunge, takes="states, to_transient"),
    Hook(ORM, "Session", "_remove_newly_deleted", GONE, _deleted, takes="states"),
    Hook(ORM, "Session", "_merge", (*CHANGED, *REATTACHED), _merge),
    Hook(ORM, "Session", "_update_impl", REATTACHED, lambda c: reattach.patch_update(c.tracker)),
    Hook(ORM, "SessionTransaction", "_prepare_impl", (ChangedInPlace,), lambda c: mutation.patch_prepare(c.tracker)),
    Hook("sqlalchemy.orm.exc", "StaleDataError", "__init__", REATTACHED, lambda c: reattach.patch_stale(c.tracker)),
    Hook(ENGINE, "Connection", "_exec_single_context", (*STATEMENTS, *COUNTED), _execute),
    Hook(ENGINE, "Connection", "_exec_insertmany_context", (*STATEMENTS, *COUNTED), _execute),
    Hook(
        "sqlalchemy.engine.default",
        "DefaultExecutionContext",
        "_setup_dml_or_text_result",
        (SessionEnded,),
        lambda c: rows.patch_result,
        optional=True,
    ),
    Hook(ENGINE, "Engine", "raw_connection", COUNTED, lambda c: pools.patch_raw_connection(c.pools)),
    Hook(ENGINE, "Connection", "_handle_dbapi_exception", (*REFUSED, *FAILED, *LATE, ForeignLoop), _driver_error),
    Hook(ENGINE, "Connection", "_autobegin", CORE, _autobegin),
    Hook(ASYNC_ENGINE, "AsyncConnection", "__aexit__", CORE, _aexit, optional=True),
    Hook("sqlalchemy.engine.default", "DefaultDialect", "_do_ping_w_event", (ForeignLoop,), _ping, optional=True),
    Hook(ERRORS, "InvalidRequestError", "__init__", (*REFUSED, GivenAway), _refusal),
    Hook(POOL, "_ConnectionRecord", "_ConnectionRecord__connect", CONNECTED, _connect, optional=True),
    Hook(AIO, "", "greenlet_spawn", FAILED, _spawn, optional=True),
    Hook(ASYNC_ENGINE, "", "greenlet_spawn", (*FAILED, *CORE), _spawn, optional=True),
    Hook(ORM, "Session", "connection", KINDS, lambda c: holding.patch_connection(c.tracker)),
    Hook(CURSOR, "CursorFetchStrategy", "fetchmany", KINDS, _fetch, optional=True),
    Hook(CURSOR, "BufferedRowCursorFetchStrategy", "fetchmany", KINDS, _fetch, optional=True),
    Hook(CURSOR, "BufferedRowCursorFetchStrategy", "_buffer_rows", KINDS, _fetch, optional=True),
    Hook(ERRORS, "TimeoutError", "__init__", KINDS, lambda c: holding.patch_timeout(c.tracker), optional=True),
    Hook(
        "sqlalchemy.orm.exc",
        "DetachedInstanceError",
        "__init__",
        (DetachedRead,),
        lambda c: reads.patch_refusal(c.tracker, DetachedFindingError),
    ),
    Hook(ERRORS, "MissingGreenlet", "__init__", (ImplicitRead,), _missing),
    Hook(ERRORS, "StatementError", "__init__", (ImplicitRead,), _wrapped),
    Hook("sqlalchemy.orm.strategies", LAZY, "_emit_lazyload", (*REPEATED, *COUNTED), _lazy),
    Hook("sqlalchemy.orm.loading", "", BY_KEY, (*REPEATED, *COUNTED), _by_key),
    Hook(ORM, "Session", "expire", LOADS, lambda c: ownership.patch_expire(c.tracker)),
    Hook(ORM, "Session", "expire_all", LOADS, lambda c: ownership.patch_expire_all(c.tracker)),
    Hook("sqlalchemy.orm.loading", "", "_new_runid", OWNED, lambda c: ownership.patch_runid(c.tracker)),
    Hook(ATTRIBUTES, "InstrumentedAttribute", "__get__", (DetachedTouch,), lambda c: reads.patch_get(c.tracker)),
    Hook(ATTRIBUTES, "InstrumentedAttribute", "__set__", CHANGED, lambda c: changes.patch_set(c.pending)),
    Hook(ATTRIBUTES, "InstrumentedAttribute", "__delete__", CHANGED, lambda c: changes.patch_delete(c.pending)),
    Hook(COLLECTIONS, "CollectionAdapter", "fire_append_event", CHANGED, _collection("appended to", 1)),
    Hook(COLLECTIONS, "CollectionAdapter", "fire_remove_event", CHANGED, _collection("removed from", 1)),
    Hook(COLLECTIONS, "CollectionAdapter", "fire_pre_remove_event", CHANGED, _collection("removed from", 0)),
    Hook(writeonly.__name__, COLLECTION_WRITER, "_add_all_impl", CHANGED, _writer("appended to"), optional=True),
    Hook(writeonly.__name__, COLLECTION_WRITER, "_remove_impl", CHANGED, _writer("removed from"), optional=True),
    Hook(ORM, "Session", "bulk_save_objects", CHANGED, lambda c: changes.patch_bulk_save(c.pending), optional=True),
    Hook(ORM, "", "_state_session", CHANGED, lambda c: changes.patch_state_session(c.pending), optional=True),
    Hook("sqlalchemy.ext.mutable", "Mutable", "changed", CHANGED, lambda c: changes.patch_mutable(c.pending)),
    Hook(
        ORM, "sessionmaker", "__init__", SETTINGS, lambda c: settings.patch_made(c.settings, lambda maker: maker.class_)
    ),
    Hook("sqlalchemy.engine.interfaces", "Dialect", "engine_created", SETTINGS, _engine),
    Hook(ORM, "Session", "no_autoflush", SETTINGS, lambda c: settings.patch_no_autoflush(c.settings)),
    Hook(ORM, "Session", "_autoflush", SETTINGS, lambda c: settings.patch_autoflush(c.settings), optional=True),
    Hook("sqlalchemy.pool.impl", "StaticPool", "_do_get", SETTINGS, _static, optional=True),
    Hook(AIO, "async_sessionmaker", "__init__", SETTINGS, _async_maker, optional=True),
    Hook(AIO, "async_sessionmaker", "__call__", SETTINGS, _async_call, optional=True),
    Hook(AIO, "AsyncSession", "__init__", EVERY, lambda c: aio.patch_init(c.tracker), optional=True),
    Hook(AIO, "AsyncSession", "__aenter__", (SessionReused,), lambda c: aio.patch_aenter(c.tracker), optional=True),
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
LISTENERS: tuple[Listener, ...] = (
    Listener("after_begin", EVERY, _begun),
    Listener("after_transaction_end", EVERY, lambda c: transactions.after_transaction_end(c.tracker, c.crossing.ended)),
    Listener("before_flush", (ChangedTwice,), lambda c: crossing.before_flush(c.tracker, c.crossing)),
    Listener("after_flush", EVERY, lambda c: sessions.flushed),
    Listener("after_flush", SETTINGS, lambda c: settings.after_flush(c.settings)),
    Listener("before_commit", REFUSED, lambda c: transactions.before_commit(c.tracker)),
    Listener("after_commit", DISCARDED, lambda c: discards.after_commit(c.tracker)),
    Listener("after_commit", LATE, lambda c: answers.after_commit),  # before what was written is let go
    Listener("after_commit", EVERY, lambda c: transactions.after_commit(c.tracker, c.wants(SplitCommit))),
    Listener("after_commit", SETTINGS, lambda c: settings.after_commit(c.settings)),
    Listener("after_rollback", DISCARDED, lambda c: discards.after_rollback),
    Listener("after_rollback", EVERY, lambda c: transactions.after_rollback(c.tracker, c.wants(SplitCommit))),
    Listener("after_soft_rollback", DISCARDED, lambda c: discards.after_soft_rollback(c.tracker)),
    Listener("after_soft_rollback", LATE, lambda c: answers.after_soft_rollback(c.tracker)),
    Listener("after_soft_rollback", FAILED, lambda c: failures.after_soft_rollback(c.tracker)),
    # raw: without a function around it that makes the instance of the state, for each one that is added
    Listener("after_attach", CHANGED, lambda c: changes.attached(c.pending), {"raw": True}),
)

FOLLOWERS: tuple[Follower, ...] = (
    Follower((ChangedInPlace,), lambda c: mutation.follow(c.tracker)),
    Follower(LATE, lambda c: answers.follow(c.tracker)),
    Follower(CORE, lambda c: c.connections.forget),
    Follower((SharedConnection,), lambda c: c.sharing.forget),
    Follower(COUNTED, lambda c: pools.follow(c.pools)),
)
