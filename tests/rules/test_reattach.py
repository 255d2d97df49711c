"""The rule ``reattach``: detached instances that do harm in the session that receives them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import DateTime, Engine, Numeric, String, TypeDecorator, create_engine, delete, func, select, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    Mapped,
    Session,
    make_transient,
    make_transient_to_detached,
    mapped_column,
    selectinload,
)
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import QueuePool

import sessionwatch
from sessionwatch import FindingError
from sessionwatch.output.messages import render
from sessionwatch.watch.watch import Watch
from tests.models import Base, Contract, create
from tests.rules import models
from tests.rules.models import Customer, Item, Order
from tests.rules.places import evidence_line, is_idle, labels, line, only

RULE = "reattach"


class Lower(TypeDecorator[str]):
    """Stores in lower case."""

    impl = String(50)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value.lower() if value is not None else None


class Stock(Base):
    """A row whose values come back in another form than they were given."""

    __tablename__ = "reattach_stock"

    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    name: Mapped[str] = mapped_column(Lower())
    counted: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    changed: Mapped[datetime | None] = mapped_column(onupdate=datetime.now)
    amount: Mapped[int] = mapped_column(server_default="0")


@pytest.fixture
def memory() -> Iterator[Engine]:
    """A seeded SQLite database in memory, with a pool that counts its connections."""
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0)
    models.seed(engine)
    create(engine, Stock, Contract)
    yield engine
    engine.dispose()


def load(engine: Engine) -> Order:
    """An order whose session has ended."""
    with Session(engine) as session:  # former session
        return session.scalars(select(Order).options(selectinload(Order.items))).one()  # query


def load_quietly(engine: Engine) -> Order:
    """The same where a test does not ask for places."""
    with Session(engine) as session:
        return session.scalars(select(Order)).one()


def pay(engine: Engine) -> None:
    """Somebody else changes the row."""
    with engine.begin() as connection:
        connection.execute(update(Order).values(status="paid"))


def remove(engine: Engine) -> None:
    """Somebody else deletes the row."""
    with engine.begin() as connection:
        connection.execute(update(Item).values(order_id=None))
        connection.execute(delete(models.order_tags))
        connection.execute(delete(Order))


# -- reports: older values over newer ones --------------------------------------------------------------


def test_reports_a_stale_merge(watch: Watch, shop: Engine) -> None:
    """A merge that puts an older value over the row's is a finding at the merge, with both sessions."""
    order = load(shop)
    pay(shop)
    with Session(shop) as session:  # new session
        session.merge(order)  # merge
        session.commit()
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Order.status", line("merge"))
    assert labels(finding) == ["merged", "opened", "detached", "loaded", "opened"]
    assert evidence_line(finding, "opened") == line("new session")
    assert evidence_line(finding, "loaded") == line("query")
    assert is_idle(shop)


def test_message_is_exact(watch: Watch, memory: Engine) -> None:
    """The whole text names the attribute, the places and one fix, and no value."""
    order = load(memory)
    pay(memory)
    with Session(memory) as session:
        session.merge(order)  # exact
        session.commit()
    finding = only(watch, RULE)
    path, here, before = finding.path, line("exact"), line("former session")
    new, old = (item.session for item in finding.evidence if item.label == "opened")
    merging = f"{path}:{here} in test_message_is_exact"
    opening = f"{path}:{here - 1} in test_message_is_exact"
    loading = f"{path}:{before} in load".ljust(len(merging))
    assert render(finding).splitlines() == [
        "reattach: an older value was merged over Order.status, which had changed since the Order was loaded",
        f"  merged    {merging}     session {new}",
        f"  opened    {opening}     session {new}",
        f"  detached  {loading}     session {old} closed here",
        f"  loaded    {path}:{line('query')} in load",
        f"  opened    {loading}     session {old}",
        "  fix: pass the key, load the order where it is changed, and set only what changes:",
        "       order = session.get(Order, order_id)",
        "  more: sessionwatch explain reattach",
    ]
    assert "paid" not in str(finding.as_json())


