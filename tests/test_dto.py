"""``sessionwatch.dto``: transfer objects made from instances, and whether their classes cover the model."""

# ruff: noqa: UP006, UP045 (annotations as older code bases write them)

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Optional

import attrs
import msgspec
import pydantic
import pytest
import sqlmodel
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, joinedload, selectinload, undefer

import sessionwatch
from sessionwatch import ConfigError, dto
from sessionwatch.dto import ExtractError
from tests.rules import models
from tests.rules.models import Customer, Employee, Item, Order


@dataclasses.dataclass
class ItemData:
    id: int
    name: str


@dataclasses.dataclass
class CustomerData:
    name: str


@dataclasses.dataclass
class OrderData:
    id: int
    status: str
    items: list[ItemData]
    customer: CustomerData | None
    channel: str = "web"


@dataclasses.dataclass
class FullData:
    id: int
    notes: str | None
    items: list[ItemData]


class ItemModel(pydantic.BaseModel):
    id: int
    name: str


class OrderModel(pydantic.BaseModel):
    id: int
    state: str = pydantic.Field(alias="status")
    items: typing.List[ItemModel]
    customer: Optional[CustomerData] = None


@attrs.define
class ItemAttrs:
    id: int
    _name: str = attrs.field(alias="name")


@attrs.frozen
class OrderAttrs:
    id: int
    status: str
    items: tuple[ItemAttrs, ...]
    note: str = "none"


class ItemStruct(msgspec.Struct):
    id: int
    name: str


class OrderStruct(msgspec.Struct):
    id: int
    status: str
    items: list[ItemStruct]
    total: int = 0


class ItemSQLModel(sqlmodel.SQLModel):
    id: int
    name: str


class OrderSQLModel(sqlmodel.SQLModel):
    id: int
    status: str
    items: list[ItemSQLModel]


class Table(sqlmodel.SQLModel, table=True):
    id: int = sqlmodel.Field(primary_key=True)


@pytest.fixture
def shop(engine: Engine) -> Engine:
    models.seed(engine)
    return engine


@pytest.fixture
def session(shop: Engine) -> Iterator[Session]:
    with Session(shop) as made:
        yield made


@pytest.fixture
def detached(shop: Engine) -> Order:
    """An order whose session has ended, with its plain columns only."""
    with Session(shop) as session:
        return session.scalars(select(Order)).one()


# -- extract ------------------------------------------------------------------------------------------------


def test_a_dataclass_with_nested_ones(session: Session) -> None:
    """Scalars, a list and a single object come over; what is not loaded is loaded in the open session."""
    made = dto.extract(session.scalars(select(Order)).one(), OrderData)
    assert made == OrderData(1, "new", [ItemData(1, "bolt"), ItemData(2, "nut")], CustomerData("Ada"))
    assert type(made.items) is list


@pytest.mark.parametrize("kind", [OrderModel, OrderAttrs, OrderStruct, OrderSQLModel])
def test_each_kind_of_transfer_object(session: Session, kind: type[Any]) -> None:
    """pydantic (with an alias), attrs (with a private name), msgspec and SQLModel, each with its nested kind."""
    made = dto.extract(session.scalars(select(Order)).one(), kind)
    assert type(made) is kind
    assert (made.id, made.state if kind is OrderModel else made.status) == (1, "new")
    assert [item._name if kind is OrderAttrs else item.name for item in made.items] == ["bolt", "nut"]
    sessionwatch.assert_no_instances(made)


def test_overrides_are_taken_as_they_are(session: Session) -> None:
    """An override wins over the attribute and over a default."""
    made = dto.extract(session.scalars(select(Order)).one(), OrderStruct, status="sent", total=7, items=[])
    assert (made.status, made.total, made.items) == ("sent", 7, [])


def test_what_is_missing_is_listed_at_once(detached: Order) -> None:
    """A detached instance: every missing attribute, with its type and the options that the query lacks."""
    with pytest.raises(ExtractError) as caught:
        dto.extract(detached, FullData)
    assert str(caught.value).splitlines() == [
        "FullData can't be made from a detached Order: 2 fields can't be filled",
        "  notes: str | None  (it is not loaded)",
        "  items: list[ItemData]  (it is not loaded)",
        "fix: load them with the query: .options(undefer(Order.notes), selectinload(Order.items))",
    ]
    assert caught.value.missing == ("notes", "items")
    assert isinstance(caught.value, sessionwatch.SessionwatchError)


