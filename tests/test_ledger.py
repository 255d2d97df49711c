"""The ledger: who opened, used and closed which session, and which session owned an instance."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, String, create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    Mapped,
    Session,
    joinedload,
    make_transient,
    mapped_column,
    scoped_session,
    selectinload,
    sessionmaker,
)
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.pool import QueuePool

import sessionwatch
from sessionwatch import Ownership, owner_of
from sessionwatch.output.messages import render
from sessionwatch.watch.watch import Watch
from tests.models import Base, create
from tests.rules import models
from tests.rules.models import Customer, Item, Order
from tests.rules.places import line, only


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Installed in mode ``log``; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("log", log=False, rules={"config": "off"}) as installed:
        yield installed


@pytest.fixture
def memory() -> Iterator[Engine]:
    """A seeded SQLite database in memory, with a pool of several connections to the same database."""
    engine = create_engine(
        "sqlite:///file:ledger?mode=memory&cache=shared&uri=true",
        poolclass=QueuePool,
        connect_args={"check_same_thread": False},
    )
    models.seed(engine)
    yield engine
    engine.dispose()


def owned(instance: object) -> Ownership:
    """The ownership of an instance that has one."""
    owner = owner_of(instance)
    assert owner is not None
    return owner


def lines(owner: Ownership) -> dict[str, int]:
    """The lines of the places that are known."""
    places = {name: getattr(owner, name) for name in ("opened", "closed", "loaded", "expunged", "expired")}
    return {name: site.line for name, site in places.items() if site is not None}


def first(session: Session, *options: Any) -> Order:
    return session.scalars(select(Order).options(*options)).unique().one()  # loaded


# -- states -------------------------------------------------------------------------------------------


def test_a_transient_object_has_no_owner(watch: Watch) -> None:
    """An object that no session has seen is nobody's."""
    assert owner_of(Order()) is None


def test_what_is_not_mapped_has_no_owner(watch: Watch) -> None:
    """A plain object, a class or None is answered without an error."""
    assert [owner_of(item) for item in (object(), Order, None, 3)] == [None] * 4


def test_without_an_installation_nothing_is_known(memory: Engine) -> None:
    """owner_of() answers None where sessionwatch is not installed."""
    with Session(memory) as session:
        assert owner_of(first(session)) is None


def test_a_pending_object(watch: Watch, memory: Engine) -> None:
    """An added object belongs to its session and was loaded nowhere."""
    with Session(memory) as session:  # pending opened
        order = Order()
        session.add(order)
        owner = owned(order)
        session.rollback()
    assert owner.state == "pending"
    assert lines(owner) == {"opened": line("pending opened")}


def test_a_persistent_object(watch: Watch, memory: Engine) -> None:
    """A loaded object: its session is open, and its query's place is known."""
    with Session(memory) as session:  # persistent opened
        owner = owned(first(session))
    assert (owner.state, owner.closed_how, owner.kind) == ("persistent", None, "sync")
    assert lines(owner) == {"opened": line("persistent opened"), "loaded": line("loaded")}


def test_detached_by_close(watch: Watch, memory: Engine) -> None:
    """A close by hand: the line that called it."""
    session = Session(memory)  # close opened
    order = first(session)
    session.close()  # close
    owner = owned(order)
    assert (owner.state, owner.closed_how) == ("detached", "closed")
    assert lines(owner) == {"opened": line("close opened"), "closed": line("close"), "loaded": line("loaded")}
    assert owner.duration is not None
    assert owner.duration >= 0
    assert owner.statements == 1


def test_detached_by_the_end_of_a_with_block(watch: Watch, memory: Engine) -> None:
    """A with block closes where it begins: that is the line Python gives its exit."""
    with Session(memory) as session:  # with
        order = first(session)
    assert lines(owned(order))["closed"] == line("with")


