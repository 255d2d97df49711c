"""The rule ``detached-touch``: reads of loaded values, on instances whose session has ended."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator
from typing import Any

import jinja2
import pydantic
import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, inspect, select
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    Mapped,
    Session,
    composite,
    make_transient,
    make_transient_to_detached,
    mapped_column,
    relationship,
    selectinload,
)
from sqlalchemy.orm.base import instance_str, state_str
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.pool import QueuePool

import sessionwatch
from sessionwatch import FindingError
from sessionwatch.output.messages import render
from sessionwatch.watch.watch import Watch
from tests.backends import enforce_foreign_keys
from tests.models import Base, create
from tests.rules import models
from tests.rules.models import Customer, Item, Order
from tests.rules.places import evidence_line, is_idle, labels, line, only

RULE = "detached-touch"


class Point:
    """A pair of columns as one value."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __composite_values__(self) -> tuple[int, int]:
        return self.x, self.y


class Place(Base):
    """A composite, a hybrid and plain columns."""

    __tablename__ = "touch_places"

    id: Mapped[int] = mapped_column(primary_key=True)
    route_id: Mapped[int | None] = mapped_column(ForeignKey("touch_routes.id"))
    x: Mapped[int] = mapped_column()
    y: Mapped[int] = mapped_column()
    point: Mapped[Point] = composite(Point, "x", "y")

    @hybrid_property
    def sum(self) -> int:
        return self.x + self.y  # hybrid


class Route(Base):
    """Places in a row, and an association proxy to their x."""

    __tablename__ = "touch_routes"

    id: Mapped[int] = mapped_column(primary_key=True)
    places: Mapped[list[Place]] = relationship()
    xs: AssociationProxy[list[int]] = association_proxy("places", "x")


@pytest.fixture
def memory() -> Iterator[Engine]:
    """A seeded SQLite database in memory, with a pool that counts its connections."""
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0)
    enforce_foreign_keys(engine)
    models.seed(engine)
    create(engine, Place, Route)
    yield engine
    engine.dispose()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Mode ``log``, with this rule switched on."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("log", rules={RULE: "log"}, log=False) as watch:
        yield watch


def load(engine: Engine, kind: Any = Order, *options: Any) -> Any:
    """An instance whose session has ended."""
    with Session(engine) as session:
        return session.scalars(select(kind).options(*options)).first()


def refused(instance: object, name: str = "status") -> FindingError:
    """The error of a read in mode ``strict``."""
    with pytest.raises(FindingError) as caught:
        getattr(instance, name)
    return caught.value


# -- reports ------------------------------------------------------------------------------------------


def test_strict_refuses_a_read(strict: Watch, shop: Engine) -> None:
    """A loaded value can't be read after the session has ended, and the pool is idle."""
    with Session(shop) as session:  # opened
        order = session.scalars(select(Order)).one()  # query
    with pytest.raises(FindingError) as caught:
        order.status  # strict read  # noqa: B018
    finding = only(strict, RULE)
    assert caught.value.finding is finding
    assert (finding.subject, finding.line) == ("Order.status", line("strict read  # noqa: B018"))
    assert labels(finding) == ["touched", "detached", "loaded", "opened"]
    assert evidence_line(finding, "detached") == line("opened")
    assert evidence_line(finding, "loaded") == line("query")
    assert is_idle(shop)


def test_can_be_caught_as_sqlalchemys_error(strict: Watch, memory: Engine) -> None:
    """The error is a DetachedInstanceError too, and its text is the whole story."""
    error = refused(load(memory))
    assert isinstance(error, DetachedInstanceError)
    assert str(error) == render(error.finding)


def test_the_value_is_returned_where_the_rule_logs(logged: Watch, memory: Engine) -> None:
    """Set to ``log``, the read answers as it would without sessionwatch."""
    assert load(memory).status == "new"
    assert only(logged, RULE).subject == "Order.status"


def test_raises_in_mode_log_where_the_rule_is_set_to(memory: Engine) -> None:
    """A rule is set to ``raise`` by itself."""
    with sessionwatch.watching("log", rules={RULE: "raise"}, log=False):
        refused(load(memory))


def test_reports_a_loaded_relationship(strict: Watch, memory: Engine) -> None:
    """An eagerly loaded collection is a value like the others."""
    refused(load(memory, Order, selectinload(Order.items)), "items")
    assert only(strict, RULE).subject == "Order.items"


def test_reports_a_primary_key(strict: Watch, memory: Engine) -> None:
    """Primary keys are reported unless the option says otherwise."""
    refused(load(memory), "id")
    assert only(strict, RULE).subject == "Order.id"


