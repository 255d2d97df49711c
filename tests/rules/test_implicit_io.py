"""The rule ``implicit-io``: reads that need the database under asyncio, where nothing awaits them."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from datetime import datetime
from typing import Any

import pydantic
import pytest
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.exc import InvalidRequestError, MissingGreenlet, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import (
    AsyncAttrs,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (
    Mapped,
    Session,
    joinedload,
    load_only,
    mapped_column,
    relationship,
    selectinload,
    undefer,
)

import sessionwatch
from sessionwatch import FindingError
from sessionwatch.output.messages import render
from sessionwatch.watch.watch import Watch
from tests.models import Base, create
from tests.rules import models
from tests.rules.models import Customer, Item, Order, Person
from tests.rules.places import evidence_line, is_idle, labels, line, only

RULE = "implicit-io"
REFUSED = (MissingGreenlet, StatementError)  # 2.1 wraps it where the driver's cursor needs the await
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


class Node(AsyncAttrs, Base):
    """A row of a tree, with a column that the database computes."""

    __tablename__ = "implicit_nodes"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    changed: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("implicit_nodes.id"))
    children: Mapped[list[Node]] = relationship(remote_side=parent_id)


@pytest.fixture
async def memory(async_shop: AsyncEngine) -> AsyncEngine:
    """The shop with a tree in it."""
    async with async_shop.begin() as connection:
        await connection.run_sync(create, Node)
    async with AsyncSession(async_shop) as session:
        session.add(Node(name="root", children=[Node(name="leaf")]))
        await session.commit()
    return async_shop


def read(instance: object, name: str) -> Any:
    """The error that SQLAlchemy raises for a refused read."""
    with pytest.raises(REFUSED) as caught:
        getattr(instance, name)  # the read
    return caught.value


# -- reports ------------------------------------------------------------------------------------------


async def test_reports_a_collection_with_selectinload(watch: Watch, async_shop: AsyncEngine) -> None:
    """A lazy collection is reported at the reading line, and the fix is selectinload."""
    async with AsyncSession(async_shop) as session:  # opened
        order = (await session.scalars(select(Order))).one()  # query
        with pytest.raises(REFUSED):
            len(order.items)  # collection read
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Order.items", line("collection read"))
    assert finding.fix == "load it with the query: .options(selectinload(Order.items))"
    assert labels(finding) == ["touched", "loaded", "opened"]
    assert evidence_line(finding, "loaded") == line("query")
    assert evidence_line(finding, "opened") == line("opened")


async def test_the_fix_of_what_get_brought_is_an_argument(watch: Watch, async_shop: AsyncEngine) -> None:
    """get() takes loader options itself: there is no query that could be given some."""
    async with AsyncSession(async_shop) as session:
        read(await session.get(Order, 1), "items")
        assert only(watch, RULE).fix == "load it with get(): options=[selectinload(Order.items)]"
        watch.clear()
        session.expunge_all()
        order = await session.get_one(Order, 1, options=[selectinload(Order.items)])
        assert (len(order.items) > 0, watch.findings) == (True, [])


@pytest.mark.parametrize(
    ("name", "option", "text"),
    [
        ("items", selectinload(Order.items), "selectinload(Order.items)"),
        ("customer", joinedload(Order.customer), "joinedload(Order.customer)"),
        ("notes", undefer(Order.notes), "undefer(Order.notes)"),
    ],
)
async def test_the_fix_removes_the_finding(
    watch: Watch, async_shop: AsyncEngine, name: str, option: Any, text: str
) -> None:
    """The loader option that the fix names is the one that helps."""
    async with AsyncSession(async_shop) as session:
        read((await session.scalars(select(Order))).one(), name)
        assert only(watch, RULE).fix == f"load it with the query: .options({text})"
        watch.clear()
        session.expunge_all()
        getattr((await session.scalars(select(Order).options(option))).one(), name)
    assert watch.findings == []


async def test_names_the_whole_way_from_the_query(watch: Watch, async_shop: AsyncEngine) -> None:
    """What was loaded by an option of the query gets the option chained to that one, and the chain helps."""
    query = select(Customer).options(selectinload(Customer.orders))
    async with AsyncSession(async_shop) as session:
        customer = (await session.scalars(query)).one()
        read(customer.orders[0], "items")
        fix = "load it with the query: .options(selectinload(Customer.orders).selectinload(Order.items))"
        assert only(watch, RULE).fix == fix
        session.expunge_all()
        query = select(Customer).options(selectinload(Customer.orders).selectinload(Order.items))
        assert len((await session.scalars(query)).one().orders[0].items) == 2


async def test_reports_a_tree_with_a_recursion_depth(watch: Watch, memory: AsyncEngine) -> None:
    """A relationship that goes round gets one option for all of its levels."""
    query = select(Node).where(Node.name == "root").options(selectinload(Node.children))
    async with AsyncSession(memory) as session:
        read((await session.scalars(query)).one().children[0], "children")
    fix = "load it with the query: .options(selectinload(Node.children, recursion_depth=-1))"
    assert only(watch, RULE).fix == fix


async def test_reports_a_column_that_load_only_left_out(watch: Watch, async_shop: AsyncEngine) -> None:
    """A column that the query did not ask for is reported."""
    async with AsyncSession(async_shop) as session:
        read((await session.scalars(select(Order).options(load_only(Order.id)))).one(), "status")
    finding = only(watch, RULE)
    assert finding.fix == "load it with the query: .options(undefer(Order.status))"
    assert "expired" not in labels(finding)


async def test_reports_a_subclass_column_with_selectin_polymorphic(watch: Watch, async_shop: AsyncEngine) -> None:
    """A column of a joined subclass needs a polymorphic loader option, not undefer."""
    async with AsyncSession(async_shop) as session:
        read((await session.scalars(select(Person))).one(), "salary")
    finding = only(watch, RULE)
    assert finding.subject == "Employee.salary"
    assert labels(finding) == ["touched", "loaded", "opened"]
    assert finding.fix == "load it with the query: .options(selectin_polymorphic(Person, [Employee]))"


async def test_reports_what_a_commit_expired(watch: Watch, async_shop: AsyncEngine) -> None:
    """The commit that expired the value is evidence, and the fix is expire_on_commit=False."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        await session.commit()  # the commit
        read(order, "status")
    finding = only(watch, RULE)
    assert labels(finding) == ["touched", "expired", "loaded", "opened"]
    assert evidence_line(finding, "expired") == line("the commit")
    assert finding.fix == "make the sessions with expire_on_commit=False"