@pytest.mark.parametrize("how", ["reset", "invalidate"])
def test_detached_by_reset_and_invalidate(watch: Watch, memory: Engine, how: str) -> None:
    """The other ways out of a session are told apart."""
    session = Session(memory)
    order = first(session)
    getattr(session, how)()
    assert owned(order).closed_how == {"reset": "reset", "invalidate": "invalidated"}[how]
    session.close()


def test_detached_by_remove(watch: Watch, memory: Engine) -> None:
    """A scoped_session's remove() closes; the caller's line is the place."""
    registry = scoped_session(sessionmaker(memory))
    order = first(registry())
    registry.remove()  # remove
    assert lines(owned(order))["closed"] == line("remove")


def test_detached_by_expunge(watch: Watch, memory: Engine) -> None:
    """An expunged object keeps its former owner, and the line of the expunge."""
    with Session(memory) as session:  # expunge opened
        order = first(session)
        session.expunge(order)  # expunge
        owner = owned(order)
    assert owner.state == "detached"
    assert lines(owner) == {"opened": line("expunge opened"), "expunged": line("expunge"), "loaded": line("loaded")}


def test_detached_by_expunge_all(watch: Watch, memory: Engine) -> None:
    """The same for expunge_all(), while what is loaded afterwards belongs to the open session."""
    with Session(memory) as session:
        before = first(session)
        session.expunge_all()  # expunge all
        after = first(session)
        assert (owned(before).state, owned(after).state) == ("detached", "persistent")
        assert lines(owned(before))["expunged"] == line("expunge all")
        assert "expunged" not in lines(owned(after))
        assert owned(before).session == owned(after).session
    assert lines(owned(before))["expunged"] == line("expunge all")
    assert "expunged" not in lines(owned(after))


def test_detached_by_delete(watch: Watch, memory: Engine) -> None:
    """A deleted object remembers the session that deleted it, and the flush or commit that did."""
    with Session(memory) as session:
        item = session.scalars(select(Item)).first()
        assert item is not None
        session.delete(item)
        session.flush()
        assert owned(item).state == "deleted"
        session.commit()
    assert owned(item).state == "detached"
    assert owned(item).session is not None


def test_made_transient_by_rollback(watch: Watch, memory: Engine) -> None:
    """A new object whose insert was rolled back is transient again, and nobody's."""
    with Session(memory) as session:
        order = Order()
        session.add(order)
        session.flush()
        session.rollback()
        assert owner_of(order) is None


def test_made_transient_on_purpose(watch: Watch, memory: Engine) -> None:
    """make_transient() is told from a detachment; who had the object before is still known."""
    with Session(memory) as session:
        order = first(session)
        make_transient(order)  # make transient
    assert owned(order).state == "transient"
    assert lines(owned(order))["expunged"] == line("make transient")


def test_a_session_that_was_collected(watch: Watch, memory: Engine) -> None:
    """Its record survives it: who opened it is known, and that nobody closed it."""

    def drop() -> Order:
        return first(Session(memory))  # dropped

    order = drop()
    gc.collect()
    owner = owned(order)
    assert (owner.state, owner.closed_how) == ("detached", "collected")
    assert lines(owner) == {"opened": line("dropped"), "loaded": line("loaded")}


def test_a_session_that_was_opened_before_the_installation(memory: Engine) -> None:
    """It is taken over at its first use, and its opening is said to be unknown."""
    session = Session(memory)
    with sessionwatch.watching("log", log=False):
        order = first(session)
        owner = owned(order)
        assert (owner.opened, owner.missing) == (None, "opened before sessionwatch was installed")
        assert lines(owner) == {"loaded": line("loaded")}
        session.close()  # closes an older one
        assert lines(owned(order))["closed"] == line("closes an older one")


def test_an_unpickled_object_has_no_owner(watch: Watch, memory: Engine) -> None:
    """The session that pickled it may have been in another process."""
    with Session(memory) as session:
        order = first(session)
    assert owner_of(pickle.loads(pickle.dumps(order))) is None


