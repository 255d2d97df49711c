"""The rule ``cross-session``: one instance, or one row, in two open sessions."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import QueuePool

import sessionwatch
from sessionwatch import FindingError
from sessionwatch.output.messages import render
from sessionwatch.record.key import KEY
from sessionwatch.watch.watch import Watch
from tests.models import Contract, create
from tests.rules import models
from tests.rules.models import Customer, Item, Order
from tests.rules.places import evidence_line, is_idle, labels, line, only

RULE = "cross-session"


@pytest.fixture
def memory() -> Iterator[Engine]:
    """A seeded SQLite database in memory that two sessions share."""
    engine = create_engine(
        "sqlite:///file:cross?mode=memory&cache=shared&uri=true",
        poolclass=QueuePool,
        connect_args={"timeout": 1, "check_same_thread": False},
    )
    with engine.connect():
        models.seed(engine)
        yield engine
    engine.dispose()


def load(session: Session) -> Order:
    """The order."""
    return session.scalars(select(Order)).one()  # query


def add(other: Session, order: Order) -> None:
    other.add(order)  # add


def add_all(other: Session, order: Order) -> None:
    other.add_all([Customer(name="Bea"), order])  # add all


def cascade(other: Session, order: Order) -> None:
    customer = Customer(name="Bea")
    customer.orders.append(order)
    other.add(customer)  # cascade


def append(other: Session, order: Order) -> None:
    customer = other.scalars(select(Customer)).one()
    with other.no_autoflush:
        customer.orders.append(order)  # append


def assign(other: Session, order: Order) -> None:
    item = other.scalars(select(Item)).first()
    assert item is not None
    with other.no_autoflush:
        item.order = order  # assign


def delete(other: Session, order: Order) -> None:
    other.delete(order)  # delete


WAYS: list[tuple[Callable[[Session, Order], None], str]] = [
    (add, "add"),
    (add_all, "add all"),
    (cascade, "cascade"),
    (append, "append"),
    (assign, "assign"),
    (delete, "delete"),
]


# -- reports: an instance of another session ------------------------------------------------------------


@pytest.mark.parametrize(("give", "marker"), WAYS, ids=[marker for _, marker in WAYS])
def test_reports_an_instance_given_away(
    watch: Watch, memory: Engine, give: Callable[[Session, Order], None], marker: str
) -> None:
    """Each way to give away an instance is one finding at the user's line, and a note on SQLAlchemy's error."""
    with Session(memory) as session, Session(memory) as other:
        order = load(session)
        with pytest.raises(InvalidRequestError, match="is already attached to session") as refusal:
            give(other, order)
        other.rollback()
        session.rollback()
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Order", line(marker))
    assert refusal.value.__notes__ == [render(finding)]


def test_reports_the_message_on_every_database(watch: Watch, shop: Engine) -> None:
    """The evidence names both sessions' places and the query's, and the text is exact."""
    session = Session(shop)  # first session
    other = Session(shop)  # second session
    order = load(session)
    with pytest.raises(InvalidRequestError):
        other.add(order)  # given
    session.close()
    other.close()
    finding = only(watch, RULE)
    first, second = session_label(finding, "first session"), session_label(finding, "second session")
    path, here = finding.path, "in test_reports_the_message_on_every_database"
    query = f"{path}:{line('query')} in load".ljust(len(f"{path}:{line('given')} {here}"))
    assert render(finding).splitlines() == [
        f"cross-session: the Order belongs to session {first}, which is open, and was given to session {second}",
        f"  given   {path}:{line('given')} {here}     session {second}",
        f"  opened  {path}:{line('second session')} {here}     session {second}",
        f"  loaded  {query}     session {first}",
        f"  opened  {path}:{line('first session')} {here}     session {first}",
        "  fix: use one session for both, or load the order in the session that needs it:",
        "       order = other.get(Order, order.id)",
        "  more: sessionwatch explain cross-session",
    ]
    assert is_idle(shop)


def session_label(finding: sessionwatch.Finding, marker: str) -> str:
    """The label of the session that was opened on a marked line of this file."""
    wanted = line(marker)
    return next(str(item.session) for item in finding.evidence if item.site is not None and item.site.line == wanted)


def test_reports_a_pending_instance(watch: Watch, memory: Engine) -> None:
    """An object that was added and not flushed belongs to its session as well."""
    with Session(memory) as session, Session(memory) as other:
        item = Item(name="screw")
        session.add(item)
        with pytest.raises(InvalidRequestError):
            other.add(item)  # pending
        session.rollback()
    assert only(watch, RULE).line == line("pending")


async def test_reports_an_instance_given_away_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """The same between two AsyncSessions; the fix says await."""
    async with AsyncSession(async_shop) as session, AsyncSession(async_shop) as other:
        order = (await session.scalars(select(Order))).one()
        with pytest.raises(InvalidRequestError):
            other.add(order)  # async add
    finding = only(watch, RULE)
    assert finding.line == line("async add")
    assert "order = await other.get(Order, order.id)" in finding.fix
    assert is_idle(async_shop)


# -- reports: a row in two sessions ---------------------------------------------------------------------


def test_reports_a_later_write_of_an_older_copy(watch: Watch, shop: Engine) -> None:
    """A row that another session changed since it was loaded is changed again: a finding at the second flush."""
    with Session(shop) as session, Session(shop) as other:
        order, same = load(session), load(other)
        order.status = "paid"
        session.commit()  # first write
        same.status = "sent"
        other.commit()  # second write
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Order.status", line("second write"))
    assert labels(finding) == ["written", "written", "loaded", "opened", "opened"]
    assert finding.evidence[1].site is not None
    assert finding.evidence[1].site.line == line("first write")
    assert evidence_line(finding, "loaded") == line("query")
    assert finding.message == "Order.status of one row was changed in two open sessions; the later write wins"


def test_reports_a_write_beside_a_pending_change(watch: Watch, shop: Engine) -> None:
    """The other session's change may still wait for its flush."""
    with Session(shop) as session, Session(shop) as other:
        order, same = load(session), load(other)
        order.status, same.notes = "paid", "ring twice, please"
        session.commit()  # beside pending
        other.rollback()
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Order", line("beside pending"))
    assert "changed in two open sessions: notes in S" in finding.message
    assert "not written yet" in render(finding)


