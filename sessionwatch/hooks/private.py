"""The private side of SQLAlchemy: every name that is read or compared, why, and what can't be seen without it.

No other module spells those with an underscore. `probe` looks for each of them, without a database; one that is
missing takes with it the events that need it, and so their rules. `reading` has the functions that read them. Names
without an underscore are listed where SQLAlchemy's documentation does not have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy

from ..record.events import (
    Blocked,
    ChangedInPlace,
    ChangedTwice,
    ConnectionEnded,
    Counted,
    Crossed,
    DetachedRead,
    DetachedTouch,
    DetachedWrite,
    DiscardedWrites,
    ErrorSwallowed,
    ForeignLoop,
    GivenAway,
    InheritedConnection,
    LateCommit,
    Misconfigured,
    Reattached,
    RepeatedGet,
    RepeatedLoad,
    SessionEnded,
    SessionReused,
    SharedConnection,
    SplitCommit,
    TransactionOverdue,
    UnloadedRead,
)
from ..record.parts import Write
from . import shapes

VERSION = sqlalchemy.__version__
SESSIONS, MAPPERS, LOADING = "sqlalchemy.orm.session", "sqlalchemy.orm.mapper", "sqlalchemy.orm.loading"
SESSION, TRANSACTION = f"{SESSIONS}:Session", f"{SESSIONS}:SessionTransaction"
STATE = "sqlalchemy.orm.state:InstanceState"
# Where there are two, the one with the underscore is 2.1's.
MAP = "sqlalchemy.orm.identity:WeakInstanceDict|sqlalchemy.orm.identity:_WeakInstanceDict"
CONNECTION, POOL = "sqlalchemy.engine.base:Connection", "sqlalchemy.pool"
LAZY = "sqlalchemy.orm.strategies:LazyLoader|sqlalchemy.orm.strategies:_LazyLoader"
IMPL = "sqlalchemy.orm.attributes:AttributeImpl|sqlalchemy.orm.attributes:_AttributeImpl"
ADAPTED = (  # at first each driver's own
    "sqlalchemy.connectors.asyncio:AsyncAdapt_dbapi_cursor|sqlalchemy.dialects.sqlite.aiosqlite:AsyncAdapt_aiosqlite_cursor"
)
# What is told of rows that a session wrote, and of the connections that it owns.
WROTE = (Write, SplitCommit, SharedConnection, LateCommit, DiscardedWrites)
OWNED = (*WROTE, SessionEnded, ErrorSwallowed, TransactionOverdue, Misconfigured, Counted)
GREENLETS = "sqlalchemy.util._concurrency_py3k|sqlalchemy.util.concurrency:_concurrency_shim_cls"


@dataclass(slots=True, eq=False)
class Private(shapes.Place):
    """One name. ``where`` and ``name`` are as in `shapes.has`; ``needs``: the events that can't be made without it."""

    why: str = ""
    needs: tuple[type, ...] = ()
    package: str = ""  # that SQLAlchemy needs for it: without that the name is not missed

    def is_missing(self) -> bool:
        if shapes.waits(self.where) or self._is_there():
            return False
        return not (self.package and shapes.module_of(self.package) is None)

    def _is_there(self) -> bool:
        return shapes.has(self.where, self.name)


class Replaced(Private):
    """One that a hook replaces. ``needs``: what else can't be made without it than what the hook makes."""

    def _is_there(self) -> bool:
        return self.owner() is not None

    def owner(self) -> Any:
        found = super().owner()
        return found if found is not None and self.spelled()[2] in vars(found) else None  # not a base's


NAMES: list[Private] = []


def _private(where: str, name: str, why: str, *needs: type, package: str = "") -> Private:
    NAMES.append(Private(where, name, "", why, needs, package))
    return NAMES[-1]


def _replaced(where: str, name: str, why: str, *needs: type, takes: str = "", package: str = "") -> Replaced:
    NAMES.append(replaced := Replaced(where, name, takes, why, needs, package))
    return replaced


# -- sessions ------------------------------------------------------------------------------------------