def test_added_again(watch: Watch, memory: Engine) -> None:
    """The newest session owns an object that was added again."""
    with Session(memory) as session:
        order = first(session)
    with Session(memory) as session:  # newest
        session.add(order)
        assert lines(owned(order))["opened"] == line("newest")
    assert lines(owned(order))["opened"] == line("newest")


def test_expunged_and_added_again(watch: Watch, memory: Engine) -> None:
    """A later session takes the place of the one that expunged."""
    with Session(memory) as session:
        order = first(session)
        session.expunge(order)
    with Session(memory) as session:  # after expunge
        session.add(order)
    owner = owned(order)
    assert lines(owner)["opened"] == line("after expunge")
    assert owner.expunged is None


def test_a_session_used_again_after_close(watch: Watch, memory: Engine) -> None:
    """Each life of a session has a label of its own, and the place where it was made."""
    session = Session(memory)  # two lives
    before = first(session)
    session.close()
    after = first(session)
    session.close()
    assert owned(before).session != owned(after).session
    assert lines(owned(before))["opened"] == lines(owned(after))["opened"] == line("two lives")


# -- provenance of loads ------------------------------------------------------------------------------


def test_selectin_children_are_loaded_where_the_query_is(watch: Watch, memory: Engine) -> None:
    """A second statement of a loader strategy belongs to the user's query."""
    with Session(memory) as session:
        order = session.scalars(select(Order).options(selectinload(Order.items))).one()  # selectin
        assert lines(owned(order.items[0]))["loaded"] == line("selectin")


def test_joined_children_are_loaded_where_the_query_is(watch: Watch, memory: Engine) -> None:
    """A joined child shares its parent's load."""
    with Session(memory) as session:
        order = session.scalars(select(Order).options(joinedload(Order.customer))).one()  # joined
        assert order.customer is not None
        assert lines(owned(order.customer))["loaded"] == line("joined")


def test_lazy_children_are_loaded_where_they_are_read(watch: Watch, memory: Engine) -> None:
    """A lazy load is a query of the line that reads."""
    with Session(memory) as session:
        order = first(session)
        items = order.items  # lazy
        assert lines(owned(items[0]))["loaded"] == line("lazy")


def test_a_refresh_is_a_load(watch: Watch, memory: Engine) -> None:
    """After a refresh the values come from its line."""
    with Session(memory) as session:
        order = first(session)
        session.refresh(order)  # refresh
        assert lines(owned(order))["loaded"] == line("refresh")


def test_get_is_a_load(watch: Watch, memory: Engine) -> None:
    """session.get() is the place of the load."""
    with Session(memory) as session:
        order = session.get(Order, 1)  # get
        assert lines(owned(order))["loaded"] == line("get")


def test_what_was_flushed_was_loaded_nowhere(watch: Watch, memory: Engine) -> None:
    """A new object has an owner and no load."""
    with Session(memory) as session:
        order = Order()
        session.add(order)
        session.flush()
        assert owned(order).loaded is None
        session.rollback()


def test_the_commit_that_expired(watch: Watch, memory: Engine) -> None:
    """The newest commit or rollback is what expired an instance that is still empty."""
    with Session(memory) as session:
        order = first(session)
        session.commit()  # commit
        assert (lines(owned(order))["expired"], owned(order).expired_how) == (line("commit"), "by commit()")
        assert order.status == "new"
        assert owned(order).expired is None
        session.rollback()  # rollback
        assert (lines(owned(order))["expired"], owned(order).expired_how) == (line("rollback"), "by rollback()")


# -- who ----------------------------------------------------------------------------------------------


def test_thread_names(watch: Watch, memory: Engine) -> None:
    """The thread that opened and the thread that closed are told apart."""
    session = Session(memory)
    order = first(session)
    thread = threading.Thread(target=session.close, name="closer-1")
    thread.start()
    thread.join()
    assert (owned(order).thread, owned(order).closed_thread) == (threading.current_thread().name, "closer-1")