async def test_reports_a_relationship_that_a_commit_expired(watch: Watch, async_shop: AsyncEngine) -> None:
    """Eager loading alone does not help where a commit emptied the instance, and the fix says so."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order).options(selectinload(Order.items)))).one()
        await session.commit()
        read(order, "items")
    finding = only(watch, RULE)
    assert finding.subject == "Order.items"
    assert finding.fix == (
        "load it with the query: .options(selectinload(Order.items)),\n"
        "and make the sessions with expire_on_commit=False"
    )


async def test_reports_what_a_rollback_expired(watch: Watch, async_shop: AsyncEngine) -> None:
    """The rollback is evidence, and the fix is to load it again."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        await session.rollback()  # the rollback
        read(order, "status")
    finding = only(watch, RULE)
    assert evidence_line(finding, "expired") == line("the rollback")
    assert finding.fix == 'load it again first: await session.refresh(order, ["status"])'


@pytest.mark.parametrize("how", ["expire", "expire one", "expire_all"])
async def test_reports_what_was_expired_by_hand(watch: Watch, async_shop: AsyncEngine, how: str) -> None:
    """The line that expired the instance, one attribute of it, or all instances, is evidence."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        if how == "expire_all":
            session.expire_all()  # expire_all
        elif how == "expire":
            session.expire(order)  # expire
        else:
            session.expire(order, ["status"])  # expire one
        read(order, "status")
    finding = only(watch, RULE)
    wanted = {"expire_all": line("expire_all"), "expire": line("expire"), "expire one": line("expire one")}
    assert evidence_line(finding, "expired") == wanted[how]
    assert f"by {how.split()[0]}()" in render(finding)


async def test_reports_what_the_database_computes(watch: Watch, memory: AsyncEngine) -> None:
    """A value that an UPDATE computes in the database is expired by the flush, and the fix is eager_defaults."""
    async with AsyncSession(memory, expire_on_commit=False) as session:
        node = (await session.scalars(select(Node).where(Node.name == "root"))).one()
        node.name = "stem"
        await session.commit()
        read(node, "changed")
    finding = only(watch, RULE)
    assert "by flush(), because the database computes it" in render(finding)
    assert finding.fix == 'let the flush fetch it: __mapper_args__ = {"eager_defaults": True} on Node'


async def test_reports_a_relationship_of_a_new_object(watch: Watch, async_shop: AsyncEngine) -> None:
    """An object that no query loaded gets no loader option but a refresh, and the refresh helps."""
    async with AsyncSession(async_shop, expire_on_commit=False) as session:
        order = Order()
        session.add(order)
        await session.commit()
        read(order, "items")
        assert only(watch, RULE).fix == 'load it first: await session.refresh(order, ["items"])'
        await session.refresh(order, ["items"])
        assert order.items == []


async def test_reports_attribute_probing(watch: Watch, async_shop: AsyncEngine) -> None:
    """hasattr() does not hide the error, and the read is a finding though a serializer swallows it."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        with contextlib.suppress(SQLAlchemyError):
            hasattr(order, "items")  # probe
    assert only(watch, RULE).line == line("probe")