NEW = _private(SESSION, "_new", "states to be inserted; `new` copies them", Write, Misconfigured)
DELETED = _private(SESSION, "_deleted", "states to be deleted; `deleted` copies", Write, Misconfigured, ChangedTwice)
MODIFIED = _private(MAP, "_modified", "changed states; `dirty` copies them", Write, Misconfigured, ChangedTwice)
FLUSHING = _private(
    SESSION,
    "_flushing",
    "a statement is the flush's; else rows are named by their table",
    ErrorSwallowed,
    Misconfigured,
    DiscardedWrites,
)
NUMBER = _private(
    SESSION, "hash_key", "what its states know it by", DetachedWrite, Reattached, ChangedTwice, ErrorSwallowed
)
ALL_SESSIONS = _private(
    SESSIONS,
    "_sessions",
    "sessions by that number; there is no list of them",
    DetachedWrite,
    ChangedTwice,
    ErrorSwallowed,
)
CLOSE_STATE = _private(SESSION, "_close_state", "SQLAlchemy itself refuses another use, since 2.0.22", SessionReused)
BINDS = _private(SESSION, "binds|_Session__binds", "target=engine: sessions that have an engine for each class")
BEFORE_ATTACH = _private(SESSION, "_before_attach", "where a second session is refused", GivenAway)
VALIDATE = _private(SESSION, "_validate_persistent", "where a refresh or an expire of another's instance is refused")
PARAMETER = "_go"  # of sqlalchemy.orm.relationships: where an instance gives its key to a query; not to be probed
ATTACHED = _private(f"{SESSION}._before_attach", "self, state", "which session, and which instance", GivenAway)
GET_IMPL = _private(SESSION, "_get_impl", "on the stack: a get(), not a lazy load", RepeatedGet)
RECURSIVE = _private(f"{SESSION}._merge", "_recursive", "what a merge made of what it was given", Reattached)
STATE_SESSION = _private(
    f"{SESSIONS}:make_transient",
    "_state_session",
    "make_transient() asks by it; the program has that by its name",
    DetachedWrite,
)

# -- transactions of sessions --------------------------------------------------------------------------

CONNECTIONS = _private(TRANSACTION, "_connections", "whose commit it is", *OWNED)
ENTRY = _private(
    f"{TRANSACTION}.close", "connection, transaction, should_commit, autoclose", "what is kept of each", *OWNED
)
ADDED = _private(TRANSACTION, "_new", "what was written and not committed", Reattached)
DIRTY = _private(TRANSACTION, "_dirty", "the same of updates", Reattached)
IS_OVER = _private(TRANSACTION, "_transaction_is_closed", "`is_active` is no for a failed one, too", ErrorSwallowed)

# -- states of instances -------------------------------------------------------------------------------

STATE_ATTRIBUTE = _private(
    "sqlalchemy.orm.base:DEFAULT_STATE_ATTR", "_sa_instance_state", "an instance's state, from its dictionary",
    DetachedTouch, DetachedWrite, RepeatedLoad,
)  # fmt: skip
_private("sqlalchemy.orm.base:DEFAULT_MANAGER_ATTR", "_sa_class_manager", "tells a mapped class; see `data`", Crossed)
INSTANCE_DICT = _private(
    STATE, "_instance_dict", "weak reference to the session's identity map, which stays when the session has ended",
    DetachedRead, DetachedTouch, DetachedWrite, Reattached,
)  # fmt: skip
SESSION_ID = _private(STATE, "session_id", "one test a read", DetachedTouch, DetachedWrite, Reattached)
RUN = _private(STATE, "runid", "the query that filled it", RepeatedLoad, Reattached, ChangedTwice)
KEPT = _private(STATE, "_strong_obj", "what a changed state keeps alive, where its session is being collected")
UNPICKLED = _private(STATE, "_pending_mutations", "tells an unpickled instance from one that was made up", Reattached)
COMMITTED = _private(STATE, "committed_state", "what was changed since", ChangedTwice, ChangedInPlace, Reattached)
_private(STATE, "expired_attributes", "why a value is not there", UnloadedRead)
_private(STATE, "load_path", "the way from the query to it", UnloadedRead)
_private(
    "sqlalchemy.orm.attributes:ScalarAttributeImpl|sqlalchemy.orm.attributes:_ScalarAttributeImpl",
    "supports_population",
    "a write-only collection keeps no value",
    DetachedTouch,
)
_private(IMPL, "get_history", "a change without effect is none", Write, Misconfigured)
_private(IMPL, "parent_token", "a parent of new children is not changed", Write, Misconfigured)
COLLECTION_KEY = _private("sqlalchemy.orm.collections:CollectionAdapter", "_key", "which collection", DetachedWrite)
_private("sqlalchemy.orm.collections:CollectionAdapter", "owner_state", "whose collection", DetachedWrite)
PARENTS = _private("sqlalchemy.ext.mutable:MutableBase", "_parents", "whose value was changed", DetachedWrite)