def test_threads_do_not_mix(watch: Watch, memory: Engine) -> None:
    """Sessions of several threads keep their own records."""

    def work(number: int) -> tuple[str, Order]:
        with Session(memory) as session:
            return threading.current_thread().name, first(session)

    with ThreadPoolExecutor(4, thread_name_prefix="worker") as pool:
        results = list(pool.map(work, range(40)))
    assert all(owned(order).thread == name for name, order in results)
    assert len({owned(order).session for _, order in results}) == 40


async def test_task_names(watch: Watch, async_engine: AsyncEngine) -> None:
    """The task that opened and the task that closed are told apart."""
    await models.seed_async(async_engine)
    session = AsyncSession(async_engine)  # async opened
    order = (await session.scalars(select(Order))).one()  # async loaded

    async def close() -> None:
        await session.close()  # async closed

    await asyncio.create_task(close(), name="closer")
    owner = owned(order)
    assert (owner.kind, owner.closed_task) == ("async", "closer")
    assert owner.task == asyncio.current_task().get_name()  # type: ignore[union-attr]
    assert lines(owner) == {
        "opened": line("async opened"),
        "closed": line("async closed"),
        "loaded": line("async loaded"),
    }


async def test_the_task_that_leaves_the_block(watch: Watch, async_engine: AsyncEngine) -> None:
    """``async with`` closes in a task of its own; the owner is the one that left the block."""
    await models.seed_async(async_engine)

    async def work() -> Order:
        async with AsyncSession(async_engine) as session:  # async with
            return (await session.scalars(select(Order))).one()

    order = await asyncio.create_task(work(), name="worker")
    owner = owned(order)
    assert (owner.task, owner.closed_task) == ("worker", "worker")
    assert lines(owner)["closed"] == line("async with")


async def test_tasks_do_not_mix(watch: Watch, async_engine: AsyncEngine) -> None:
    """Sessions of tasks that interleave keep their own records."""
    await models.seed_async(async_engine)

    async def work() -> Order:
        async with AsyncSession(async_engine) as session:
            await asyncio.sleep(0)
            return (await session.scalars(select(Order))).one()

    tasks = [asyncio.create_task(work(), name=f"worker-{number}") for number in range(10)]
    orders = await asyncio.gather(*tasks)
    assert [owned(order).task for order in orders] == [f"worker-{number}" for number in range(10)]


def test_the_unit(watch: Watch, memory: Engine) -> None:
    """A session that was opened in a unit of work carries its name."""
    with sessionwatch.unit_of_work("nightly"), Session(memory) as session:
        order = first(session)
    assert owned(order).unit == "nightly"


# -- bounds -------------------------------------------------------------------------------------------


def test_closed_sessions_are_bounded(memory: Engine) -> None:
    """The oldest record makes room; an instance of a forgotten session says that its story is gone."""
    with sessionwatch.watching("log", settings={"history.sessions": 3}, log=False) as watch:
        orders = []
        for _ in range(10):
            with Session(memory) as session:
                orders.append(first(session))
        assert len(watch.tracker.ledger.closed) == 3
        assert [owned(order).session is not None for order in orders] == [False] * 7 + [True] * 3
        forgotten = owned(orders[0])
        assert forgotten.missing is not None
        assert "no longer kept" in forgotten.missing


def test_closed_sessions_are_bounded_where_one_session_is_used_again(memory: Engine) -> None:
    """A session that lives many lives fills no more than the ring."""
    with sessionwatch.watching("log", settings={"history.sessions": 3}, log=False) as watch:
        session = Session(memory)
        for _ in range(10):
            first(session)
            session.close()
        assert len(watch.tracker.ledger.closed) <= 3


def test_loads_are_bounded(memory: Engine) -> None:
    """Places of queries are kept for the newest ones, and a forgotten one is not mistaken for another."""
    with sessionwatch.watching("log", settings={"history.loads": 2}, log=False):
        orders = []
        for _ in range(5):
            with Session(memory) as session:
                orders.append(first(session))
        assert [owned(order).loaded is not None for order in orders] == [False] * 3 + [True] * 2