async def test_reports_a_read_by_a_set(watch: Watch, async_shop: AsyncEngine) -> None:
    """A change that must load the old value first is a read as well."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        with pytest.raises(REFUSED):
            order.items = []  # set
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Order.items", line("set"))


async def test_reports_rows_of_a_stream(watch: Watch, async_shop: AsyncEngine) -> None:
    """Objects of a stream are reported with the line of the stream."""
    async with AsyncSession(async_shop) as session:
        async for order in await session.stream_scalars(select(Order)):  # stream
            read(order, "items")
    finding = only(watch, RULE)
    assert evidence_line(finding, "loaded") == line("stream")


async def test_reports_with_a_scoped_session(watch: Watch, async_shop: AsyncEngine) -> None:
    """A session of a registry is like any other."""
    registry = async_scoped_session(async_sessionmaker(async_shop), asyncio.current_task)
    order = (await registry.scalars(select(Order))).one()
    read(order, "customer")
    await registry.remove()
    assert only(watch, RULE).subject == "Order.customer"


async def test_reports_a_task_that_outlives_its_request(watch: Watch, async_shop: AsyncEngine) -> None:
    """A background task that reads what the request loaded is named, and so is the task that opened the session."""
    session = AsyncSession(async_shop)
    order = (await session.scalars(select(Order))).one()

    async def later() -> None:
        read(order, "items")

    await asyncio.create_task(later(), name="background")
    await session.close()
    tasks = {item.label: item.task for item in only(watch, RULE).evidence}
    assert tasks["touched"] == "background"
    assert tasks["opened"] != "background"


# -- stays silent on ----------------------------------------------------------------------------------


async def test_ignores_awaitable_attrs(watch: Watch, memory: AsyncEngine) -> None:
    """An attribute that is awaited is right use, whatever it has to load."""
    async with AsyncSession(memory) as session:
        node = (await session.scalars(select(Node).where(Node.name == "root"))).one()
        assert len(await node.awaitable_attrs.children) == 1
        await session.commit()
        assert await node.awaitable_attrs.name == "root"
    assert watch.findings == []


async def test_ignores_run_sync(watch: Watch, async_shop: AsyncEngine) -> None:
    """A lazy load inside run_sync() is right use."""

    def look(session: Session) -> int:
        return len(session.scalars(select(Order)).one().items)

    async with AsyncSession(async_shop) as session:
        assert await session.run_sync(look) == 2
    assert watch.findings == []


async def test_ignores_eager_loads(watch: Watch, async_shop: AsyncEngine) -> None:
    """What the query loads is read without a finding."""
    options = selectinload(Order.items), joinedload(Order.customer), undefer(Order.notes)
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order).options(*options))).one()
        assert (len(order.items), order.notes) == (2, "ring twice")
        assert order.customer is not None
    assert watch.findings == []


async def test_ignores_a_refresh(watch: Watch, async_shop: AsyncEngine) -> None:
    """A refresh that is awaited brings back what a commit expired."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        await session.commit()
        await session.refresh(order, ["status", "items"])
        assert (order.status, len(order.items)) == ("new", 2)
    assert watch.findings == []


