"""The rule ``detached-access``: reads that need the database, on instances without a session."""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import pickle
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import jinja2
import pydantic
import pytest
from sqlalchemy import Computed, Engine, ForeignKey, create_engine, func, select, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    Mapped,
    Session,
    joinedload,
    load_only,
    make_transient,
    mapped_column,
    scoped_session,
    selectinload,
    undefer,
)
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.pool import QueuePool

import sessionwatch
from sessionwatch import Finding, FindingError, allow
from sessionwatch.output.messages import render
from sessionwatch.watch.watch import Watch
from tests.backends import enforce_foreign_keys
from tests.models import Base, Book, Shelf, create
from tests.rules import models
from tests.rules.models import Customer, Order, Person
from tests.rules.places import evidence_line, is_idle, labels, line, only

RULE = "detached-access"


@pytest.fixture
def memory() -> Iterator[Engine]:
    """A seeded SQLite database in memory, with a pool that counts its connections."""
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0)
    enforce_foreign_keys(engine)
    models.seed(engine)
    yield engine
    engine.dispose()


def load(engine: Engine, *options: Any) -> Order:
    """An order whose session has ended."""
    with Session(engine) as session:
        return session.scalars(select(Order).options(*options)).one()  # query


def read(instance: object, name: str) -> DetachedInstanceError:
    """The error that SQLAlchemy raises for a refused read."""
    with pytest.raises(DetachedInstanceError) as caught:
        getattr(instance, name)  # the read
    return caught.value


# -- reports ------------------------------------------------------------------------------------------


def test_reports_a_collection_with_selectinload(watch: Watch, shop: Engine) -> None:
    """A lazy collection is reported at the reading line, and the fix is selectinload."""
    order = load(shop)
    with pytest.raises(DetachedInstanceError):
        order.items  # collection read  # noqa: B018
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Order.items", line("collection read  # noqa: B018"))
    assert finding.fix == "load it with the query: .options(selectinload(Order.items))"
    assert labels(finding) == ["touched", "detached", "loaded", "opened"]
    assert evidence_line(finding, "loaded") == line("query")


def test_reports_a_many_to_one_with_joinedload(watch: Watch, shop: Engine) -> None:
    """A lazy many-to-one is reported, and the fix is joinedload."""
    read(load(shop), "customer")
    finding = only(watch, RULE)
    assert finding.subject == "Order.customer"
    assert finding.fix == "load it with the query: .options(joinedload(Order.customer))"


@pytest.mark.parametrize(
    ("name", "option"),
    [("items", selectinload(Order.items)), ("customer", joinedload(Order.customer)), ("notes", undefer(Order.notes))],
)
def test_the_fix_removes_the_finding(watch: Watch, memory: Engine, name: str, option: Any) -> None:
    """The loader option that the fix names is the one that helps."""
    read(load(memory), name)
    assert option is not None
    finding = only(watch, RULE)
    assert f"(Order.{name})" in finding.fix
    watch.clear()
    getattr(load(memory, option), name)
    assert watch.findings == []


@pytest.mark.parametrize(
    "get",
    [
        lambda session: session.get(Order, 1),
        lambda session: session.get_one(
            Order,
            int({"key": "1"}.get("key", "")),
        ),
        lambda session: scoped_session(lambda: session).get(Order, 1),
    ],
    ids=["get", "get_one", "scoped_session"],
)
def test_the_fix_of_what_get_brought_is_an_argument(
    watch: Watch, memory: Engine, get: Callable[[Session], Order]
) -> None:
    """get() takes loader options itself: there is no query that could be given some."""
    with Session(memory) as session:
        order = get(session)
    read(order, "items")
    assert only(watch, RULE).fix == "load it with get(): options=[selectinload(Order.items)]"
    watch.clear()
    with Session(memory) as session:
        order = session.get_one(Order, 1, options=[selectinload(Order.items)])
    assert (len(order.items) > 0, watch.findings) == (True, [])