def test_expunged_states_are_bounded(memory: Engine) -> None:
    """Expunged instances that are kept for ever do not fill memory."""
    with sessionwatch.watching("log", settings={"history.sessions": 2}, log=False) as watch:
        kept = []
        for _ in range(30):
            with Session(memory) as session:
                order = first(session)
                session.expunge(order)
                kept.append(order)
        assert len(watch.tracker.ledger.expunged) <= 8


# -- no strong references -----------------------------------------------------------------------------


def test_holds_no_session_and_no_instance(watch: Watch, memory: Engine) -> None:
    """After close, sessions, identity maps and instances are gone at once, without the collector's help."""
    gc.collect()
    gc.disable()
    try:
        session = Session(memory)
        order = first(session)
        references = [weakref.ref(session), weakref.ref(order), weakref.ref(session.identity_map)]
        session.close()
        del session, order
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()


def test_holds_nothing_after_findings(watch: Watch, memory: Engine) -> None:
    """A finding carries names and places, no session and no instance."""
    session = Session(memory)
    order = first(session)
    session.expunge(order)
    order.status = "sent"
    with pytest.raises(DetachedInstanceError):
        order.items  # noqa: B018
    session.add(Order())
    session.flush()
    references = [weakref.ref(session), weakref.ref(order)]
    session.close()
    del session, order
    gc.collect()
    assert {finding.rule for finding in watch.findings} == {"detached-access", "detached-write", "lost-writes"}
    assert [reference() for reference in references] == [None] * 2


async def test_holds_nothing_under_asyncio(watch: Watch, async_engine: AsyncEngine) -> None:
    """An AsyncSession and its instances are collected after their end."""
    await models.seed_async(async_engine)

    async def work() -> list[weakref.ref[Any]]:
        async with AsyncSession(async_engine) as session:
            order = (await session.scalars(select(Order))).one()
            return [weakref.ref(session), weakref.ref(session.sync_session), weakref.ref(order)]

    references = await work()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_an_expunged_instance_is_not_kept(watch: Watch, memory: Engine) -> None:
    """The note of an expunge is weak."""
    with Session(memory) as session:
        order = first(session)
        session.expunge(order)
    gone = weakref.ref(order)
    del order
    gc.collect()
    assert gone() is None
    assert len(watch.tracker.ledger.expunged) == 0


# -- hostile models -----------------------------------------------------------------------------------


class Hostile(Base):
    """A model whose every special method fails."""

    __tablename__ = "hostile"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    note: Mapped[str | None] = mapped_column(String(20), deferred=True)

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_sa_"):  # SQLAlchemy's own
            raise AttributeError(name)
        raise RuntimeError(f"getattr {name}")


@pytest.fixture
def hostile(memory: Engine) -> Engine:
    """One row of the hostile model."""
    Base.metadata.drop_all(memory, [Hostile.__table__])  # type: ignore[list-item]
    create(memory, Hostile)
    with Session(memory) as session:
        session.execute(Hostile.__table__.insert().values(name="x"))  # type: ignore[attr-defined]
        session.commit()
    return memory


def test_a_model_whose_special_methods_raise(watch: Watch, hostile: Engine) -> None:
    """Ownership and findings come without a call of any method of the instance."""
    with Session(hostile) as session:
        instance = session.scalars(select(Hostile)).one()
    assert owned(instance).state == "detached"
    instance.name = "y"
    with pytest.raises(DetachedInstanceError):
        instance.note  # noqa: B018
    watch.drain()
    assert [finding.subject for finding in watch.findings] == ["Hostile.note", "Hostile.name"]
    assert all(render(finding) for finding in watch.findings)
    assert watch.status()["internal_errors"] == {}