def test_reports_what_was_not_set_beside_what_was(watch: Watch, memory: Engine) -> None:
    """Setting one attribute does not excuse the older value of another."""
    with Session(memory) as session:
        customer = session.scalars(select(Customer)).one()
        order = session.scalars(select(Order)).one()
        _ = order.notes
    pay(memory)
    order.notes = "leave at the door"
    with Session(memory) as session:
        session.merge(order)  # beside
        session.commit()
    assert customer is not order
    assert (only(watch, RULE).subject, watch.findings[0].line) == ("Order.status", line("beside"))


def test_reports_several_attributes_in_one_finding(watch: Watch, memory: Engine) -> None:
    """One merged instance is one finding, whatever it overwrites."""
    order = load(memory)
    with memory.begin() as connection:
        connection.execute(update(Order).values(status="paid", customer_id=None))
    with Session(memory) as session:
        session.merge(order)
        session.commit()
    assert sorted(only(watch, RULE).subject.split(" and ")) == ["Order.customer_id", "Order.status"]


def test_reports_a_cascaded_merge(watch: Watch, memory: Engine) -> None:
    """What the merge takes along is judged as well, at the user's call."""
    order = load(memory)
    with memory.begin() as connection:
        connection.execute(update(Item).values(name="screw"))
    with Session(memory) as session:
        session.merge(order)  # cascade
        session.commit()
    finding = only(watch, RULE)
    assert (finding.subject, finding.line, finding.count) == ("Item.name", line("cascade"), 2)


def test_reports_a_stale_pickle(watch: Watch, memory: Engine) -> None:
    """A cached copy that is merged after its row has changed overwrites the row."""
    cached = pickle.dumps(load_quietly(memory))
    pay(memory)
    with Session(memory) as session:
        session.merge(pickle.loads(cached))  # cached
        session.commit()
    finding = only(watch, RULE)
    assert finding.line == line("cached")
    assert "it was unpickled or copied; no session has held this one" in render(finding)


def test_reports_a_merge_of_a_living_sessions_instance(watch: Watch, memory: Engine) -> None:
    """The instance's own session may be open: its values are as old."""
    with Session(memory, expire_on_commit=False) as reader:
        order = reader.scalars(select(Order)).one()
        reader.commit()
        pay(memory)
        with Session(memory) as session:
            session.merge(order)  # living
            session.commit()
    assert only(watch, RULE).line == line("living")


def test_reports_what_was_committed_and_changed_since(watch: Watch, memory: Engine) -> None:
    """A new object that was committed is as old as its commit."""
    with Session(memory, expire_on_commit=False) as session:
        order = Order(status="fresh")
        session.add(order)
        session.commit()
    pay(memory)
    with Session(memory) as session:
        session.merge(order)  # committed before
        session.commit()
    assert only(watch, RULE).line == line("committed before")


async def test_reports_a_stale_merge_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """The same through AsyncSession; the fix says await."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
    async with async_shop.begin() as connection:
        await connection.execute(update(Order).values(status="paid"))
    async with AsyncSession(async_shop) as session:
        await session.merge(order)  # async merge
        await session.commit()
    finding = only(watch, RULE)
    assert finding.line == line("async merge")
    assert "order = await session.get(Order, order_id)" in finding.fix
    assert is_idle(async_shop)


# -- reports: rows that are gone, rows that are there already -------------------------------------------


def test_reports_a_row_brought_back(watch: Watch, shop: Engine) -> None:
    """A merge that inserts a deleted row again is a finding."""
    order = load_quietly(shop)
    remove(shop)
    with Session(shop) as session:
        session.merge(order)  # revive
        session.commit()
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Order", line("revive"))
    assert finding.message == "a detached Order was merged though its row is gone; the next flush inserts it again"


def test_reports_a_second_instance_of_a_row(watch: Watch, shop: Engine) -> None:
    """SQLAlchemy's refusal of a second instance gets the story, with the query of the first one."""
    order = load_quietly(shop)
    with Session(shop) as session:
        kept = session.scalars(select(Order)).one()  # present
        with pytest.raises(InvalidRequestError, match="another instance with key") as refusal:
            session.add(order)  # add
        assert kept is not order
    finding = only(watch, RULE)
    assert finding.line == line("add")
    assert evidence_line(finding, "present") == line("present")
    assert refusal.value.__notes__ == [render(finding)]
    assert is_idle(shop)