@pytest.mark.parametrize(
    "found",
    [
        lambda session: session.query(Order).get(1),
        lambda session: session.scalars(select(Order).where(Order.id == {"get": 1}.get("get"))).one(),
        types.FunctionType(compile("lambda session: session.get(O, 1)", "gone.py", "eval").co_consts[0], {"O": Order}),
    ],
    ids=["Query.get", "within", "without its source"],
)
@pytest.mark.filterwarnings("ignore:The Query.get")
def test_the_fix_of_what_a_query_brought_is_one_of_the_query(
    watch: Watch, memory: Engine, found: Callable[[Session], Order]
) -> None:
    """Query.get() takes no options; get() of something else is none of the session's; without the source, as ever."""
    with Session(memory) as session:
        order = found(session)
    read(order, "items")
    assert only(watch, RULE).fix == "load it with the query: .options(selectinload(Order.items))"


def test_reports_a_deferred_column_with_undefer(watch: Watch, shop: Engine) -> None:
    """A deferred column is reported, and the fix is undefer."""
    read(load(shop), "notes")
    finding = only(watch, RULE)
    assert finding.message.endswith(" was read after its session had ended; loading a deferred column needs a session")
    assert finding.fix == "load it with the query: .options(undefer(Order.notes))"


def test_reports_a_column_that_load_only_left_out(watch: Watch, memory: Engine) -> None:
    """A column that the query did not ask for is reported."""
    read(load(memory, load_only(Order.id)), "status")
    finding = only(watch, RULE)
    assert finding.subject == "Order.status"
    assert "expired" not in labels(finding)
    assert finding.fix == "load it with the query: .options(undefer(Order.status))"


def test_reports_a_subclass_column_with_selectin_polymorphic(watch: Watch, memory: Engine) -> None:
    """A column of a joined subclass needs a polymorphic loader option, not undefer."""
    with Session(memory) as session:
        person = session.scalars(select(Person)).one()
    read(person, "salary")
    finding = only(watch, RULE)
    assert finding.subject == "Employee.salary"
    assert labels(finding) == ["touched", "detached", "loaded", "opened"]
    assert finding.fix == "load it with the query: .options(selectin_polymorphic(Person, [Employee]))"


