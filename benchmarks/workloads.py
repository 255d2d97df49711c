"""What is measured. A workload prepares, yields a function that does ``n`` repeats, and cleans up.

Only the yielded function is measured. Each one is the right way to do the thing, so that no rule has
anything to report, and the way it is usually written, so that the line of the caller is next to the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from .databases import Database, UnavailableError
from .models import Item, Order, order_row

Run = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """``repeats``: how many times a sample under callgrind does it; ``most``: how many may be prepared at once.

    ``slice``: how many make a slice of the wall or processor time; None: as many as take 20 ms.
    ``steady``: its count hardly depends on where things happen to lie in memory, so that once is enough.
    """

    name: str
    title: str
    prepare: Callable[[Database, int], Iterator[Run]]
    repeats: int
    most: int = 1_000_000
    is_async: bool = False
    slice: int | None = None
    steady: bool = False


def read(db: Database, n: int) -> Iterator[Run]:
    with Session(db.engine) as session:
        order = session.get_one(Order, 1)

        def run() -> None:
            for _ in range(n):
                order.status  # noqa: B018
                order.note  # noqa: B018
                order.total  # noqa: B018
                order.weight  # noqa: B018
                order.status  # noqa: B018
                order.note  # noqa: B018
                order.total  # noqa: B018
                order.weight  # noqa: B018
                order.status  # noqa: B018
                order.note  # noqa: B018

        yield run


def load(db: Database, n: int) -> Iterator[Run]:
    with Session(db.engine) as session:

        def run() -> None:
            for _ in range(n):
                session.scalars(select(Order)).all()

        yield run


def flush(db: Database, n: int) -> Iterator[Run]:
    with Session(db.engine) as session:
        session.connection()
        batches = [[Order(**order_row(number)) for number in range(1000)] for _ in range(n)]

        def run() -> None:
            for batch in batches:
                session.add_all(batch)
                session.flush()

        yield run
        session.rollback()


def short(db: Database, n: int) -> Iterator[Run]:
    engine = db.engine

    def run() -> None:
        for _ in range(n):
            with Session(engine) as session:
                session.get(Order, 1)

    yield run


def commit(db: Database, n: int) -> Iterator[Run]:
    with Session(db.engine) as session:
        order = session.get_one(Order, 1)
        session.commit()

        def run() -> None:
            for number in range(n):
                order.total = -1 - number
                session.commit()

        yield run
        order.total = 1
        session.commit()


def lazy(db: Database, n: int) -> Iterator[Run]:
    sessions = [Session(db.engine) for _ in range(n)]  # one load each: more would be an n-plus-one
    orders = [session.get_one(Order, number) for number, session in enumerate(sessions, 1)]

    def run() -> None:
        for order in orders:
            order.items  # noqa: B018

    yield run
    for session in sessions:
        session.close()


def open_close(db: Database, n: int) -> Iterator[Run]:
    engine = db.engine

    def run() -> None:
        for _ in range(n):
            session = Session(engine)
            session.close()

    yield run


def async_short(db: Database, n: int) -> Iterator[Run]:
    from sqlalchemy.ext.asyncio import AsyncSession

    engine, loop = db.async_engine, db.loop

    async def sessions() -> None:
        for _ in range(n):
            async with AsyncSession(engine) as session:
                await session.get(Order, 1)

    yield lambda: loop.run_until_complete(sessions())


def bulk(db: Database, n: int) -> Iterator[Run]:
    rows = [order_row(number) for number in range(1000)]
    with Session(db.engine) as session:
        session.connection()

        def run() -> None:
            for _ in range(n):
                session.execute(insert(Order), rows)

        yield run
        session.rollback()


def append(db: Database, n: int) -> Iterator[Run]:
    with Session(db.engine) as session:
        order = session.get_one(Order, 1)
        items = order.items
        added = [Item(name="nut") for _ in range(n)]

        def run() -> None:
            for item in added:
                items.append(item)

        yield run
        session.rollback()


def sets(db: Database, n: int) -> Iterator[Run]:
    with Session(db.engine) as session:
        order = session.get_one(Order, 1)

        def run() -> None:
            for _ in range(n):
                for number in range(1000):
                    order.total = number

        yield run
        session.rollback()


def requests(path: str) -> Callable[[Database, int], Iterator[Run]]:
    """Requests to the application in `service`, and an export at their end."""

    def prepare(db: Database, n: int) -> Iterator[Run]:
        try:
            from . import service
        except ImportError as error:
            raise UnavailableError(str(error)) from error
        yield from service.requests(db, path, n)

    return prepare


ALL: tuple[Workload, ...] = (
    Workload("read", "read of a loaded attribute, ten times", read, 500, steady=True),
    Workload("load", "load of 10,000 objects", load, 1, steady=True),
    Workload("flush", "flush of 1,000 inserts", flush, 1, most=5, steady=True),
    Workload("short", "open, get, close", short, 40),
    Workload("commit", "update and commit", commit, 40),
    Workload("lazy", "lazy load of a collection", lazy, 20, most=20),
    Workload("open+close", "open and close without work", open_close, 200),
    Workload("async", "open, get, close with AsyncSession", async_short, 20, is_async=True),
    Workload("bulk", "bulk insert of 1,000 rows", bulk, 1, steady=True),
    Workload("append", "append to a relationship", append, 200, most=1000),
    Workload("set", "1,000 attribute sets", sets, 1),
)

REQUESTS: tuple[Workload, ...] = (
    Workload("def", "request to a def endpoint", requests("/orders/{key}"), 64, is_async=True, slice=128),
    Workload(
        "async def", "request to an async def endpoint", requests("/async/orders/{key}"), 64, is_async=True, slice=128
    ),
)


def named(names: list[str]) -> list[Workload]:
    """The workloads of those names, in the order of the tables; all but the requests if there are none."""
    return [workload for workload in (*ALL, *REQUESTS) if workload.name in names] if names else list(ALL)