async def test_ignores_a_many_to_one_in_the_identity_map(watch: Watch, async_shop: AsyncEngine) -> None:
    """A many-to-one whose object is there already needs no database."""
    async with AsyncSession(async_shop) as session:
        customer = (await session.scalars(select(Customer))).one()
        order = (await session.scalars(select(Order))).one()
        assert order.customer is customer
    assert watch.findings == []


async def test_ignores_sessions_without_expiry(watch: Watch, async_shop: AsyncEngine) -> None:
    """With expire_on_commit=False values are there after the commit."""
    async with AsyncSession(async_shop, expire_on_commit=False) as session:
        order = (await session.scalars(select(Order))).one()
        await session.commit()
        assert order.status == "new"
    assert watch.findings == []


@pytest.mark.parametrize("work", ["execute", "refresh", "flush", "merge"])
async def test_ignores_work_that_no_attribute_caused(watch: Watch, async_shop: AsyncEngine, work: str) -> None:
    """A sync method that is called without SQLAlchemy's greenlet raises SQLAlchemy's own error, without a note."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        order.status = "changed"
        copy = Order(id=order.id, items=[])
        calls: dict[str, tuple[Any, ...]] = {"execute": (select(Order),), "refresh": (order,), "merge": (copy,)}
        with pytest.raises((*REFUSED, InvalidRequestError)) as caught:
            getattr(session.sync_session, work)(*calls.get(work, ()))
        await session.rollback()
    assert watch.findings == []
    assert not hasattr(caught.value, "__notes__")


async def test_ignores_what_is_allowed(strict: Watch, async_shop: AsyncEngine) -> None:
    """What is allowed raises SQLAlchemy's own error, and is counted as allowed."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        with sessionwatch.allow(RULE, reason="a probe"):
            error = read(order, "items")
    assert not isinstance(error, FindingError)
    assert strict.findings == []
    assert [finding.allowed for finding in strict.allowed] == ["a probe"]


# -- the story ----------------------------------------------------------------------------------------


async def test_the_message(watch: Watch, async_shop: AsyncEngine) -> None:
    """The whole story, word for word."""

    async def show() -> None:
        async with AsyncSession(async_shop) as session:  # message opened
            order = (await session.scalars(select(Order))).one()  # message loaded
            await session.commit()  # message expired
            with pytest.raises(REFUSED):
                len(order.status)  # message touched

    await asyncio.create_task(show(), name="shop")
    finding = only(watch, RULE)
    assert finding.session is not None
    label, here = finding.session["id"], "tests/rules/test_implicit_io.py"
    touched, expired = line("message touched"), line("message expired")
    loaded, opened = line("message loaded"), line("message opened")
    needs = "refreshing an expired value needs the database"
    assert render(finding) == "\n".join(
        [
            f"implicit-io: Order.status was read where nothing awaits it; {needs}",
            f"  touched  {here}:{touched} in show     task shop",
            f"  expired  {here}:{expired} in show     session {label} by commit()",
            f"  loaded   {here}:{loaded} in show",
            f"  opened   {here}:{opened} in show     session {label}, task shop",
            "  fix: make the sessions with expire_on_commit=False",
            "  more: sessionwatch explain implicit-io",
        ]
    )