def test_reports_an_update_without_a_row(watch: Watch, shop: Engine) -> None:
    """The refused flush of a reattached instance points to the call that added it."""
    order = load_quietly(shop)
    remove(shop)
    with Session(shop) as session:
        order.status = "sent"
        session.add(order)  # add without a row
        with pytest.raises(StaleDataError) as refusal:
            session.flush()  # flush
        session.rollback()
    finding = only(watch, RULE)
    assert finding.line == line("add without a row")
    assert evidence_line(finding, "flushed") == line("flush")
    assert labels(finding) == ["flushed", "added", "opened", "detached", "loaded", "opened"]
    assert refusal.value.__notes__ == [render(finding)]


def test_reports_a_deleted_instance_that_is_added(watch: Watch, memory: Engine) -> None:
    """SQLAlchemy refuses to add what was deleted; its error gets the story."""
    with Session(memory) as session:
        item = session.scalars(select(Item)).first()
        assert item is not None
        session.delete(item)
        session.commit()
    with Session(memory) as session, pytest.raises(InvalidRequestError, match="has been deleted") as refusal:
        session.add(item)  # add deleted
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Item", line("add deleted"))
    assert refusal.value.__notes__ == [render(finding)]


def test_reports_another_version(watch: Watch, memory: Engine) -> None:
    """SQLAlchemy's refusal of an older version gets the story."""
    contract = stored(memory, Contract(text="draft"))
    with Session(memory) as session:
        session.execute(update(Contract).values(version=9))
        session.commit()
    with Session(memory) as session, pytest.raises(StaleDataError) as refusal:
        session.merge(contract)  # version
    assert only(watch, RULE).line == line("version")
    assert refusal.value.__notes__ == [render(watch.findings[0])]


# -- strict mode ----------------------------------------------------------------------------------------


def test_strict_raises_before_the_older_value_is_written(strict: Watch, memory: Engine) -> None:
    """The merge itself fails, the row stays as it was, and the pool is idle."""
    order = load_quietly(memory)
    pay(memory)
    with pytest.raises(FindingError, match=r"merged over Order\.status"), Session(memory) as session, session.begin():
        session.merge(order)
    assert is_idle(memory)
    with Session(memory) as session:
        assert session.scalars(select(Order.status)).one() == "paid"
    only(strict, RULE)


async def test_strict_raises_under_asyncio(strict: Watch, async_shop: AsyncEngine) -> None:
    """The same through AsyncSession."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
    async with async_shop.begin() as connection:
        await connection.execute(update(Order).values(status="paid"))
    with pytest.raises(FindingError):
        async with AsyncSession(async_shop) as session:
            await session.merge(order)
    assert is_idle(async_shop)
    only(strict, RULE)


def test_strict_leaves_sqlalchemys_errors(strict: Watch, memory: Engine) -> None:
    """An error that is on its way stays what it is."""
    order = load_quietly(memory)
    with Session(memory) as session:
        kept = session.scalars(select(Order)).one()
        with pytest.raises(InvalidRequestError) as refusal:
            session.add(order)
        assert not isinstance(refusal.value, FindingError)
        assert kept.status == "new"
    assert is_idle(memory)
    only(strict, RULE)


# -- stays silent on ------------------------------------------------------------------------------------


def stored(engine: Engine, instance: Any) -> Any:
    """``instance``, committed and detached with its values."""
    with Session(engine, expire_on_commit=False) as session:
        session.add(instance)
        session.commit()
    return instance


def merge(engine: Engine, *instances: object, **options: Any) -> None:
    """Merge and commit."""
    with Session(engine, **options) as session:
        for instance in instances:
            session.merge(instance)
        session.commit()


def test_ignores_a_merge_without_a_difference(watch: Watch, shop: Engine) -> None:
    """An instance that equals its row does no harm."""
    merge(shop, load(shop))
    assert watch.findings == []


def test_ignores_what_was_set_after_the_detach(watch: Watch, shop: Engine) -> None:
    """A difference that the program made is meant."""
    order = load(shop)
    order.status = "sent"
    pay(shop)
    merge(shop, order)
    watch.drain()
    assert watch.findings == []


def test_ignores_what_was_set_before_and_never_flushed(watch: Watch, memory: Engine) -> None:
    """A change that the former session never wrote is the program's as well."""
    with Session(memory, autoflush=False) as session:
        order = session.scalars(select(Order)).one()
        order.status = "sent"
        session.expunge(order)
    pay(memory)
    merge(memory, order)
    assert watch.findings == []