# -- loads ---------------------------------------------------------------------------------------------

REFRESHED = _private(
    f"{LOADING}:load_on_pk_identity|{LOADING}:_load_on_pk_identity", "refresh_state", "whose column is loaded",
    RepeatedLoad, RepeatedGet,
)  # fmt: skip
SUBJECT = _private("sqlalchemy:Select", "_propagate_attrs", "the class that get() asks for", RepeatedGet)
LOCKED = _private("sqlalchemy:Select", "_for_update_arg", "a get() that locks is meant", RepeatedGet)
READ_OF = _private(
    "sqlalchemy.orm.attributes:InstrumentedAttribute.__get__", "instance", "on the stack: a read asks", RepeatedLoad
)
_BETWEEN = "on the stack, between the read of an attribute and its query"
BETWEEN = tuple(
    _private(where, name, _BETWEEN, RepeatedLoad)
    for where, name in (
        (LAZY, "_generate_lazy_clause"),
        (LAZY, "_get_ident_for_use_get"),
        (LAZY, "_load_for_state"),
        (IMPL, "_fire_loader_callables"),
        ("sqlalchemy.orm:Mapper", "_get_committed_state_attr_by_column"),
        ("sqlalchemy.orm:Mapper", "_get_state_attr_by_column"),
        (STATE, "_load_expired"),
        (LOADING, "load_on_ident|_load_on_ident"),
        (LOADING, "load_scalar_attributes|_load_scalar_attributes"),
    )
)
UPDATES = _private("sqlalchemy.orm.persistence", "_emit_update_statements", "where an UPDATE finds no row", Reattached)
ROWS = _private("sqlalchemy.orm.persistence:_emit_update_statements", "records", "of which states", Reattached)
ONE_INSTANCE = _private(
    "sqlalchemy.orm.context:QueryContext.default_load_options",
    "_refresh_state",
    "a query only loads columns of one instance; else it is taken for a query of its class",
)
ALL_REGISTRIES = _private(
    MAPPERS, "_all_registries", "mappings of before; else rows are named by their table", ChangedInPlace
)

# -- statements ----------------------------------------------------------------------------------------