def test_reports_after_expunge(strict: Watch, memory: Engine) -> None:
    """An instance that was expunged without an allowance is reported, with the expunge as evidence."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        session.expunge(order)  # expunge
        refused(order)
    assert evidence_line(only(strict, RULE), "detached") == line("expunge")


def test_reports_after_expunge_all(strict: Watch, memory: Engine) -> None:
    """expunge_all() detaches, too."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        session.expunge_all()  # expunge all
        refused(order)
    assert evidence_line(only(strict, RULE), "detached") == line("expunge all")


def test_says_how_to_switch_the_rule_off(strict: Watch, memory: Engine) -> None:
    """The message tells a code base that serves detached objects on purpose what to do."""
    refused(load(memory))
    assert 'detached-touch = "off" in [tool.sessionwatch.rules]' in only(strict, RULE).fix


def test_an_exception_on_its_way_is_kept_as_context(strict: Watch, memory: Engine) -> None:
    """A read in a handler does not make the first exception disappear."""
    order = load(memory)
    first = LookupError("first")
    try:
        raise first
    except LookupError:
        error = refused(order)
    assert error.__context__ is first


# -- stays silent on ----------------------------------------------------------------------------------


def test_ignores_everything_in_mode_log(watch: Watch, memory: Engine) -> None:
    """Off by default in development: a response built after close is legitimate there."""
    assert load(memory).status == "new"
    assert watch.findings == []


def test_ignores_everything_in_mode_telemetry(memory: Engine) -> None:
    """Off in production."""
    with sessionwatch.watching("telemetry", log=False) as watch:
        assert load(memory).status == "new"
        assert watch.findings == []


def test_ignores_reads_inside_the_session(strict: Watch, memory: Engine) -> None:
    """Reads while the session is open are right use."""
    with Session(memory) as session:
        order = session.scalars(select(Order).options(selectinload(Order.items))).one()
        assert (order.status, len(order.items), order.notes) == ("new", 2, "ring twice")
    assert strict.findings == []


def test_ignores_values_taken_inside_the_session(strict: Watch, memory: Engine) -> None:
    """A plain value outlives its session."""
    with Session(memory) as session:
        status = session.scalars(select(Order)).one().status
    assert status == "new"
    assert strict.findings == []


def test_ignores_what_was_expunged_inside_an_allowance(strict: Watch, memory: Engine) -> None:
    """Objects that are expunged on purpose may be read for ever."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        with sessionwatch.allow(RULE, reason="served from a cache"):
            session.expunge(order)
    assert order.status == "new"
    assert strict.findings == []
    assert "served from a cache" not in [item.reason for item in strict.unused_allowances()]


def test_ignores_what_was_expunged_all_inside_an_allowance(strict: Watch, memory: Engine) -> None:
    """The same for expunge_all()."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        with sessionwatch.allow(RULE, reason="served from a cache"):
            session.expunge_all()
    assert order.status == "new"
    assert strict.findings == []


def test_ignores_reads_inside_an_allowance(strict: Watch, memory: Engine) -> None:
    """A read inside the allowance answers, and is counted as allowed."""
    order = load(memory)
    with sessionwatch.allow(RULE, reason="display"):
        assert order.status == "new"
    assert strict.findings == []
    assert [finding.allowed for finding in strict.allowed] == ["display"]


def test_ignores_transient_and_pending_objects(strict: Watch, memory: Engine) -> None:
    """An object that never was persistent has no session to outlive."""
    order = Order(status="draft")
    assert order.status == "draft"
    with Session(memory) as session:
        session.add(order)
        assert order.status == "draft"
        session.rollback()
    assert order.status == "draft"
    assert strict.findings == []


def test_ignores_make_transient(strict: Watch, memory: Engine) -> None:
    """An instance that was made transient on purpose is a plain object."""
    order = load(memory)
    make_transient(order)
    assert order.status == "new"
    assert strict.findings == []


def test_ignores_pickling_and_the_unpickled(strict: Watch, memory: Engine) -> None:
    """Pickling reads no attribute, and an unpickled instance has had no session here."""
    again = pickle.loads(pickle.dumps(load(memory)))
    assert again.status == "new"
    assert strict.findings == []


def test_ignores_copying(strict: Watch, memory: Engine) -> None:
    """copy.copy() and copy.deepcopy() read no attribute."""
    order = load(memory)
    copy.copy(order)
    copy.deepcopy(order)
    assert strict.findings == []