def test_the_options_that_are_told_are_enough(shop: Engine) -> None:
    """With the options of the message the same extraction works after the session."""
    with Session(shop) as session:
        query = select(Order).options(undefer(Order.notes), selectinload(Order.items))
        order = session.scalars(query).one()
    assert dto.extract(order, FullData) == FullData(1, "ring twice", [ItemData(1, "bolt"), ItemData(2, "nut")])


@dataclasses.dataclass
class ItemWithOrder:
    name: str
    order: OrderWithNotes


@dataclasses.dataclass
class OrderWithNotes:
    notes: str | None
    customer: CustomerData | None


@dataclasses.dataclass
class CustomerWithOrders:
    orders: list[OrderWithNotes]


def test_what_lies_behind_a_missing_relationship_is_listed_too(shop: Engine) -> None:
    """One message has all options that the query needs, also those of relationships of relationships."""
    with Session(shop) as session:
        customer = session.scalars(select(Customer)).one()
    with pytest.raises(ExtractError) as caught:
        dto.extract(customer, CustomerWithOrders)
    assert caught.value.missing == ("orders", "orders.notes", "orders.customer")
    assert str(caught.value).splitlines()[-1] == (
        "fix: load them with the query: .options(selectinload(Customer.orders).undefer(Order.notes), "
        "selectinload(Customer.orders).joinedload(Order.customer))"
    )


def test_what_nested_instances_lack_is_told_by_its_place(shop: Engine) -> None:
    """A relationship that is there may hold instances that lack something."""
    with Session(shop) as session:
        item = session.scalars(select(Item).options(joinedload(Item.order)).limit(1)).one()
    with pytest.raises(ExtractError) as caught:
        dto.extract(item, ItemWithOrder)
    assert caught.value.missing == ("order.notes", "order.customer")
    assert "joinedload(Item.order).undefer(Order.notes)" in str(caught.value)


def test_expired_columns_say_so(shop: Engine) -> None:
    """After a commit and a close the columns are gone: no loader option brings them back."""
    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        session.commit()
    with pytest.raises(ExtractError, match=r"id: int  \(it has expired: read it before the commit"):
        dto.extract(order, OrderData)


def test_fields_without_an_attribute_are_listed_with_their_types(session: Session) -> None:
    """A required field that the model does not have is an error that says how to give it."""

    @dataclasses.dataclass
    class Priced:
        id: int
        total: int
        currency: str
        rebate: int = 0

    order = session.scalars(select(Order)).one()
    with pytest.raises(ExtractError) as caught:
        dto.extract(order, Priced)
    assert str(caught.value).splitlines() == [
        "Priced can't be made from a persistent Order: 2 fields can't be filled",
        "  total: int  (Order has no such attribute, and the field no default)",
        "  currency: str  (Order has no such attribute, and the field no default)",
        "fix: give what the model does not have: extract(instance, Priced, total=..., currency=...)",
    ]
    assert dto.extract(order, Priced, total=5, currency="EUR") == Priced(1, 5, "EUR")


async def test_an_asyncio_session_is_not_asked(async_engine: AsyncEngine) -> None:
    """Under asyncio nothing is loaded behind the await: what is missing is named; run_sync may load."""
    await models.seed_async(async_engine)
    async with AsyncSession(async_engine) as session:
        order = (await session.scalars(select(Order))).one()
        with pytest.raises(ExtractError, match=r"from an asyncio session's Order: 2 fields") as caught:
            dto.extract(order, OrderData)
        assert caught.value.missing == ("items", "customer")
        made = await session.run_sync(lambda _: dto.extract(order, OrderData))
        assert [item.name for item in made.items] == ["bolt", "nut"]
        assert dto.extract(order, OrderData) == made


def test_a_new_instance_can_be_extracted() -> None:
    """An instance that was never stored has what it was given."""
    order = Order(id=3, status="draft", items=[Item(id=4, name="pin")])
    assert dto.extract(order, OrderData) == OrderData(3, "draft", [ItemData(4, "pin")], None)


def test_subclasses_have_their_columns(session: Session) -> None:
    """A joined subclass's column counts as one of the instance's."""

    @dataclasses.dataclass
    class Pay:
        name: str
        salary: int

    assert dto.extract(session.scalars(select(Employee)).one(), Pay) == Pay("Grace", 100)


def test_keyed_and_mutable_values_become_plain(session: Session) -> None:
    """A value that tracks its changes is copied: changing the copy does not change the row."""

    @dataclasses.dataclass
    class Extra:
        extra: dict[str, Any]

    order = session.scalars(select(Order)).one()
    made = dto.extract(order, Extra)
    made.extra["gift"] = False
    assert type(made.extra) is dict
    assert order not in session.dirty