def test_ignores_what_was_written_and_not_committed(watch: Watch, memory: Engine) -> None:
    """What its session wrote in vain is newer than the row, and an insert of it brings nothing back."""
    with sessionwatch.allow("lost-writes", reason="the first try"), Session(memory) as session:
        order = session.scalars(select(Order)).one()
        order.status, added = "sent", Item(name="screw")
        session.add(added)
        session.flush()
    merge(memory, order, added)
    assert watch.findings == []


def test_ignores_a_merge_without_a_load(watch: Watch, shop: Engine) -> None:
    """``merge(load=False)`` writes nothing."""
    order = load(shop)
    pay(shop)
    with Session(shop) as session:
        session.merge(order, load=False)
        session.commit()
    with Session(shop) as session:
        assert session.scalars(select(Order.status)).one() == "paid"
    assert watch.findings == []


def test_ignores_an_unchanged_pickle(watch: Watch, shop: Engine) -> None:
    """A cached copy of a row that nobody changed does no harm."""
    cached = pickle.dumps(load(shop))
    merge(shop, pickle.loads(cached))
    assert watch.findings == []


def test_ignores_add_without_harm(watch: Watch, shop: Engine) -> None:
    """``add()`` writes what was changed and nothing else."""
    order = load(shop)
    pay(shop)
    order.items[0].name = "screw"
    with Session(shop) as session:
        session.add(order)
        session.commit()
    with Session(shop) as session:
        assert session.scalars(select(Order.status)).one() == "paid"
    watch.drain()
    assert watch.findings == []


def test_ignores_objects_that_never_were_stored(watch: Watch, shop: Engine) -> None:
    """Merging a new object of a known key is an upsert, also where the row is gone."""
    merge(shop, Order(id=1, status="sent"), Order(id=77, status="sent"))
    remove(shop)
    merge(shop, Order(id=1, status="sent"))
    assert watch.findings == []


def test_ignores_made_up_identities(watch: Watch, memory: Engine) -> None:
    """The values of ``make_transient_to_detached()`` are the program's own."""
    order = Order(id=1, status="sent")
    make_transient_to_detached(order)
    merge(memory, order)
    assert watch.findings == []


def test_ignores_make_transient(watch: Watch, shop: Engine) -> None:
    """A plain object may be stored again on purpose."""
    order = load_quietly(shop)
    remove(shop)
    make_transient(order)
    with Session(shop) as session:
        session.add(order)
        session.commit()
    assert watch.findings == []


def test_ignores_unloaded_and_expired_attributes(watch: Watch, shop: Engine) -> None:
    """What is not there is not copied."""
    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        session.commit()
    with shop.begin() as connection:
        connection.execute(update(Order).values(status="paid", notes="leave at the door"))
    merge(shop, order)
    with Session(shop) as session:
        assert session.scalars(select(Order.status)).one() == "paid"
    assert watch.findings == []


def test_ignores_a_relationship_that_was_set(watch: Watch, memory: Engine) -> None:
    """A foreign key is set with its relationship."""
    with Session(memory) as session:
        order = session.scalars(select(Order).options(selectinload(Order.customer))).one()
        other = Customer(name="Bea")
    order.customer = other
    with memory.begin() as connection:
        connection.execute(update(Order).values(customer_id=None))
    merge(memory, order)
    assert watch.findings == []