AUTOCOMMITS = _private(
    CONNECTION,
    "_is_autocommit_isolation",
    "nothing can be lost",
    *WROTE,
    ConnectionEnded,
    ErrorSwallowed,
    TransactionOverdue,
)
LENT = _private(
    CONNECTION,
    "_dbapi_connection",
    "the driver's; `connection` reconnects",
    Write,
    TransactionOverdue,
    InheritedConnection,
    ConnectionEnded,
    SharedConnection,
    ForeignLoop,
)
POOLED = _private(
    f"{POOL}.base:_ConnectionFairy",
    "_connection_record",
    "the pool's record of a connection",
    InheritedConnection,
    ForeignLoop,
)
_private(f"{POOL}.base:_ConnectionRecord", "starttime", "whether it is older than the fork", InheritedConnection)
MAY_BEGIN = _private(CONNECTION, "_allow_autobegin", "no: what an engine asks its first connection", Blocked)
HAS_EVENTS = _private(CONNECTION, "_has_events", "without listeners a query's place is the statement's: saves a walk")
ENGINE_HAS_EVENTS = _private("sqlalchemy.engine.base:Engine", "_has_events", "the same of its engine")
AT_CONNECT = _private(
    "sqlalchemy.engine.default:DefaultDialect", "_on_connect_isolation_level", "None: the level need not be asked for"
)
_COMMITS = "on the stack: a commit, no statement"
COMMIT = _private(CONNECTION, "_commit_impl", _COMMITS, ErrorSwallowed, SharedConnection)
COMMITS = (
    COMMIT,
    _private(CONNECTION, "_commit_twophase_impl", _COMMITS, ErrorSwallowed),
    _private(CONNECTION, "_prepare_twophase_impl", _COMMITS, ErrorSwallowed),
)
ERROR = _private(
    f"{CONNECTION}._handle_dbapi_exception", "e, statement, parameters, cursor, context", "what failed", ErrorSwallowed
)
GREENLET = _private(
    GREENLETS, "_AsyncIoGreenlet", "in one of SQLAlchemy's greenlets a loop goes on", Blocked, package="greenlet"
)
VALUES = _private("sqlalchemy:Insert", "_multi_values", "how many rows values([...]) has", Write)
INSERTED = _private(
    "sqlalchemy.engine.default:DefaultExecutionContext", "_insertmanyvalues_rows", "rows that RETURNING brought", Write
)
FETCHED = _private(ADAPTED, "_rows", "rows that an asyncio driver's cursor holds", Write, package="greenlet")
STREAMS = _private(ADAPTED, "server_side", "true: that cursor does not hold all rows", package="greenlet")
PREFIXES = _private("sqlalchemy:Table", "_prefixes", "TEMPORARY", Write, SplitCommit)
BUFFER = _private(
    "sqlalchemy.engine.cursor:BufferedRowCursorFetchStrategy",
    "_rowbuffer",
    "a streamed result goes on",
    TransactionOverdue,
)

# -- listeners -----------------------------------------------------------------------------------------

_LISTENERS = "listeners that come and go apart from who runs them; else while they run"
LEVELS = _private("sqlalchemy.event.attr:_ClsLevelDispatch", "_clslevel", _LISTENERS)
BY_CLASS = _private("sqlalchemy.event.base:_Dispatch", "_empty_listener_reg", _LISTENERS)
BY_INSTANCE = _private("sqlalchemy.event.registry", "_collection_to_key", _LISTENERS)

# -- pools ---------------------------------------------------------------------------------------------

POOL_OF = _private(
    f"{POOL}.base:_ConnectionRecord", "_ConnectionRecord__pool", "whether it lends to several", SharedConnection
)
DIALECT = _private(
    f"{POOL}:Pool",
    "_dialect",
    "whose one connection it is, and who ends its transactions",
    Misconfigured,
    SharedConnection,
)
DO_GET = _private(f"{POOL}:QueuePool", "_do_get", "on the stack: a pool ran dry; else nobody says who holds it")
QUEUE = _private(f"{POOL}:QueuePool", "_pool", "connections that wait; what is public takes its lock")
IS_ASYNC = _private(f"{POOL}:QueuePool", "_is_asyncio", "which kind of queue")
WAITING = _private("sqlalchemy.util.queue:Queue", "queue", "what is in it")
WAITING_ASYNC = _private(
    "sqlalchemy.util.queue:AsyncAdaptedQueue", "_queue", "the same; made by its first use, in its loop"
)
ASYNCIO_QUEUE = "_queue"  # what is in that: asyncio\'s own
OVERFLOW = _private(f"{POOL}:QueuePool", "_max_overflow", "how many there may be")
THREADS = _private(f"{POOL}:SingletonThreadPool", "_all_conns", "connections of all threads")
ONLY_ONE = _private(f"{POOL}:AssertionPool", "_conn", "its one connection")


# -- replaced ------------------------------------------------------------------------------------------