def test_reports_a_session_opened_inside(watch: Watch, memory: Engine) -> None:
    """A function that opens a session of its own changes what its caller holds."""
    with Session(memory) as session:
        order = load(session)
        pay_in_a_session_of_its_own(memory)
        order.status = "sent"
        session.commit()  # after the inner one
    assert only(watch, RULE).line == line("after the inner one")


def pay_in_a_session_of_its_own(engine: Engine) -> None:
    with Session(engine) as session:
        load(session).status = "paid"
        session.commit()


def test_reports_two_threads_of_a_unit(watch: Watch, memory: Engine) -> None:
    """A unit of work is one, whatever its threads."""
    with sessionwatch.unit_of_work("import", sessions="many"):
        session, other = Session(memory), Session(memory)
        order, same = load(session), load(other)
        in_a_thread(lambda: change_and_commit(session, order))
        same.status = "sent"
        other.commit()  # in the unit
        session.close()
        other.close()
    assert only(watch, RULE).line == line("in the unit")
    assert watch.findings[0].unit == "import"


def change_and_commit(session: Session, order: Order) -> None:
    order.status = "paid"
    session.commit()


def in_a_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


async def test_reports_a_later_write_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """The same for two AsyncSessions of one task."""
    async with AsyncSession(async_shop) as session, AsyncSession(async_shop) as other:
        order = (await session.scalars(select(Order))).one()
        same = (await other.scalars(select(Order))).one()
        order.status = "paid"
        await session.commit()
        same.status = "sent"
        await other.commit()  # async second write
    assert only(watch, RULE).line == line("async second write")
    assert is_idle(async_shop)


def write_twice(engine: Engine) -> None:
    with Session(engine) as session, Session(engine) as other:
        order, same = load(session), load(other)
        order.status = "paid"
        session.commit()
        same.status = "sent"
        other.commit()