def test_a_field_may_not_hold_an_instance(session: Session) -> None:
    """A relationship whose field says nothing of a transfer object is refused."""

    @dataclasses.dataclass
    class Leaky:
        items: list[Any]

    with pytest.raises(TypeError, match=r"the field items: list\[Any\] would hold a Item instance"):
        dto.extract(session.scalars(select(Order)).one(), Leaky)


@dataclasses.dataclass
class Back:
    name: str
    orders: list[Forth]


@dataclasses.dataclass
class Forth:
    customer: Back


def test_a_circle_is_refused(session: Session) -> None:
    """Transfer objects that lead back to themselves would never end."""
    with pytest.raises(TypeError, match=r"orders\[0\]\.customer leads back to the Back that it is part of"):
        dto.extract(session.scalars(select(Customer)).one(), Back)


def test_wrong_arguments_are_refused(session: Session) -> None:
    """Each with a sentence that says what was given."""
    order = session.scalars(select(Order)).one()
    with pytest.raises(TypeError, match=r"OrderData has no field 'stats'\. Did you mean 'status'"):
        dto.extract(order, OrderData, stats=1)
    with pytest.raises(TypeError, match="str is no dataclass"):
        dto.extract(order, str)
    with pytest.raises(TypeError, match="Table is a mapped class: a transfer object must not be one"):
        dto.extract(order, Table)
    with pytest.raises(TypeError, match="int is no instance of a mapped class"):
        dto.extract(3, OrderData)


def test_mappings_of_transfer_objects() -> None:
    """An annotation Mapping[key, transfer object] makes a dictionary."""
    from sessionwatch.data import fields

    found = fields.nested(Mapping[str, ItemData])
    assert found == fields.Nested(ItemData, dict, keyed=True)
    assert fields.nested(dict[str, int]) is None


# -- assert_covers ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Short:
    id: int
    status: str


def test_covers_lists_what_is_missing_with_types() -> None:
    """Every column attribute without a field, with its type and whether it may be None."""
    with pytest.raises(AssertionError) as caught:
        dto.assert_covers(Order, Short)
    assert str(caught.value).splitlines() == [
        "Short lacks 3 attributes of Order:",
        "  notes: str | None",
        "  extra: JSON | None",
        "  customer_id: int | None",
        "add the fields, or leave them out on purpose: exclude={...}",
    ]


def test_covers_with_exclude() -> None:
    """What is excluded is not missing."""
    dto.assert_covers(Order, Short, exclude={"notes", "extra", "customer_id"})
    with pytest.raises(AssertionError, match=r"Short lacks 1 attribute of Order:\n  notes: "):
        dto.assert_covers(Order, Short, exclude=("extra", "customer_id"))


def test_covers_relationships_when_asked() -> None:
    """Relationships count only with relationships=True."""
    columns = {"notes", "extra", "customer_id"}
    with pytest.raises(AssertionError) as caught:
        dto.assert_covers(Order, Short, exclude=columns, relationships=True)
    assert str(caught.value).splitlines()[1:4] == [
        "  customer: Customer | None",
        "  items: list[Item]",
        "  tags: list[Tag]",
    ]


@pytest.mark.parametrize("kind", [ItemData, ItemModel, ItemAttrs, ItemStruct, ItemSQLModel])
def test_covers_each_kind(kind: type[Any]) -> None:
    """All five kinds are read, an alias counts, and an unknown kind is a TypeError."""
    dto.assert_covers(Item, kind, exclude={"order_id"})
    with pytest.raises(AssertionError, match=r"lacks 1 attribute of Item:\n  order_id: int \| None"):
        dto.assert_covers(Item, kind)


def test_covers_an_alias() -> None:
    """A field called otherwise covers the column by its alias."""
    dto.assert_covers(Order, OrderModel, exclude={"notes", "extra", "customer_id"})


def test_covers_refuses_wrong_excludes() -> None:
    """A name that the model lacks is told with the nearest one; so is one that is not left out at all."""
    with pytest.raises(ConfigError, match=r"exclude: Order has no attribute 'note'\. Did you mean 'notes'"):
        dto.assert_covers(Order, Short, exclude={"note"})
    with pytest.raises(AssertionError, match="ItemData has fields that exclude says it leaves out: name"):
        dto.assert_covers(Item, ItemData, exclude={"name", "order_id"})
    with pytest.raises(TypeError, match="Short is no mapped class"):
        dto.assert_covers(Short, Short)