def test_a_model_whose_special_methods_raise_in_strict(hostile: Engine) -> None:
    """The same for reads of loaded values."""
    with sessionwatch.watching("strict", log=False):
        with Session(hostile) as session:
            instance = session.scalars(select(Hostile)).one()
        with pytest.raises(sessionwatch.FindingError):
            instance.name  # noqa: B018


def test_a_model_whose_attribute_events_raise(watch: Watch, hostile: Engine) -> None:
    """The host's own error of a set event comes out as without us, and nothing was changed."""

    def refuse(target: object, value: object, old: object, initiator: object) -> None:
        raise ValueError("no")

    with Session(hostile) as session:
        instance = session.scalars(select(Hostile)).one()
    event.listen(Hostile.name, "set", refuse)
    try:
        with pytest.raises(ValueError, match=r"^no$"):
            instance.name = "y"
    finally:
        event.remove(Hostile.name, "set", refuse)
    watch.drain()
    assert watch.findings == []
    assert watch.status()["internal_errors"] == {}


def test_a_model_whose_load_event_raises(watch: Watch, hostile: Engine) -> None:
    """A load that fails in the host's own listener fails as without us, and the next one works."""

    def refuse(target: object, context: object) -> None:
        raise ValueError("no")

    event.listen(Hostile, "load", refuse)
    try:
        with Session(hostile) as session, pytest.raises(ValueError, match=r"^no$"):
            session.scalars(select(Hostile)).one()
    finally:
        event.remove(Hostile, "load", refuse)
    with Session(hostile) as session:
        assert owned(session.scalars(select(Hostile)).one()).state == "persistent"
    assert watch.status()["internal_errors"] == {}


def test_a_session_class_that_never_calls_super(watch: Watch, memory: Engine) -> None:
    """A Session subclass that sets itself up is taken over at its first use, or left alone."""

    class Own(Session):
        def __init__(self) -> None:
            self.__dict__.update(Session(memory).__dict__)

    session = Own()
    first(session)
    session.close()
    assert watch.status()["internal_errors"] == {}


def test_owner_of_reads_nothing(watch: Watch, memory: Engine) -> None:
    """owner_of() of an expired instance sends no statement and loads nothing."""
    sent: list[str] = []
    event.listen(memory, "before_cursor_execute", lambda *args: sent.append(args[2]))
    with Session(memory) as session:
        customer = session.scalars(select(Customer)).one()
        session.commit()
        sent.clear()
        owned(customer)
        assert "name" not in customer.__dict__
    assert sent == []


def test_sessions_that_began_nothing_push_nobody_out(memory: Engine) -> None:
    """A session without a transaction held no instance, so that it takes no place among those that are kept."""
    with sessionwatch.watching("log", settings={"history.sessions": 1}, log=False) as watch:
        with Session(memory) as session:
            order = first(session)
        for _ in range(3):
            Session(memory).close()
        assert owned(order).session is not None
        assert watch.status()["sessions"]["closed"] == {"read_only, sync": 4}


def test_counts_the_finding_of_a_forgotten_session(memory: Engine) -> None:
    """A finding about a session that is no longer kept says so instead of naming a wrong one."""
    with sessionwatch.watching("log", settings={"history.sessions": 1}, log=False) as watch:
        with Session(memory) as session:
            order = first(session)
        for _ in range(3):
            with Session(memory) as session:
                session.connection()
        with pytest.raises(DetachedInstanceError):
            order.items  # noqa: B018
        assert "no longer kept" in render(only(watch, "detached-access"))


def test_records_can_share_the_keys_of_their_dictionaries(watch: Watch, memory: Engine) -> None:
    """A session that reads, writes and commits sets less outside of its slots than Python lets instances share."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).first()
        assert order is not None
        assert order.items is not None
        order.status = "paid"
        session.flush()
        session.rollback()
        order.status = "sent"
        with session.begin_nested():
            session.add(Order(status="new"))
        session.commit()
        record = vars(session)["_sessionwatch"]
    assert len(vars(record)) < 30