async def write_beside_pending(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, AsyncSession(engine) as other:
        order = (await session.scalars(select(Order))).one()
        same = (await other.scalars(select(Order))).one()
        order.status, same.status = "paid", "sent"
        await session.commit()


# -- strict mode ----------------------------------------------------------------------------------------


def test_strict_raises_before_the_second_write(strict: Watch, shop: Engine) -> None:
    """The second flush fails before it sends anything; the first write stands and the pool is idle."""
    with pytest.raises(FindingError):
        write_twice(shop)
    assert is_idle(shop)
    with Session(shop) as session:
        assert session.scalars(select(Order.status)).one() == "paid"
    only(strict, RULE)


def test_strict_leaves_sqlalchemys_error(strict: Watch, shop: Engine) -> None:
    """The refusal of an instance stays SQLAlchemy's."""
    with Session(shop) as session, Session(shop) as other:
        order = load(session)
        with pytest.raises(InvalidRequestError) as refusal:
            other.add(order)
    assert not isinstance(refusal.value, FindingError)
    assert is_idle(shop)
    only(strict, RULE)


async def test_strict_raises_under_asyncio(strict: Watch, async_shop: AsyncEngine) -> None:
    """The same through AsyncSession."""
    with pytest.raises(FindingError):
        await write_beside_pending(async_shop)
    assert is_idle(async_shop)
    only(strict, RULE)


# -- stays silent on ------------------------------------------------------------------------------------


def test_ignores_a_key_in_a_query(watch: Watch, shop: Engine) -> None:
    """An instance's key may be used in any session."""
    with Session(shop) as session, Session(shop) as other:
        order = load(session)
        same = other.get(Order, order.id)
        items = other.scalars(select(Item).where(Item.order_id == order.id)).all()
        other.add(Item(name="screw", order_id=order.id))
        other.commit()
        assert same is not order
        assert len(items) == 2
    assert watch.findings == []


def test_ignores_sessions_in_sequence(watch: Watch, shop: Engine) -> None:
    """One session after the other is no overlap."""
    for status in ("paid", "sent"):
        with Session(shop) as session:
            load(session).status = status
            session.commit()
    assert watch.findings == []


def test_ignores_what_was_loaded_after_the_write(watch: Watch, shop: Engine) -> None:
    """A session that is open, and loads or refreshes the row after the other's commit, has seen the write."""
    with Session(shop) as session, Session(shop) as other:
        same = load(other)
        load(session).status = "paid"
        session.commit()
        other.refresh(same)
        same.status = "sent"
        other.commit()
        later = load(session)
        later.status = "back"
        session.commit()
    assert watch.findings == []


def test_ignores_a_write_that_was_rolled_back(watch: Watch, shop: Engine) -> None:
    """What was taken back has changed nothing."""
    with Session(shop) as session, Session(shop) as other:
        order, same = load(session), load(other)
        order.status = "paid"
        session.flush()
        session.rollback()
        same.status = "sent"
        other.commit()
    assert watch.findings == []


def test_ignores_a_merge_of_a_living_instance(watch: Watch, shop: Engine) -> None:
    """A merge makes a copy."""
    with Session(shop) as session, Session(shop) as other:
        order = load(session)
        assert other.merge(order) is not order
        other.commit()
    assert watch.findings == []


def test_ignores_different_rows(watch: Watch, shop: Engine) -> None:
    """Two sessions may change two rows."""
    with Session(shop) as session, Session(shop) as other:
        items = [*session.scalars(select(Item).order_by(Item.id))]
        others = [*other.scalars(select(Item).order_by(Item.id))]
        items[0].name = "screw"
        session.commit()
        others[1].name = "nail"
        other.commit()
    assert watch.findings == []


def test_ignores_a_change_without_an_effect(watch: Watch, shop: Engine) -> None:
    """Setting what is there already changes nothing."""
    with Session(shop) as session, Session(shop) as other:
        order, same = load(session), load(other)
        order.status, same.status = "paid", "new"
        session.commit()
        same.status = "new"
        other.commit()
    assert watch.findings == []


def test_ignores_two_threads_without_a_unit(watch: Watch, memory: Engine) -> None:
    """Two requests on two threads are two units."""
    with Session(memory) as other:
        same = load(other)
        in_a_thread(lambda: pay_in_a_session_of_its_own(memory))
        same.status = "sent"
        other.commit()
    assert watch.findings == []


async def test_ignores_two_tasks_without_a_unit(watch: Watch, async_shop: AsyncEngine) -> None:
    """Two requests on two tasks are two units."""

    async def pay() -> None:
        async with AsyncSession(async_shop) as session:
            (await session.scalars(select(Order))).one().status = "paid"
            await session.commit()

    async with AsyncSession(async_shop) as other:
        same = (await other.scalars(select(Order))).one()
        await asyncio.create_task(pay())
        same.status = "sent"
        await other.commit()
    assert watch.findings == []


def test_ignores_two_databases(watch: Watch, memory: Engine, tmp_path: object) -> None:
    """The same key in two databases is two rows."""
    elsewhere = create_engine(f"sqlite:///{tmp_path}/elsewhere.db")
    models.seed(elsewhere)
    with Session(memory) as session, Session(elsewhere) as other:
        order, same = load(session), load(other)
        order.status, same.status = "paid", "sent"
        session.commit()
        other.commit()
    assert watch.findings == []
    elsewhere.dispose()


def test_ignores_versions(watch: Watch, memory: Engine) -> None:
    """A mapping with a version is guarded by SQLAlchemy itself."""
    create(memory, Contract)
    with Session(memory) as session:
        session.add(Contract(text="draft"))
        session.commit()
    with Session(memory) as session, Session(memory) as other:
        contract, same = session.scalars(select(Contract)).one(), other.scalars(select(Contract)).one()
        contract.text = "signed"
        session.commit()
        same.text = "torn"
        with pytest.raises(StaleDataError):
            other.commit()
        other.rollback()
    assert watch.findings == []


def test_ignores_what_moves_on(watch: Watch, shop: Engine) -> None:
    """An instance whose session has ended, or let go of it, may enter another one."""
    with Session(shop) as session:
        order = load(session)
        session.expunge(order)
        with Session(shop) as other:
            other.add(order)
            assert order.status == "new"
    copy = pickle.loads(pickle.dumps(order))
    with Session(shop) as session:
        session.add(copy)
        assert copy.status == "new"
    assert watch.findings == []


def test_ignores_other_errors(watch: Watch, memory: Engine) -> None:
    """Not every InvalidRequestError is this one."""
    with Session(memory) as session, pytest.raises(InvalidRequestError) as refusal:
        session.refresh(Order())
    assert watch.findings == []
    assert not hasattr(refusal.value, "__notes__")


def test_ignores_what_is_allowed(watch: Watch, memory: Engine) -> None:
    """An allowance with a reason covers it."""
    with sessionwatch.allow(RULE, reason="a race on purpose"), Session(memory) as session, Session(memory) as other:
        order, same = load(session), load(other)
        order.status, same.status = "paid", "sent"
        session.commit()
        other.rollback()
    assert watch.findings == []
    assert [finding.rule for finding in watch.allowed] == [RULE]


def test_reports_though_the_first_session_is_gone(watch: Watch, memory: Engine) -> None:
    """A note about a session does not keep it."""
    with Session(memory) as other:
        same = load(other)
        first = pay_and_forget(memory)
        gc.collect()
        assert first() is None
        same.status = "sent"
        other.commit()
    assert labels(only(watch, RULE)) == ["written", "written", "loaded", "opened", "opened"]


def pay_and_forget(engine: Engine) -> weakref.ref[Session]:
    session = Session(engine)
    load(session).status = "paid"
    session.commit()
    return weakref.ref(session)


# -- memory ---------------------------------------------------------------------------------------------


def test_nothing_is_kept_of_sessions_that_ended(watch: Watch, memory: Engine) -> None:
    """The table of working sessions is empty when nobody works, and a record lets go of its changes."""
    with Session(memory) as session, Session(memory) as other:
        order, same = load(session), load(other)
        order.status = "paid"
        session.commit()
        record = session.__dict__[KEY]
        assert same.status == "new"
    assert record.changes == ()
    assert record.working is None