def test_ignores_a_copy_to_another_database(watch: Watch, memory: Engine, tmp_path: Any) -> None:
    """Rows are copied from one database to another by merging."""
    other = create_engine(f"sqlite:///{tmp_path / 'copy.db'}")
    models.seed(other)
    pay(other)
    order = load(memory)
    merge(other, order)
    remove(other)
    merge(other, order)
    with Session(memory) as source:
        merge(other, *source.scalars(select(Order)).all())
    assert watch.findings == []
    other.dispose()


def test_ignores_the_databases_own_form_of_a_value(watch: Watch, engine: Engine) -> None:
    """Rounded numbers, lower case by a type, and time zones are not changes of the row."""
    create(engine, Stock, Contract)
    zone = datetime.now().astimezone().tzinfo
    given = Stock(price=Decimal("9.999"), name="Bolt", counted=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=zone))
    merge(engine, stored(engine, given))
    assert watch.findings == []


def test_ignores_what_an_update_fills_in(watch: Watch, memory: Engine) -> None:
    """A column with a default for updates differs after every update."""
    stock = stored(memory, Stock(price=1, name="bolt", changed=datetime(2026, 1, 1)))
    with memory.begin() as connection:
        connection.execute(update(Stock).values(changed=datetime(2026, 2, 2)))
    merge(memory, stock)
    assert watch.findings == []


def test_ignores_a_stale_update_of_no_reattached_instance(watch: Watch, memory: Engine) -> None:
    """A row that vanished under an instance's own session is not this rule's."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        order.status = "sent"
        with session.no_autoflush:
            session.connection().execute(delete(Order))
        with pytest.raises(StaleDataError) as refusal:
            session.flush()
        session.rollback()
    assert watch.findings == []
    assert not hasattr(refusal.value, "__notes__")


def test_ignores_a_missing_row_of_several(watch: Watch, memory: Engine) -> None:
    """Where one of several rows is missing, it need not be that of the reattached instance."""
    with Session(memory) as session:
        bolt, nut = session.scalars(select(Item).order_by(Item.id))
    with Session(memory) as session:
        session.add(bolt)
        other = session.get(Item, nut.id)
        assert other is not None
        bolt.name, other.name = "screw", "nail"
        with session.no_autoflush:
            session.connection().execute(delete(Item).where(Item.id == nut.id))
        with pytest.raises(StaleDataError):
            session.flush()
        session.rollback()
    watch.drain()
    assert watch.findings == []


def test_ignores_an_update_after_a_merge_without_a_load(watch: Watch, memory: Engine) -> None:
    """``merge(load=False)`` trusts its cache on purpose, also where the row is gone."""
    order = load_quietly(memory)
    remove(memory)
    with Session(memory) as session:
        session.merge(order, load=False).status = "sent"
        with pytest.raises(StaleDataError):
            session.flush()
        session.rollback()
    assert watch.findings == []


def test_ignores_merging_within_one_session(watch: Watch, memory: Engine) -> None:
    """An instance that the session holds is its own copy."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        order.status = "sent"
        assert session.merge(order) is order
        session.commit()
        assert session.scalars(select(func.count(Order.id))).one() == 1
    assert watch.findings == []


async def test_ignores_harmless_merges_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """Without a difference, with a change made after the detach, without a load, and added again."""
    async with AsyncSession(async_shop, expire_on_commit=False) as session:
        order = (await session.scalars(select(Order))).one()
    for change in (None, "paid", "shipped"):
        order.status = change or order.status
        async with AsyncSession(async_shop, expire_on_commit=False) as session:
            order = await session.merge(order)
            await session.commit()
    async with AsyncSession(async_shop, expire_on_commit=False) as session:
        await session.merge(order, load=False)
        await session.commit()
    async with AsyncSession(async_shop, expire_on_commit=False) as session:
        session.add(order)
        await session.commit()
    assert watch.findings == []
    assert is_idle(async_shop)


def test_ignores_what_is_allowed(watch: Watch, memory: Engine) -> None:
    """An allowance with a reason covers the merge."""
    order = load(memory)
    pay(memory)
    with sessionwatch.allow("reattach", reason="the copy is the truth"):
        merge(memory, order)
    assert watch.findings == []
    assert [finding.rule for finding in watch.allowed] == [RULE]