class Meter(Base):
    """The parent of a joined inheritance, with a value that an UPDATE computes."""

    __tablename__ = "access_meters"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "meter", "eager_defaults": False}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    place: Mapped[str] = mapped_column(default="hall")
    seen: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class Gauge(Meter):
    """The child, with a value that the database computes, too."""

    __tablename__ = "access_gauges"
    __mapper_args__ = {"polymorphic_identity": "gauge"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(ForeignKey("access_meters.id"), primary_key=True)
    scale: Mapped[int] = mapped_column(default=1)
    twice: Mapped[int] = mapped_column(Computed("scale * 2"))


def moved(session: Session) -> Meter:
    meter = session.scalars(select(Meter)).one()
    meter.place = "cellar"
    session.flush()
    return meter


def scaled(session: Session) -> Meter:
    gauge = session.scalars(select(Gauge)).one()
    gauge.scale = 5
    session.flush()
    return gauge


def made(session: Session) -> Meter:
    meter = Meter()
    session.add(meter)
    session.flush()
    return meter


def updated(session: Session) -> Meter:
    meter = moved(session)
    session.refresh(meter)
    session.execute(update(Meter).values(place=func.upper(Meter.place)))
    return meter


@pytest.mark.parametrize(
    ("work", "name", "expired"),
    [
        (moved, "seen", True),
        (scaled, "twice", True),
        (made, "seen", True),
        (moved, "scale", False),
        (moved, "twice", False),
        (updated, "place", False),
    ],
)
def test_blames_a_flush_for_what_it_expired_and_for_nothing_else(
    watch: Watch, memory: Engine, work: Callable[[Session], Meter], name: str, expired: bool
) -> None:
    """A flush expires what the database computes; what the query left out was not there before it either."""
    create(memory, Gauge)
    with Session(memory) as session:
        session.add(Gauge())
        session.commit()
    with Session(memory) as session:
        meter = work(session)
        session.expunge(meter)
        session.rollback()
    read(meter, name)
    finding = only(watch, RULE)
    assert ("by flush(), because the database computes it" in render(finding)) is expired
    assert ("expired" in labels(finding)) is expired


def test_reports_what_a_commit_expired(watch: Watch, shop: Engine) -> None:
    """The commit that expired the value is evidence, and the fix is expire_on_commit=False."""
    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        session.commit()  # the commit
    read(order, "status")
    finding = only(watch, RULE)
    assert finding.message.endswith(
        " was read after its session had ended; refreshing an expired value needs a session"
    )
    assert labels(finding) == ["touched", "detached", "expired", "loaded", "opened"]
    assert evidence_line(finding, "expired") == line("the commit")
    assert finding.fix == "read it before the commit, or make the sessions with expire_on_commit=False"


def test_reports_a_relationship_that_a_commit_expired(watch: Watch, memory: Engine) -> None:
    """Eager loading alone does not help where a commit emptied the instance, and the fix says so."""
    with Session(memory) as session:
        order = session.scalars(select(Order).options(selectinload(Order.items))).one()
        session.commit()
    read(order, "items")
    assert only(watch, RULE).fix == (
        "load it with the query: .options(selectinload(Order.items)),\n"
        "and make the sessions with expire_on_commit=False"
    )


def test_reports_what_a_rollback_expired(watch: Watch, memory: Engine) -> None:
    """The rollback that expired the value is evidence, and expire_on_commit is not recommended."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        session.commit()
        assert order.status == "new"
        session.rollback()  # the rollback
    read(order, "status")
    finding = only(watch, RULE)
    assert evidence_line(finding, "expired") == line("the rollback")
    assert "by rollback()" in render(finding)
    assert finding.fix == "read it while the session is open"


def test_blames_no_commit_for_an_instance_that_was_refreshed_after_it(watch: Watch, memory: Engine) -> None:
    """A deferred column of an instance that was loaded again after the commit was not expired by it."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        session.commit()
        assert order.status == "new"
    read(order, "notes")
    assert "expired" not in labels(only(watch, RULE))


def test_blames_no_commit_that_expires_nothing(watch: Watch, memory: Engine) -> None:
    """With expire_on_commit=False the commit is not named as what expired the value, but the line that did."""
    with Session(memory, expire_on_commit=False) as session:
        order = session.scalars(select(Order)).one()
        session.commit()
        session.expire(order)  # the expire
    read(order, "status")
    finding = only(watch, RULE)
    assert evidence_line(finding, "expired") == line("the expire")
    assert "by expire()" in render(finding)


def test_reports_after_expunge(watch: Watch, memory: Engine) -> None:
    """An expunged instance is reported while its session is still open, with the line of the expunge."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        session.expunge(order)  # the expunge
        read(order, "items")
        finding = only(watch, RULE)
        assert evidence_line(finding, "detached") == line("the expunge")
        assert "expunged here" in render(finding)


def test_reports_after_the_session_was_collected_unclosed(watch: Watch, memory: Engine) -> None:
    """A session that was dropped is named as collected, and the line that opened it is evidence."""

    def drop() -> Order:
        session = Session(memory)  # dropped
        return session.scalars(select(Order)).one()

    order = drop()
    gc.collect()
    watch.clear()  # the leak is another rule's
    read(order, "items")
    finding = only(watch, RULE)
    assert evidence_line(finding, "opened") == line("dropped")
    assert "its session was collected unclosed" in render(finding)


def test_reports_attribute_probing(watch: Watch, memory: Engine) -> None:
    """hasattr() does not hide the error, and the read is a finding though a serializer swallows it."""
    order = load(memory)
    with pytest.raises(DetachedInstanceError):
        hasattr(order, "items")  # probe
    assert only(watch, RULE).line == line("probe")


def test_reports_a_swallowed_error(watch: Watch, memory: Engine) -> None:
    """The finding is there also where the program swallowed the exception."""
    order = load(memory)
    with contextlib.suppress(Exception):
        order.items  # noqa: B018
    assert only(watch, RULE).subject == "Order.items"


def test_reports_a_session_that_was_opened_before(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the history is missing the finding says so and names no line for it."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    order = load(memory)
    with sessionwatch.watching("log", log=False) as watch:
        read(order, "items")
        finding = only(watch, RULE)
    assert labels(finding) == ["touched", "detached"]
    assert "began before sessionwatch was installed" in render(finding)
    assert finding.session is None


def test_counts_reads_from_one_place(watch: Watch, memory: Engine) -> None:
    """The same read again is one finding whose count grows."""
    order = load(memory)
    for _ in range(3):
        read(order, "items")
    assert only(watch, RULE).count == 3


# -- stays silent on ----------------------------------------------------------------------------------


def test_ignores_loaded_values(watch: Watch, memory: Engine) -> None:
    """Values that are loaded are read without a finding."""
    order = load(memory, selectinload(Order.items), joinedload(Order.customer))
    assert order.status == "new"
    assert len(order.items) == 2
    assert order.customer is not None
    assert watch.findings == []


def test_ignores_transient_objects(watch: Watch) -> None:
    """An object that never was persistent answers with empty values."""
    order = Order()
    assert order.items == []
    assert order.notes is None
    assert order.customer is None
    assert watch.findings == []


def test_ignores_make_transient(watch: Watch, memory: Engine) -> None:
    """An instance that was made transient on purpose is not a detached one."""
    order = load(memory)
    make_transient(order)
    assert order.items == []
    assert order.notes is None
    assert watch.findings == []


def test_ignores_reads_with_a_session(watch: Watch, memory: Engine) -> None:
    """A lazy load inside the session is right use."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        assert len(order.items) == 2
        assert order.notes == "ring twice"
    assert watch.findings == []


def test_ignores_lazy_raise(watch: Watch, memory: Engine) -> None:
    """``lazy="raise"`` is SQLAlchemy's own refusal, with its own error and no note of ours."""
    create(memory, Shelf, Book)
    with Session(memory) as session:
        session.add(Shelf())
        session.commit()
    with Session(memory) as session:
        shelf = session.scalars(select(Shelf)).one()
    with pytest.raises(InvalidRequestError, match="lazy='raise'") as caught:
        shelf.sealed  # noqa: B018
    assert not isinstance(caught.value, DetachedInstanceError)
    assert not hasattr(caught.value, "__notes__")
    assert watch.findings == []


# -- the story ----------------------------------------------------------------------------------------


def test_the_message(watch: Watch, memory: Engine) -> None:
    """The whole story, word for word."""

    def get_order() -> Order:
        with Session(memory) as session:  # message opened
            return session.scalars(select(Order)).one()  # message loaded

    order = get_order()
    with pytest.raises(DetachedInstanceError):
        len(order.items)  # message touched
    finding = only(watch, RULE)
    assert finding.session is not None
    label, here = finding.session["id"], "tests/rules/test_detached_access.py"
    touched, opened, loaded = line("message touched"), line("message opened"), line("message loaded")
    width = len(f"{here}:{opened} in get_order")
    assert render(finding) == "\n".join(
        [
            "detached-access: Order.items was read after its session had ended; a lazy load needs a session",
            f"  touched   {here}:{touched} in test_the_message",
            f"  detached  {here}:{opened} in get_order".ljust(width + 12) + f"     session {label} closed here",
            f"  loaded    {here}:{loaded} in get_order",
            f"  opened    {here}:{opened} in get_order".ljust(width + 12) + f"     session {label}",
            "  fix: load it with the query: .options(selectinload(Order.items))",
            "  more: sessionwatch explain detached-access",
        ]
    )


def test_the_exception_stays_what_it_is_in_log_mode(watch: Watch, memory: Engine) -> None:
    """Class, text and arguments are SQLAlchemy's; the story is a note."""
    watch.uninstall()
    bare = read(load(memory), "items")
    with sessionwatch.watching("log", log=False) as again:
        error = read(load(memory), "items")
        story = render(only(again, RULE))
    without_address = [str(item).rpartition(" at 0x")[0] for item in (bare, error)]
    assert type(error) is DetachedInstanceError
    assert without_address[0] == without_address[1]
    assert str(bare).rpartition(">")[2] == str(error).rpartition(">")[2]
    assert error.__notes__ == [story]


def test_the_exception_stays_what_it_is_in_telemetry_mode(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telemetry reports it too, and the exception is SQLAlchemy's with a note."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("telemetry", log=False) as watch:
        error = read(load(memory), "items")
        assert type(error) is DetachedInstanceError
        assert error.__notes__ == [render(only(watch, RULE))]


def test_no_value_is_part_of_the_finding(watch: Watch, memory: Engine) -> None:
    """Neither the story nor the JSON carries a value of a column."""
    read(load(memory), "customer")
    finding = only(watch, RULE)
    assert "new" not in render(finding).split("\n", 1)[0]
    assert "ring twice" not in f"{render(finding)}{finding.as_json()}"
    assert "Ada" not in f"{render(finding)}{finding.as_json()}"


def test_logs_one_record(memory: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Two reads at one place are one record of the logger, with the story as its text."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with caplog.at_level(logging.WARNING, "sessionwatch"), sessionwatch.watching("log") as watch:
        order = load(memory)
        read(order, "items")
        read(order, "items")
        story = render(only(watch, RULE))
    assert [record.getMessage() for record in caplog.records if record.name == "sessionwatch"] == [story]


# -- strict -------------------------------------------------------------------------------------------


def test_strict_raises_an_error_of_both_families(strict: Watch, memory: Engine) -> None:
    """One exception: SQLAlchemy's DetachedInstanceError and sessionwatch's FindingError, with the finding."""
    order = load(memory)
    error = read(order, "items")
    assert isinstance(error, FindingError)
    assert isinstance(error.finding, Finding)
    assert error.finding is only(strict, RULE)
    assert render(error.finding) in "".join(traceback.format_exception(error))
    assert is_idle(memory)


def test_strict_never_replaces_an_exception_on_its_way(strict: Watch, memory: Engine) -> None:
    """A read in a handler keeps the first exception as the context."""
    order = load(memory)
    first = LookupError("first")
    try:
        raise first
    except LookupError:
        error = read(order, "items")
    assert error.__context__ is first


def test_strict_leaves_an_allowed_read_to_sqlalchemy(strict: Watch, memory: Engine) -> None:
    """What is allowed still raises SQLAlchemy's own error, and is counted as allowed."""
    order = load(memory)
    with sessionwatch.allow(RULE, reason="a probe"):
        error = read(order, "items")
    assert type(error) is DetachedInstanceError
    assert strict.findings == []
    assert [finding.allowed for finding in strict.allowed] == ["a probe"]


# -- where it points ----------------------------------------------------------------------------------


def test_points_at_the_line_that_serialized(watch: Watch, memory: Engine) -> None:
    """A read inside pydantic is blamed on the line that called for the serialization."""

    class OrderOut(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True)
        status: str
        items: list[Any]

    order = load(memory)
    with pytest.raises(pydantic.ValidationError, match="DetachedInstanceError"):
        OrderOut.model_validate(order)  # pydantic
    assert only(watch, RULE).line == line("pydantic")


def test_points_at_the_line_that_rendered_the_template(watch: Watch, memory: Engine) -> None:
    """A read inside a Jinja template is blamed on the line that rendered it."""
    template = jinja2.Environment(autoescape=True).from_string("{% for item in order.items %}x{% endfor %}")
    order = load(memory)
    with pytest.raises(DetachedInstanceError):
        template.render(order=order)  # jinja
    finding = only(watch, RULE)
    assert finding.line == line("jinja")
    assert finding.function == "test_points_at_the_line_that_rendered_the_template"


def test_points_into_a_comprehension(watch: Watch, memory: Engine) -> None:
    """A read inside a comprehension is blamed on the comprehension's line."""
    orders = [load(memory)]
    with pytest.raises(DetachedInstanceError):
        [
            order.items  # comprehension
            for order in orders
        ]
    assert only(watch, RULE).line == line("comprehension")


def test_points_at_a_property_of_the_model(watch: Watch, memory: Engine) -> None:
    """A property of the user's own class is the user's line."""

    class View:
        def __init__(self, order: Order) -> None:
            self.order = order

        @property
        def size(self) -> int:
            return len(self.order.items)  # property

    with pytest.raises(DetachedInstanceError):
        View(load(memory)).size  # noqa: B018
    finding = only(watch, RULE)
    assert (finding.line, finding.function) == (line("property"), "View.size")


def test_names_the_thread_that_read(watch: Watch, memory: Engine) -> None:
    """A read in another thread carries that thread's name."""
    order = load(memory)
    thread = threading.Thread(target=read, args=(order, "items"), name="reader-7")
    thread.start()
    thread.join()
    assert only(watch, RULE).evidence[0].thread == "reader-7"


# -- asyncio ------------------------------------------------------------------------------------------


async def test_reports_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """An instance of a closed AsyncSession is reported with the async with line and the query's."""
    async with AsyncSession(async_shop) as session:  # async opened
        order = (await session.scalars(select(Order))).one()  # async query
    with pytest.raises(DetachedInstanceError):
        len(order.items)  # async read
    finding = only(watch, RULE)
    assert finding.line == line("async read")
    assert evidence_line(finding, "opened") == line("async opened")
    assert evidence_line(finding, "detached") == line("async opened")
    assert evidence_line(finding, "loaded") == line("async query")


async def test_reports_what_an_async_commit_expired(watch: Watch, async_shop: AsyncEngine) -> None:
    """The awaited commit is the line that expired the value."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        await session.commit()  # async commit
    read(order, "status")
    finding = only(watch, RULE)
    assert evidence_line(finding, "expired") == line("async commit")
    assert finding.fix == "read it before the commit, or make the sessions with expire_on_commit=False"


async def test_ignores_what_is_loaded_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """A response that is built after the commit and the close, of what the query loaded and nothing expired."""
    async with AsyncSession(async_shop, expire_on_commit=False) as session:
        order = (await session.scalars(select(Order).options(selectinload(Order.items)))).one()
        await session.commit()
    assert (order.status, len(order.items)) == ("new", 2)
    assert watch.findings == []


async def test_ignores_what_was_refreshed_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """After ``await refresh()`` and inside of ``run_sync`` all of it is there, and stays."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        await session.commit()
        await session.refresh(order, ["status", "notes"])
        assert await session.run_sync(lambda _: len(order.items)) == 2
    assert (order.status, order.notes, len(order.items)) == ("new", "ring twice", 2)
    assert watch.findings == []


async def test_points_across_the_greenlet_switch(watch: Watch, async_shop: AsyncEngine) -> None:
    """A read inside run_sync is the line inside the function that run_sync called."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()

    def look(session: Session) -> int:
        return len(order.items)  # inside run_sync

    async with AsyncSession(async_shop) as session:
        with pytest.raises(DetachedInstanceError):
            await session.run_sync(look)
    assert only(watch, RULE).line == line("inside run_sync")


async def test_points_across_the_switch_where_the_greenlet_has_no_user_code(watch: Watch, memory: Engine) -> None:
    """Library code that reads inside a greenlet is blamed on the line that awaited it."""
    from sqlalchemy.util import greenlet_spawn

    with allow("blocking-io", reason="the driver is not what is tested"):
        order = load(memory)
    with pytest.raises(DetachedInstanceError):
        await greenlet_spawn(getattr, order, "items")  # awaited
    assert only(watch, RULE).line == line("awaited")


async def test_names_the_tasks(watch: Watch, async_shop: AsyncEngine) -> None:
    """The evidence says which task opened the session and which one read."""
    import asyncio

    async def get() -> Customer:
        async with AsyncSession(async_shop) as session:
            return (await session.scalars(select(Customer))).one()

    async def use(customer: Customer) -> None:
        read(customer, "orders")

    customer = await asyncio.create_task(get(), name="loader")
    await asyncio.create_task(use(customer), name="reader")
    tasks = {item.label: item.task for item in only(watch, RULE).evidence}
    assert tasks == {"touched": "reader", "detached": "loader", "loaded": None, "opened": "loader"}


async def test_strict_under_asyncio(strict: Watch, async_shop: AsyncEngine) -> None:
    """The strict error under asyncio is of both families, and the pool is idle."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
    assert isinstance(read(order, "notes"), FindingError)
    assert is_idle(async_shop)


# -- unpickled and copied -----------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [lambda order: pickle.loads(pickle.dumps(order)), copy.deepcopy])
def test_names_an_unpickled_or_copied_instance_as_that(shop: Engine, watch: Watch, copied: Any) -> None:
    """No session of it has ended: it never had one."""
    with Session(shop) as session:
        order = copied(session.get_one(Order, 1))
    with pytest.raises(DetachedInstanceError):
        assert order.items
    finding = only(watch, "detached-access")
    assert finding.message == (
        "Order.items was read on an unpickled or copied Order, which has no session; a lazy load needs one"
    )
    assert finding.evidence[-1].note == "it was unpickled or copied; no session has held this one"


def test_names_the_session_of_an_unpickled_instance_that_got_one(shop: Engine, watch: Watch) -> None:
    """Once a session has held it, that session's end is the story."""
    with Session(shop) as session:
        order = pickle.loads(pickle.dumps(session.get_one(Order, 1)))
    with Session(shop) as session:
        session.add(order)
    with pytest.raises(DetachedInstanceError):
        assert order.items
    assert only(watch, "detached-access").message.startswith("Order.items was read after its session had ended")