CLOSE_IMPL = _replaced(
    SESSION, "_close_impl", "the one way out of close, reset, invalidate and `with`", takes="invalidate, is_reset"
)
EXPUNGE = _replaced(SESSION, "_expunge_states", "states forget their session", takes="states, to_transient")
REMOVE_DELETED = _replaced(SESSION, "_remove_newly_deleted", "they forget it, deleted, too", takes="states")
MERGE = _replaced(SESSION, "_merge", "each instance of a merge; on the stack: a merge asks", RepeatedGet)
UPDATE_IMPL = _replaced(SESSION, "_update_impl", "an instance with an identity enters a session")
AUTOFLUSH = _replaced(SESSION, "_autoflush", "an ORM query begins")
PREPARE = _replaced(TRANSACTION, "_prepare_impl", "a commit has flushed and was not sent yet")
FIND_SESSION = _replaced(SESSIONS, "_state_session", "where make_transient() asks, which programs have by its name")
EXECUTE = _replaced(CONNECTION, "_exec_single_context", "a listener costs each statement of the program 5 to 20 %")
EXECUTE_MANY = _replaced(CONNECTION, "_exec_insertmany_context", "the same of many rows at a time")
AUTOBEGIN = _replaced(CONNECTION, "_autobegin", "a Connection's own transaction begins, without a listener")
PING = _replaced(
    "sqlalchemy.engine.default:DefaultDialect", "_do_ping_w_event", "a pool tests a connection, perhaps on another loop"
)
SETUP_RESULT = _replaced(
    "sqlalchemy.engine.default:DefaultExecutionContext", "_setup_dml_or_text_result",
    "the count of an INSERT; else it is the number of rows given",
)  # fmt: skip
HANDLE_ERROR = _replaced(CONNECTION, "_handle_dbapi_exception", "the driver's errors; an event costs each statement")
CONNECT = _replaced(
    f"{POOL}.base:_ConnectionRecord",
    "_ConnectionRecord__connect",
    "where a connection was opened, on which loop; an event makes every checkout look for listeners",
    ForeignLoop,
    SharedConnection,
)
SPAWN, SPAWN_ENGINE = (
    _replaced(
        f"sqlalchemy.ext.asyncio.{module}",
        "greenlet_spawn",
        "what the coroutine handles",
        ErrorSwallowed,
        package="greenlet",
    )
    for module in ("session", "engine")
)
LEAVE_BEGIN = _replaced(
    "sqlalchemy.ext.asyncio.session:_AsyncSessionContextManager", "__aexit__", "closes in another task",
    SessionEnded, package="greenlet",
)  # fmt: skip
BUFFER_ROWS = _replaced(
    "sqlalchemy.engine.cursor:BufferedRowCursorFetchStrategy", "_buffer_rows", "a streamed result goes on"
)
FETCH, FETCH_BUFFERED = (
    _replaced(f"sqlalchemy.engine.cursor:{name}CursorFetchStrategy", "fetchmany", "the same")
    for name in ("", "BufferedRow")
)
EMIT_LAZYLOAD = _replaced(LAZY, "_emit_lazyload", "each lazy load; attributes hold on to what calls it")
LOAD_BY_KEY = _replaced(LOADING, "load_on_pk_identity|_load_on_pk_identity", "each column or get() that is loaded")
NEW_RUN = _replaced(LOADING, "_new_runid", "numbers a query; else nobody knows where", UnloadedRead, ChangedTwice)
WRITER = "sqlalchemy.orm.writeonly:AbstractCollectionWriter|sqlalchemy.orm.writeonly:_AbstractCollectionWriter"
ADD_ALL = _replaced(WRITER, "_add_all_impl", "what the five public methods of two classes come to")
REMOVE = _replaced(WRITER, "_remove_impl", "the same")
APPENDER = "sqlalchemy.orm.dynamic:AppenderMixin|sqlalchemy.orm.dynamic:_AppenderMixin"
APPENDER_QUERY = _replaced(APPENDER, "_generate", "what all reads of a dynamic relationship come to")
STATIC_GET = _replaced(f"{POOL}:StaticPool", "_do_get", "who uses the one connection")


NOT_SQLALCHEMY = _private(
    "sqlalchemy.util.langhelpers", "_not_sa_pattern",
    "whose lines SQLAlchemy's warnings never name: its own; with it ours, that stand in between",
)  # fmt: skip


# -- the probe -----------------------------------------------------------------------------------------


def probe() -> list[Private]:
    """The names that this SQLAlchemy does not have as they are known."""
    return [name for name in NAMES if name.is_missing()]