def test_ignores_merge(strict: Watch, memory: Engine) -> None:
    """SQLAlchemy's own reads while it merges are no touches."""
    order = load(memory, Order, selectinload(Order.items))
    with Session(memory) as session:
        merged = session.merge(order)
        assert merged.status == "new"
    with Session(memory) as session:
        assert session.merge(order, load=False).status == "new"
    assert strict.findings == []


def test_ignores_add_and_what_is_attached_again(strict: Watch, memory: Engine) -> None:
    """A detached instance that is added is owned again."""
    order = load(memory, Order, selectinload(Order.items))
    with Session(memory) as session:
        session.add(order)
        assert (order.status, len(order.items)) == ("new", 2)
    assert strict.findings == []


def test_ignores_delete_of_a_detached_instance(strict: Watch, memory: Engine) -> None:
    """delete() of a detached instance reads for itself."""
    item = load(memory, Item)
    with Session(memory) as session:
        session.delete(item)
        session.commit()
    assert strict.findings == []


def test_ignores_a_deleted_and_committed_instance(strict: Watch, memory: Engine) -> None:
    """What was deleted is read for its last values, for example in a message."""
    with Session(memory) as session:
        item = session.scalars(select(Item)).first()
        assert item is not None
        session.delete(item)
        session.commit()
        assert item.name == "bolt"
    assert item.name == "bolt"
    assert strict.findings == []


def test_ignores_states_and_their_repr(strict: Watch, memory: Engine) -> None:
    """inspect(), repr() and SQLAlchemy's names for instances read no attribute."""
    order = load(memory)
    state = inspect(order)
    assert state.detached
    assert state.identity == (1,)
    assert "Order" in repr(order) + state_str(state) + instance_str(order)
    assert strict.findings == []


def test_ignores_history_and_attribute_states(strict: Watch, memory: Engine) -> None:
    """What inspect() shows of attributes is SQLAlchemy's read."""
    assert inspect(load(memory)).attrs.status.value == "new"
    assert inspect(load(memory)).attrs.status.history.unchanged == ["new"]
    assert strict.findings == []


def test_ignores_make_transient_to_detached(strict: Watch) -> None:
    """An instance that was declared detached by hand has had no session."""
    order = Order(id=1, status="new")
    make_transient_to_detached(order)
    order.__dict__["status"] = "new"
    assert order.status == "new"
    assert strict.findings == []


def test_ignores_primary_keys_where_the_option_says_so(memory: Engine) -> None:
    """``primary-keys = allow``: the key is read, other values are still reported."""
    with sessionwatch.watching("strict", settings={"detached-touch.primary-keys": "allow"}, log=False) as watch:
        order = load(memory)
        assert order.id == 1
        assert watch.findings == []
        refused(order)


def test_ignores_instances_of_sessions_from_before_the_installation(memory: Engine) -> None:
    """Where it is not known which session ended, nothing is guessed about a live one."""
    session = Session(memory)
    order = session.scalars(select(Order)).one()
    with sessionwatch.watching("strict", log=False) as watch:
        assert order.status == "new"
        session.close()
        assert watch.findings == []


def test_ignores_class_level_access(strict: Watch) -> None:
    """The class's attribute is a SQL expression."""
    assert str(Order.status) == "Order.status"
    assert strict.findings == []


# -- the story ----------------------------------------------------------------------------------------


def test_the_message(strict: Watch, memory: Engine) -> None:
    """The whole story, word for word."""

    def get_order() -> Order:
        with Session(memory) as session:  # message opened
            return session.scalars(select(Order)).one()  # message loaded

    order = get_order()
    with pytest.raises(FindingError) as caught:
        print(order.status)  # message touched
    finding = only(strict, RULE)
    assert finding.session is not None
    label, here = finding.session["id"], "tests/rules/test_detached_touch.py"
    touched, opened, loaded = line("message touched"), line("message opened"), line("message loaded")
    width = len(f"  detached  {here}:{opened} in get_order")
    switch = 'detached-touch = "off" in [tool.sessionwatch.rules]'
    assert (
        str(caught.value)
        == render(finding)
        == "\n".join(
            [
                "detached-touch: Order.status was read after its session had ended",
                f"  touched   {here}:{touched} in test_the_message",
                f"  detached  {here}:{opened} in get_order".ljust(width) + f"     session {label} closed here",
                f"  loaded    {here}:{loaded} in get_order",
                f"  opened    {here}:{opened} in get_order".ljust(width) + f"     session {label}",
                "  fix: read it while the session is open and pass the value on;",
                f"       where detached objects are served on purpose, set {switch}",
                "  more: sessionwatch explain detached-touch",
            ]
        )
    )


