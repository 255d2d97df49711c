"""The program that is fuzzed: three sessions on one database, each on an engine of its own, in threads or on a loop.

What the oracle knows, it asks of the database, by another connection and by the session's own, and of SQLAlchemy's
inspection. It never asks sessionwatch.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, ForeignKey, create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.pool import QueuePool

TABLES = ("orders", "items", "tags")
SLOTS = 3


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str | None]
    items: Mapped[list[Item]] = relationship(back_populates="order", cascade="all, delete-orphan")


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str | None]
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order | None] = relationship(back_populates="items")


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[str] = mapped_column(primary_key=True)
    word: Mapped[str | None]


MODELS: tuple[Any, ...] = (Order, Item, Tag)
Rows = dict[str, list[tuple[Any, ...]]]


def rows(connection: Any) -> Rows:
    """What is in the database, as a connection sees it."""
    found = {}
    for table in TABLES:
        cursor = connection.cursor()
        cursor.execute(f"select * from {table} order by id")
        found[table] = cursor.fetchall()
        cursor.close()
    return found


class Slot:
    """Where a session is: its engine, the driver's connection, what the program did with the errors that it got."""

    def __init__(self, program: Program, number: int, engine: Any) -> None:
        self.program, self.number, self.engine = program, number, engine
        self.driver: Any = None  # the one connection of its pool
        self.session: Any = None
        self.changes = 0  # that the driver had counted when nothing was uncommitted last
        self.unanswered = False  # an error was swallowed
        self.undone = False  # by such an error: what had been written
        self.told: list[str] = []  # of such errors, by sessionwatch
        self.nested: list[Any] = []
        sync: Engine = getattr(engine, "sync_engine", engine)
        event.listen(sync, "connect", self._connected)
        event.listen(sync, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        self.pool = sync.pool

    def _connected(self, connection: Any, _: Any) -> None:
        self.driver = connection
        connection.isolation_level = None  # SQLAlchemy's own BEGIN, so that savepoints work
        self.changes = 0

    def begin(self) -> None:
        """A new session."""
        self.session = self.program.make(self.engine)
        self.forget()

    def forget(self) -> None:
        self.unanswered = self.undone = False
        self.told = []
        self.nested = []
        self.changes = self.counted()

    def counted(self) -> int:
        """The rows that the driver's connection has changed in its life."""
        try:
            return int(self.raw().total_changes) if self.driver is not None else 0
        except (sqlite3.ProgrammingError, ValueError):  # it was closed; the pool opens another one
            self.driver = None
            return 0

    def raw(self) -> Any:
        return getattr(self.driver, "driver_connection", self.driver)

    @property
    def sync(self) -> Session:
        found: Session = getattr(self.session, "sync_session", self.session)
        return found

    def written(self) -> bool:
        """Whether its connection has rows that the database does not have. Who has written holds the lock for that."""
        if not (self.in_transaction() and self.touched()):
            return False
        seen: Rows = self.program.on_loop(self, lambda _: rows(self.driver))
        return seen != rows(self.program.watching)

    def in_transaction(self) -> bool:
        self.counted()
        return self.driver is not None and self.holds() and bool(self.raw().in_transaction)

    def touched(self) -> bool:
        """Whether rows were changed at all since nothing was uncommitted last, perhaps back to what they were."""
        return self.counted() != self.changes

    def unflushed(self) -> bool:
        """Whether SQLAlchemy knows of objects that a flush would write."""
        session = self.sync
        changed = [one for one in session.dirty if session.is_modified(one, include_collections=False)]
        return bool(session.new or session.deleted or changed)

    def holds(self) -> bool:
        return bool(self.pool.checkedout())  # type: ignore[attr-defined]


class Program:
    """The database and its sessions."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fuzz.db"
        self.watching = sqlite3.connect(self.path, isolation_level=None)
        self.watching.execute("pragma journal_mode=wal")
        self.watching.execute("pragma synchronous=off")
        engine = create_engine(f"sqlite:///{self.path}")
        Base.metadata.create_all(engine)
        engine.dispose()
        self.slots = [Slot(self, number, self.engine()) for number in range(SLOTS)]
        self.told = 0

    def engine(self) -> Any:
        return create_engine(f"sqlite:///{self.path}", poolclass=QueuePool, **self.options())

    def options(self) -> dict[str, Any]:
        return {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0, "connect_args": {"timeout": 0}}

    def make(self, engine: Any) -> Any:
        return Session(engine)

    def on_loop(self, slot: Slot, work: Callable[[Session], Any]) -> Any:
        """Run it with the session, where the driver can be called."""
        return work(slot.session)

    def call(self, slot: Slot, name: str) -> Any:
        """A method of the session's, of the kind that has to be awaited on a loop."""
        return getattr(slot.session, name)()

    def leave(self, slot: Slot, error: Exception | None) -> None:
        """The session's ``with`` block, which ends with the error, if there is one."""
        with slot.session:
            if error is not None:
                raise error

    def word(self) -> str:
        self.told += 1
        return f"word {self.told}"

    def clear(self) -> None:
        self.told = 0
        for table in TABLES:
            self.watching.execute(f"delete from {table}")
        for number in (1, 2, 3):
            self.watching.execute("insert into orders values (?, ?)", (number, self.word()))
            self.watching.execute("insert into items values (?, ?, ?)", (number, self.word(), number))
            self.watching.execute("insert into tags values (?, ?)", (f"tag {number}", self.word()))

    def drop(self, slot: Slot) -> None:
        """Nobody has the session any more."""
        slot.session, slot.nested = None, []
        gc.collect()

    def recover(self) -> None:
        """No session is left, whatever a step that failed has left."""
        for slot in self.slots:
            if slot.session is not None:
                self.call(slot, "close")
                slot.session, slot.nested = None, []

    def close(self) -> None:
        for slot in self.slots:
            slot.engine.dispose()
        self.watching.close()


class OnLoop(Program):
    """The same of asyncio sessions, on one event loop; each step is a task."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.runner.get_loop()
        super().__init__(folder)

    def engine(self) -> Any:
        return create_async_engine(f"sqlite+aiosqlite:///{self.path}", **self.options())

    def make(self, engine: Any) -> Any:
        return AsyncSession(engine, expire_on_commit=False)

    def finish(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it as a task of its own. Its error is caught outside of the loop, by who called."""
        return self.runner.run(work)

    def on_loop(self, slot: Slot, work: Callable[[Session], Any]) -> Any:
        return self.finish(slot.session.run_sync(work))

    def call(self, slot: Slot, name: str) -> Any:
        return self.finish(getattr(slot.session, name)())

    def leave(self, slot: Slot, error: Exception | None) -> None:
        async def main() -> None:
            async with slot.session:
                if error is not None:
                    raise error

        self.finish(main())

    def drop(self, slot: Slot) -> None:
        async def main() -> None:
            slot.session, slot.nested = None, []
            gc.collect()
            await asyncio.sleep(0)

        self.runner.run(main())

    def close(self) -> None:
        async def main() -> None:
            for slot in self.slots:
                await slot.engine.dispose()

        self.runner.run(main())
        self.runner.close()
        self.watching.close()
