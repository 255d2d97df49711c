"""Names of SQLAlchemy and its neighbours, and what their methods do. Names only: nothing is imported."""

from __future__ import annotations

PACKAGES = frozenset(
    {"sqlalchemy", "sqlmodel", "flask_sqlalchemy", "flask_sqlalchemy_lite", "flask_appbuilder", "advanced_alchemy"}
)
RELEVANT = (
    "session",
    "sqlalchemy",
    "sqlmodel",
    "engine",
    "relationship",
    "declarativ",
    "_local",
    "mapped",
    "db.",
)  # a file with none of these (in lower case) holds nothing to look at

READS = frozenset({"execute", "scalar", "scalars", "get", "get_one", "refresh", "stream", "stream_scalars"})
READS |= {"connection", "query"}
BULK = frozenset({"bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"})
PENDING = frozenset({"add", "add_all", "delete", "merge"})
SESSION_METHODS = (
    READS
    | BULK
    | PENDING
    | {"begin", "begin_nested", "close", "close_all", "commit", "rollback", "flush", "expire", "expire_all", "expunge"}
    | {
        "expunge_all",
        "get_transaction",
        "get_nested_transaction",
        "get_bind",
        "prepare",
        "remove",
        "reset",
        "invalidate",
        "run_sync",
        "enable_relationship_loading",
    }
)
# Statements that go to the database where they stand.
IO = (READS | BULK | {"commit", "rollback", "flush"}) - {"connection", "query"}
# Methods of a Query, a Result or a ScalarResult that run the statement or give rows.
ONE = frozenset({"first", "one", "one_or_none", "scalar_one", "scalar_one_or_none", "get", "scalar", "get_or_404"})
ONE |= {"first_or_404", "one_or_404", "fetchone"}
ALL = frozenset({"all", "fetchall", "fetchmany", "yield_per", "partitions", "unique", "paginate"})
QUERY_IO = frozenset(
    {"all", "first", "one", "one_or_none", "scalar", "count", "get", "delete", "update", "first_or_404"}
)
QUERY_IO |= {"get_or_404", "one_or_404", "paginate"}
# Each counts as one operation of the inventory.
OPERATIONS = SESSION_METHODS - {
    "get_transaction",
    "get_nested_transaction",
    "get_bind",
    "close",
    "close_all",
    "remove",
    "reset",
    "begin",
    "enable_relationship_loading",
}

WRITING_SQL = frozenset({"insert", "update", "delete", "merge", "replace", "truncate", "copy"})
DDL = frozenset({"create", "drop", "alter", "comment", "grant", "revoke"})
BROAD = frozenset({"Exception", "BaseException", "SQLAlchemyError", "DBAPIError", "DatabaseError", "StatementError"})
DATABASE_ERRORS = frozenset({"IntegrityError", "OperationalError", "ProgrammingError", "InterfaceError", "DataError"})
DATABASE_ERRORS |= {"InternalError", "StaleDataError", "FlushError", "PendingRollbackError"}

EAGER = frozenset({"joined", "selectin", "subquery", "immediate", "False"})

OPTIONAL = frozenset({"Optional", "Final", "ClassVar", "Required", "NotRequired", "ReadOnly", "Mapped"})
STREAMS = frozenset({"Iterator", "Generator", "AsyncIterator", "AsyncGenerator"})
MANAGERS = frozenset({"AbstractContextManager", "ContextManager"})
ASYNC_MANAGERS = frozenset({"AbstractAsyncContextManager", "AsyncContextManager"})
MANY = frozenset({"list", "List", "Sequence", "Iterable", "Collection", "set", "Set", "frozenset", "tuple", "Tuple"})
MANY |= {"ScalarResult", "AsyncIterable", "MutableSequence", "deque"}
LATER = frozenset({"Awaitable", "Coroutine", "Task", "Future"})


def known(name: str) -> str:
    """The last part of a full name of one of the packages; empty for all else."""
    root, _, rest = name.partition(".")
    return rest.rpartition(".")[2] if root in PACKAGES and rest else ""
