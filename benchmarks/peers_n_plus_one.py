"""The same small programs under pytest-queryguard and under sessionwatch: who finds the N+1, and who cries wolf.

    pip install -e '.[dev]' pytest-queryguard==0.4.1 && python benchmarks/peers_n_plus_one.py

Each program runs once bare, to count its statements, and once under each tool, with the tool's defaults; sessionwatch
also as a gate of tests (``n-plus-one = raise``). Prints a Markdown table. Exits with 1 where sessionwatch misses a
fault that the other one finds, or reports a program that is right.

What a tool told is looked for in its text: the *line* that reads (of this file), the *option* or call that mends it,
and the line of the *query* that should have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_queryguard.api import NPlusOneDetected, record_queries
from sqlalchemy import Engine, ForeignKey, create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    immediateload,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)

import sessionwatch
from sessionwatch.output.messages import render

PARENTS = 10
HERE = Path(__file__)
LINES = HERE.read_text(encoding="utf-8").splitlines()


class Base(AsyncAttrs, DeclarativeBase):
    """The base of the models."""


class Customer(Base):
    """Who orders."""

    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    orders: Mapped[list[Order]] = relationship(back_populates="customer", order_by="Order.id")


class Order(Base):
    """An order with a deferred column."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]
    notes: Mapped[str] = mapped_column(deferred=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    customer: Mapped[Customer] = relationship(back_populates="orders")
    items: Mapped[list[Item]] = relationship(cascade="all, delete-orphan")


class Item(Base):
    """A line of an order."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))


@dataclass(frozen=True)
class Program:
    """One program. ``mend``: what has to be in the fix; None where the program is right. ``body`` holds its lines."""

    name: str
    run: Callable[[Path], None]
    mend: str | None
    body: Callable[..., object]


PROGRAMS: list[Program] = []


def program(name: str, mend: str | None = None) -> Callable[[Callable[[Session], None]], None]:
    """Register a program that works in one session."""

    def register(function: Callable[[Session], None]) -> None:
        def run(file: Path) -> None:
            with opened(file) as engine, Session(engine) as session:
                function(session)

        PROGRAMS.append(Program(name, run, mend, function))

    return register


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Engine]:
    """An engine on the database."""
    engine = create_engine(f"sqlite:///{file}")
    yield engine
    engine.dispose()


# -- N+1 ----------------------------------------------------------------------------------------------


@program("many-to-one of 10 parents", "joinedload(Order.customer)")
def _many_to_one(session: Session) -> None:
    for order in session.scalars(select(Order)).all():  # query
        assert order.customer.name  # read


@program("collection of 10 parents", "selectinload(Order.items)")
def _collection(session: Session) -> None:
    for order in session.scalars(select(Order)).all():  # query
        assert len(order.items)  # read


@program("relationship of 2 parents", "selectinload(Order.items)")
def _two(session: Session) -> None:
    for order in session.scalars(select(Order).limit(2)).all():  # query
        assert len(order.items)  # read


@program("second level, below an eager first one", "selectinload(Customer.orders).selectinload(Order.items)")
def _second_level(session: Session) -> None:
    for customer in session.scalars(select(Customer).options(selectinload(Customer.orders))).all():  # query
        for order in customer.orders:
            assert len(order.items)  # read


@program("deferred column of 10 parents", "undefer(Order.notes)")
def _deferred(session: Session) -> None:
    for order in session.scalars(select(Order)).all():  # query
        assert order.notes  # read


@program("10 objects that a commit expired", "expire_on_commit=False")
def _expired(session: Session) -> None:
    orders = session.scalars(select(Order)).all()  # query
    session.commit()
    for order in orders:
        assert order.status  # read


@program("commit in the loop", "expire_on_commit=False")
def _commit_in_the_loop(session: Session) -> None:
    for order in session.scalars(select(Order)).all():  # query
        assert order.status  # read
        session.commit()


@program("loop of get()", ".in_(")
def _get(session: Session) -> None:
    for key in range(1, PARENTS + 1):
        session.get(Order, key)  # read


def _asynchronous(file: Path, run_sync: bool) -> None:
    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
        async with AsyncSession(engine) as session:
            await session.run_sync(_look) if run_sync else await _await_each(session)
        await engine.dispose()

    asyncio.run(main())


async def _await_each(session: AsyncSession) -> None:
    for order in (await session.scalars(select(Order))).all():  # query
        assert len(await order.awaitable_attrs.items)  # read


def _look(session: Session) -> None:
    for order in session.scalars(select(Order)).all():  # query
        assert len(order.items)  # read


PROGRAMS += [
    Program(
        "awaitable_attrs in a loop", lambda file: _asynchronous(file, False), "selectinload(Order.items)", _await_each
    ),
    Program("loop inside of run_sync()", lambda file: _asynchronous(file, True), "selectinload(Order.items)", _look),
]


# -- right as it is -----------------------------------------------------------------------------------


@program("eager loads")
def _eager(session: Session) -> None:
    query = select(Order).options(selectinload(Order.items), joinedload(Order.customer))
    for order in session.scalars(query).all():
        assert len(order.items)
        assert order.customer.name


@program("an immediateload that was asked for")
def _immediate(session: Session) -> None:
    for order in session.scalars(select(Order).options(immediateload(Order.items))).all():
        assert len(order.items)


@program("a many-to-one that the identity map answers")
def _identity_map(session: Session) -> None:
    customers = session.scalars(select(Customer)).all()
    assert all(order.customer in customers for order in session.scalars(select(Order)).all())


@program("one object, its relationship read after each commit")
def _waiting(session: Session) -> None:
    order = session.scalars(select(Order).where(Order.id == 1)).one()
    for _ in range(PARENTS):
        assert len(order.items)
        session.commit()


@program("a refresh() of each object, by hand")
def _refresh(session: Session) -> None:
    for order in session.scalars(select(Order)).all():
        session.refresh(order)


@program("a delete cascade")
def _cascade(session: Session) -> None:
    for order in session.scalars(select(Order)).all():
        session.delete(order)
    session.flush()
    session.rollback()


@program("a worker: one job a query and a transaction")
def _jobs(session: Session) -> None:
    for number in range(PARENTS):
        order = session.scalars(select(Order).order_by(Order.id).offset(number).limit(1)).one()
        assert len(order.items)
        session.commit()


def _sessions(file: Path) -> None:
    with opened(file) as engine:
        for key in range(1, PARENTS + 1):
            with Session(engine) as session:
                order = session.get_one(Order, key)
                assert len(order.items)


PROGRAMS.append(Program("a worker: one object a session", _sessions, None, _sessions))


# -- the tools ----------------------------------------------------------------------------------------


def seed(folder: Path) -> Path:
    """Ten customers with an order of two items each."""
    file = folder / "shop.db"
    with opened(file) as engine:
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            for _ in range(PARENTS):
                order = Order(status="new", notes="ring", items=[Item(), Item()])
                session.add(Customer(name="Ada", orders=[order]))
            session.commit()
    return file


def statements(one: Program, file: Path) -> int:
    """How many statements the program sends without any tool."""
    seen: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        one.run(file)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return len(seen)


def queryguard(one: Program, file: Path) -> str:
    """What pytest-queryguard says, with its defaults."""
    with record_queries() as log:
        one.run(file)
    try:
        log.assert_no_nplusone()
    except NPlusOneDetected as error:
        return str(error)
    return ""


def watched(one: Program, file: Path, gate: bool) -> str:
    """What sessionwatch says, with its defaults or as a gate."""
    level = {"n-plus-one": "raise"} if gate else {}
    with (
        sessionwatch.watching("strict" if gate else "log", log=False, rules=level) as watch,
        contextlib.suppress(sessionwatch.FindingError),
    ):
        one.run(file)
    return "\n".join(render(finding) for finding in watch.findings if finding.rule == "n-plus-one")


def outcome(one: Program, text: str) -> str:
    """``silent``, or ``found`` with what of the story the text tells."""
    if not text:
        return "silent"
    told = [name for name in ("read", "query") if any(f"{HERE.name}:{number}" in text for number in _lines(one, name))]
    told = ["line" if name == "read" else name for name in told]
    told += ["option"] if one.mend and one.mend in text else []
    return f"found ({', '.join(told)})" if told else "found"


def _lines(one: Program, name: str) -> list[int]:
    """The lines that are marked as the program's read or query."""
    code = one.body.__code__
    first = code.co_firstlineno
    last = max(number for *_, number in code.co_lines() if number is not None)
    return [number for number in range(first, last + 1) if f"  # {name}" in LINES[number - 1]]


def main() -> int:
    version = importlib.metadata.version("pytest-queryguard")
    print(f"| program | statements | pytest-queryguard {version} | sessionwatch | sessionwatch, n-plus-one = raise |")
    print("|---|---|---|---|---|")
    bad = 0
    for one in PROGRAMS:
        with tempfile.TemporaryDirectory() as folder:
            file = seed(Path(folder))
            texts = [queryguard(one, file), watched(one, file, False), watched(one, file, True)]
            count = statements(one, file)
        wrong = bool(texts[1] or texts[2]) if one.mend is None else bool(texts[0]) and not texts[2]
        bad += wrong
        cells = [outcome(one, text) for text in texts]
        print(f"| {one.name} | {count} | {' | '.join(cells)} |{'  <- wrong' if wrong else ''}")
    faults = sum(one.mend is not None for one in PROGRAMS)
    print(
        f"\nThe first {faults} are N+1 queries; the others are right as they are: `silent` is the right outcome there."
    )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