async def test_the_story_is_on_what_the_program_catches(watch: Watch, async_shop: AsyncEngine) -> None:
    """The note stands on the outermost exception, once in the printed chain; class and text are SQLAlchemy's."""
    async with AsyncSession(async_shop) as session:
        error = read((await session.scalars(select(Order))).one(), "items")
    story = render(only(watch, RULE))
    assert type(error) in REFUSED
    assert error.__notes__ == [story]
    assert "".join(traceback.format_exception(error)).count("implicit-io: ") == 1
    assert "greenlet_spawn has not been called" in str(error)


async def test_telemetry_reports_it_too(monkeypatch: pytest.MonkeyPatch, async_shop: AsyncEngine) -> None:
    """Telemetry names the attribute as well, and the exception is SQLAlchemy's with a note."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("telemetry", log=False) as watch:
        async with AsyncSession(async_shop) as session:
            error = read((await session.scalars(select(Order))).one(), "items")
        assert type(error) in REFUSED
        assert error.__notes__ == [render(only(watch, RULE))]


async def test_no_value_is_part_of_the_finding(watch: Watch, async_shop: AsyncEngine) -> None:
    """Neither the story nor the JSON carries a value of a column."""
    async with AsyncSession(async_shop) as session:
        read((await session.scalars(select(Item).where(Item.name == "bolt"))).one(), "order")
    finding = only(watch, RULE)
    assert "bolt" not in f"{render(finding)}{finding.as_json()}"


# -- strict -------------------------------------------------------------------------------------------


async def test_strict_raises_an_error_of_both_families(strict: Watch, async_shop: AsyncEngine) -> None:
    """One exception: SQLAlchemy's own class and sessionwatch's FindingError, with the finding; the pool is idle."""
    async with AsyncSession(async_shop) as session:
        error = read((await session.scalars(select(Order))).one(), "items")
    assert isinstance(error, FindingError)
    assert error.finding is only(strict, RULE)
    assert "greenlet_spawn has not been called" in str(error)
    assert is_idle(async_shop)


async def test_strict_never_replaces_an_exception_on_its_way(strict: Watch, async_shop: AsyncEngine) -> None:
    """A read in a handler keeps the first exception as the context at the end of the chain."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        first = LookupError("first")
        try:
            raise first
        except LookupError:
            error: BaseException | None = read(order, "items")
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__context__
    assert chain[-1] is first
    assert is_idle(async_shop)


# -- where it points ----------------------------------------------------------------------------------


async def test_points_at_the_line_that_serialized(watch: Watch, async_shop: AsyncEngine) -> None:
    """A read inside pydantic is blamed on the line that called for the serialization."""

    class OrderOut(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True)
        status: str
        items: list[Any]

    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        with pytest.raises((*REFUSED, pydantic.ValidationError)):
            OrderOut.model_validate(order)  # pydantic
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Order.items", line("pydantic"))


async def test_points_at_a_property_of_the_model(watch: Watch, async_shop: AsyncEngine) -> None:
    """A property of the user's own class is the user's line."""

    class View:
        def __init__(self, order: Order) -> None:
            self.order = order

        @property
        def size(self) -> int:
            return len(self.order.items)  # property

    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        with pytest.raises(REFUSED):
            View(order).size  # noqa: B018
    finding = only(watch, RULE)
    assert (finding.line, finding.function) == (line("property"), "View.size")


async def test_watches_chosen_sessions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a target, a read on an instance of another session is left to SQLAlchemy."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    engine, other = (create_async_engine("sqlite+aiosqlite://") for _ in range(2))
    await models.seed_async(engine)
    with sessionwatch.watching("log", log=False, target=other) as watch:
        async with AsyncSession(engine) as session:
            error = read((await session.scalars(select(Order))).one(), "items")
    assert watch.findings == []
    assert not hasattr(error, "__notes__")
    await engine.dispose()