# -- where it points ----------------------------------------------------------------------------------


def test_points_at_the_line_that_serialized(logged: Watch, memory: Engine) -> None:
    """A read inside pydantic is blamed on the line that called for the serialization."""

    class OrderOut(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True)
        status: str

    OrderOut.model_validate(load(memory))  # pydantic
    assert only(logged, RULE).line == line("pydantic")


def test_points_at_the_line_that_rendered_the_template(logged: Watch, memory: Engine) -> None:
    """A read inside a Jinja template is blamed on the line that rendered it."""
    template = jinja2.Environment(autoescape=True).from_string("{{ order.status }}")
    template.render(order=load(memory))  # jinja
    assert only(logged, RULE).line == line("jinja")


def test_points_into_a_comprehension(logged: Watch, memory: Engine) -> None:
    """A read inside a comprehension is blamed on the comprehension's line."""
    orders = [load(memory)]
    _ = [
        order.status  # comprehension
        for order in orders
    ]
    assert only(logged, RULE).line == line("comprehension")


def test_points_at_the_read_of_a_composite(logged: Watch, memory: Engine) -> None:
    """A composite reads its columns on behalf of the line that asked for it."""
    with Session(memory) as session:
        session.add(Place(x=1, y=2))
        session.commit()
    with Session(memory) as session:
        place = session.scalars(select(Place)).one()
        place.__dict__.pop("point", None)  # not asked for yet
    assert place.point.x == 1  # composite
    assert {finding.line for finding in logged.findings} == {line("composite")}
    assert {finding.subject for finding in logged.findings} == {"Place.x", "Place.y"}


def test_points_into_a_hybrid(logged: Watch, memory: Engine) -> None:
    """A hybrid is the user's own function: the line inside of it."""
    with Session(memory) as session:
        session.add(Place(x=1, y=2))
        session.commit()
    place = load(memory, Place)
    assert place.sum == 3
    assert {finding.line for finding in logged.findings} == {line("hybrid")}
    assert {finding.function for finding in logged.findings} == {"Place.sum"}


def test_points_at_the_read_of_an_association_proxy(logged: Watch, memory: Engine) -> None:
    """An association proxy reads on behalf of the line that asked for it."""
    with Session(memory) as session:
        session.add(Route(places=[Place(x=1, y=2)]))
        session.commit()
    route = load(memory, Route, selectinload(Route.places))
    assert list(route.xs) == [1]  # proxy
    assert {finding.line for finding in logged.findings} == {line("proxy")}
    assert {finding.subject for finding in logged.findings} == {"Route.places", "Place.x"}


# -- asyncio ------------------------------------------------------------------------------------------


async def test_strict_refuses_a_read_under_asyncio(strict: Watch, async_shop: AsyncEngine) -> None:
    """The same after an AsyncSession; the evidence names the async with line and the query."""
    async with AsyncSession(async_shop) as session:  # async opened
        order = (await session.scalars(select(Order))).one()  # async query
    refused(order)
    finding = only(strict, RULE)
    assert evidence_line(finding, "detached") == line("async opened")
    assert evidence_line(finding, "loaded") == line("async query")
    assert is_idle(async_shop)


async def test_points_across_the_greenlet_switch(strict: Watch, async_shop: AsyncEngine) -> None:
    """A read inside run_sync is the line inside the function that run_sync called."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()

    def look(session: Session) -> str:
        return order.status  # inside run_sync

    async with AsyncSession(async_shop) as session:
        with pytest.raises(FindingError):
            await session.run_sync(look)
    assert only(strict, RULE).line == line("inside run_sync")
    assert is_idle(async_shop)


async def test_names_the_task_that_read(logged: Watch, async_shop: AsyncEngine) -> None:
    """The evidence says which task read."""
    async with AsyncSession(async_shop) as session:
        customer = (await session.scalars(select(Customer))).one()

    async def use() -> str:
        return customer.name

    await asyncio.create_task(use(), name="reader")
    assert only(logged, RULE).evidence[0].task == "reader"


async def test_ignores_reads_that_stay_inside_under_asyncio(strict: Watch, async_shop: AsyncEngine) -> None:
    """Inside of the block, from another task and from run_sync; after it only what was taken inside."""

    async def status() -> str:
        return order.status

    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        taken = [order.status, await asyncio.create_task(status()), await session.run_sync(lambda _: order.status)]
    assert taken == ["new"] * 3
    async with AsyncSession(async_shop) as session:
        session.add(order)
        assert order.status == "new"
    assert strict.findings == []
