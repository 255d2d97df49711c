"""``boundary``: instances of mapped classes in a function that is marked, or in a value that may hold none."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic
import pytest
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import FindingError, assert_no_instances, boundary, uninstall, unit_of_work, watching
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.rules.models import Customer, Item, Order
from tests.rules.places import evidence_line, is_idle, labels, line, only


class Pair(NamedTuple):
    left: object
    right: object


@dataclasses.dataclass
class Plain:
    value: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    value: Any


class Model(pydantic.BaseModel):
    value: Any


class Open(pydantic.BaseModel, extra="allow"):
    pass


@attrs.define
class Attrs:
    value: Any


@attrs.define(slots=False)
class AttrsDict:
    value: Any


class Struct(msgspec.Struct):
    value: Any


class Service:
    """Neither container nor model."""

    def __init__(self, value: object) -> None:
        self.value = value


@boundary
def take(*values: object, **named: object) -> None:
    """Take anything."""


@boundary
def take_one(value: object, *, other: object = None) -> str:
    return "done"


@boundary
def give(engine: Engine) -> dict[str, object]:
    with Session(engine) as session:  # boundary-opened
        return {"orders": list(session.scalars(select(Order)))}  # boundary-loaded


@boundary
async def give_async(engine: AsyncEngine) -> list[Order]:
    async with AsyncSession(engine) as session:
        return list(await session.scalars(select(Order)))


@boundary
async def take_async(value: object) -> str:
    return "done"


def load(engine: Engine) -> Order:
    with Session(engine) as session:
        return session.scalars(select(Order)).one()


# -- reported -----------------------------------------------------------------------------------------------


def test_reports_what_is_returned(shop: Engine, watch: Watch) -> None:
    """The place is the call, the evidence the boundary's declaration and the instance's story."""
    give(shop)  # boundary-call
    finding = only(watch, "boundary")
    assert (
        finding.message == '1 detached Order instance was returned by give(), which is a boundary: result["orders"][0]'
    )
    assert finding.line == line("boundary-call")
    assert labels(finding) == ["crossed", "declared", "detached", "loaded", "opened"]
    assert evidence_line(finding, "opened") == line("boundary-opened")
    assert evidence_line(finding, "loaded") == line("boundary-loaded")


def test_reports_what_is_given(shop: Engine, watch: Watch) -> None:
    """A live instance is no better than a detached one, and the call goes on in mode log."""
    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        assert take_one({"order": order}) == "done"  # boundary-given
    finding = only(watch, "boundary")
    assert finding.message == '1 live Order instance was given to take_one(), which is a boundary: value["order"]'
    assert finding.line == line("boundary-given")


def test_reports_keyword_arguments(shop: Engine, watch: Watch) -> None:
    """An argument is named as the function names it, however it is given."""
    order = load(shop)
    take_one(1, other=[order])
    take(order)
    paths = [finding.message.rpartition(": ")[2] for finding in watch.findings]
    assert paths == ["other[0]", "values[0]"]


async def test_reports_a_coroutine_that_returns(async_shop: AsyncEngine, watch: Watch) -> None:
    """The place is the line that awaits it."""
    await give_async(async_shop)  # boundary-await
    finding = only(watch, "boundary")
    assert finding.message == "1 detached Order instance was returned by give_async(), which is a boundary: result[0]"
    assert finding.line == line("boundary-await")


async def test_reports_a_coroutine_that_is_given(async_shop: AsyncEngine, watch: Watch) -> None:
    """Arguments are searched when the coroutine runs, and its result is not lost."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        assert await take_async(order) == "done"
    assert only(watch, "boundary").subject == "take_async: Order"


async def test_reports_a_task_at_its_declaration(async_shop: AsyncEngine, watch: Watch) -> None:
    """Where no line of the program awaits the coroutine itself, the boundary's own line is the place."""
    await asyncio.create_task(give_async(async_shop))
    finding = only(watch, "boundary")
    assert finding.function == "give_async"


CONTAINERS: list[tuple[Callable[[Any], object], str]] = [
    (lambda order: order, "value"),
    (lambda order: [1, order], "value[1]"),
    (lambda order: (order,), "value[0]"),
    (lambda order: {order}, "list(value)[0]"),
    (lambda order: frozenset({order}), "list(value)[0]"),
    (lambda order: deque([order]), "value[0]"),
    (lambda order: {order: 1}, "list(value)[0]"),
    (lambda order: OrderedDict(tasks=[None, {"a": order}]), 'value["tasks"][1]["a"]'),
    (lambda order: MappingProxyType({"order": order}), 'value["order"]'),
    (lambda order: UserDict(order=order), 'value["order"]'),
    (lambda order: UserList([order]), "value[0]"),
    (lambda order: {"order": order}.values(), "list(value)[0]"),
    (lambda order: Pair(1, order), "value.right"),
    (lambda order: SimpleNamespace(order=order), "value.order"),
    (lambda order: Plain([order]), "value.value[0]"),
    (lambda order: Slotted(order), "value.value"),
    (lambda order: Model(value=order), "value.value"),
    (lambda order: Open(order=order), "value.order"),
    (lambda order: Attrs(order), "value.value"),
    (lambda order: AttrsDict(order), "value.value"),
    (lambda order: Struct(order), "value.value"),
    (lambda order: {"".join(["a", "da"]): order}, "value[...]"),
    (lambda order: {1: order}, "value[...]"),
]


@pytest.mark.parametrize(("wrap", "path"), CONTAINERS, ids=[path + str(n) for n, (_, path) in enumerate(CONTAINERS)])
def test_reports_what_containers_and_models_hold(wrap: Callable[[Any], object], path: str) -> None:
    """Each kind of container and model is looked into; a key that the source does not spell is not shown."""
    uninstall()
    with pytest.raises(AssertionError) as caught:
        assert_no_instances(wrap(Order()))
    assert str(caught.value).splitlines()[0] == (
        f"boundary: 1 new Order instance was in a value that may hold none: {path}"
    )


def test_reports_instances_in_result_rows(shop: Engine, watch: Watch) -> None:
    """A row of a query for entities is a sequence of them."""
    with Session(shop) as session:
        rows = session.execute(select(Order.id, Order)).all()
        with pytest.raises(AssertionError, match=r"1 live Order instance was .*: value\[0\]\[1\]"):
            assert_no_instances(rows)


def test_reports_relationships_by_their_parent(shop: Engine, watch: Watch) -> None:
    """An instance is not looked into: what it would load is never loaded, and is not counted either."""
    order = load(shop)
    before = dict(vars(order))
    with pytest.raises(AssertionError, match=r"1 detached Order instance was"):
        assert_no_instances([order, order])
    assert dict(vars(order)) == before
    assert [finding.rule for finding in watch.findings] == ["boundary"]


def test_reports_several_with_one_message(watch: Watch) -> None:
    """One finding a crossing, with the classes counted and the first places listed."""
    take_one([Order(), Order(), Customer(), *(Item() for _ in range(5))])
    finding = only(watch, "boundary")
    assert finding.message == (
        "2 Order instances, 1 Customer instance and 5 Item instances were given to take_one(), which is a "
        "boundary: value[0] and 7 more"
    )
    assert [item.note for item in finding.evidence if item.label == "and"] == [
        "value[1], a new Order",
        "value[2], a new Customer",
        "value[3], a new Item",
        "value[4], a new Item",
    ]


def test_reports_a_cycle_once(watch: Watch) -> None:
    """A value that contains itself is searched once, and deep ones without recursion."""
    knot: list[object] = [Order()]
    knot.append(knot)
    deep: object = knot
    for _ in range(5000):
        deep = [deep]
    take_one(deep)
    assert only(watch, "boundary").count == 1


def test_reports_methods_and_class_methods(watch: Watch) -> None:
    """The decorator goes below @classmethod and @staticmethod."""

    class Shop:
        @boundary
        def method(self, order: object) -> None: ...

        @classmethod
        @boundary
        def of_class(cls, order: object) -> None: ...

        @staticmethod
        @boundary
        def static(order: object) -> None: ...

    order = Order()
    Shop().method(order)
    Shop.of_class(order)
    Shop.static(order)
    assert [finding.subject for finding in watch.findings] == ["method: Order", "of_class: Order", "static: Order"]


# -- not reported -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class OrderDTO:
    id: int
    status: str


def test_ignores_plain_data(shop: Engine, watch: Watch) -> None:
    """Scalars, containers of them, and transfer objects of every kind pass."""
    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        dto = OrderDTO(order.id, order.status)
        row = session.execute(select(Order.id, Order.status)).one()
    values = [dto, row, row._mapping, Model(value=dto), Attrs(dto), Struct(dto), Pair(1, 2), {"a": [None, b"", 1.5]}]
    assert take_one(values) == "done"
    assert_no_instances(values)
    assert watch.findings == []


async def test_ignores_plain_data_under_asyncio(async_shop: AsyncEngine, watch: Watch) -> None:
    """A coroutine that is given an AsyncSession, and returns what it made of an instance."""

    @boundary
    async def show(session: AsyncSession) -> OrderDTO:
        order = (await session.scalars(select(Order))).one()
        return OrderDTO(order.id, order.status)

    async with AsyncSession(async_shop) as session:
        assert (await show(session)).status == "new"
        assert (await asyncio.create_task(show(session))).status == "new"
    assert watch.findings == []


def test_ignores_mapped_classes(watch: Watch) -> None:
    """A class, and an attribute of it, is no instance."""
    take(Order, Order.id, Order.__table__, [Order], select(Order))
    assert watch.findings == []


def test_ignores_what_is_no_container(watch: Watch) -> None:
    """Objects of other classes may be anything, a service with its session too, and are not searched."""
    take(Service(Order()), iter([Order()]), lambda: Order())
    assert watch.findings == []


def test_ignores_the_session_itself(shop: Engine, watch: Watch) -> None:
    """A session may go where it is needed; the instances that it holds did not cross."""
    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        take_one(session)
        assert order.status == "new"
    assert watch.findings == []


def test_ignores_the_receiver_of_a_method(watch: Watch) -> None:
    """A method of a mapped class may be a boundary: its own object is not an argument."""

    class Loud(Order):
        @boundary
        def total(self) -> int:
            return 1

    assert Loud().total() == 1
    assert watch.findings == []


def test_ignores_properties(watch: Watch) -> None:
    """Nothing but what is stored is read, so that nothing of the program's runs."""

    @dataclasses.dataclass
    class Lazy:
        kept: int = 1

        @property
        def order(self) -> Order:
            raise RuntimeError("was read")

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    take_one(Lazy())
    assert watch.findings == []


def test_ignores_calls_while_off(watch: Watch) -> None:
    """A rule that is off searches nothing."""
    watch.config.levels["boundary"] = "off"
    take_one(Order())
    assert watch.findings == []


def test_ignores_what_is_allowed(watch: Watch) -> None:
    """allow() covers the decorator and the assertion."""
    with sessionwatch.allow("boundary", reason="not changed over yet"):
        take_one(Order())
        assert_no_instances(Order())
    assert_no_instances(Order())  # sessionwatch: allow boundary -- not changed over yet
    assert watch.findings == []
    assert sum(finding.count for finding in watch.allowed) == 3


def test_ignores_everything_without_an_installation() -> None:
    """The decorator alone searches nothing; the assertion needs no installation."""
    uninstall()
    assert take_one(Order()) == "done"
    with pytest.raises(AssertionError), sessionwatch.allow("lost-writes", reason="another rule"):
        assert_no_instances(Order())
    with sessionwatch.allow("boundary", reason="known"):
        assert_no_instances(Order())


def test_ignores_wrong_calls(watch: Watch) -> None:
    """A call that does not fit the signature gets Python's own error, without a frame of ours in its text."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'value'"):
        take_one(other=1)  # type: ignore[call-arg]
    assert watch.findings == []


# -- where and how it is told -------------------------------------------------------------------------------


def test_exact_message_of_a_result(shop: Engine, watch: Watch) -> None:
    """The whole story of a detached instance that was returned."""
    give(shop)  # boundary-exact
    session = only(watch, "boundary").session
    assert session is not None
    here = f"tests/rules/test_boundary.py:{line('boundary-exact')}"
    opened, loaded = line("boundary-opened"), line("boundary-loaded")
    assert messages.render(watch.findings[0]) == (
        'boundary: 1 detached Order instance was returned by give(), which is a boundary: result["orders"][0]\n'
        f'  crossed   {here} in test_exact_message_of_a_result     result["orders"][0] is detached\n'
        f"  declared  tests/rules/test_boundary.py:{opened - 2} in give\n"
        f"  detached  tests/rules/test_boundary.py:{opened} in give{' ' * 32}session {session['id']} closed here\n"
        f"  loaded    tests/rules/test_boundary.py:{loaded} in give\n"
        f"  opened    tests/rules/test_boundary.py:{opened} in give{' ' * 32}session {session['id']}\n"
        "  fix: return plain data, made while the session is open: sessionwatch.dto.extract(instance, OrderDTO)\n"
        "  more: sessionwatch explain boundary"
    )


def test_strict_raises_before_the_call(shop: Engine, strict: Watch) -> None:
    """An argument that may not cross does not: the function never runs, and the pool is idle afterwards."""
    ran = []

    @boundary
    def send(order: object) -> None:
        ran.append(order)

    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        with pytest.raises(FindingError, match="was given to send"):
            send(order)
        session.rollback()
    assert ran == []
    assert is_idle(shop)
    strict.clear()


def test_strict_raises_in_place_of_the_result(shop: Engine, strict: Watch) -> None:
    """The function has ended by then, so that its session is closed and the pool idle."""
    with pytest.raises(FindingError) as caught:
        give(shop)
    assert caught.value.finding.rule == "boundary"
    assert is_idle(shop)
    strict.clear()


async def test_strict_raises_in_place_of_a_coroutines_result(async_shop: AsyncEngine, strict: Watch) -> None:
    """The same for a coroutine."""
    with pytest.raises(FindingError, match="was returned by give_async"):
        await give_async(async_shop)
    assert is_idle(async_shop)
    strict.clear()


def test_strict_never_replaces_an_exception(strict: Watch) -> None:
    """A function that fails has no result, and its own exception arrives."""

    @boundary
    def fail(value: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail(1)
    assert strict.findings == []


@pytest.mark.parametrize("mode", ["log", "strict", "telemetry"])
def test_the_assertion_raises_in_each_mode(mode: Any) -> None:
    """Who asserts wants to know; the error is an AssertionError and a FindingError with the finding."""
    uninstall()
    with watching(mode, log=False) as watch:
        with pytest.raises(AssertionError) as caught:
            assert_no_instances({"order": Order()}, "message")
        assert isinstance(caught.value, FindingError)
        assert caught.value.finding.subject == "Order"
        assert 'message["order"]' in str(caught.value)
        assert [finding.rule for finding in watch.findings] == ([] if mode == "telemetry" else ["boundary"])


def test_a_finding_knows_its_unit(shop: Engine, watch: Watch) -> None:
    """The unit is that of the session that held the instance."""
    with unit_of_work("nightly"):
        give(shop)
    assert only(watch, "boundary").unit == "nightly"


def test_the_decorator_keeps_the_function() -> None:
    """Name, signature and kind stay, as frameworks look at them."""
    import inspect

    assert inspect.iscoroutinefunction(take_async)
    assert not inspect.iscoroutinefunction(take_one)
    assert list(inspect.signature(take_one).parameters) == ["value", "other"]
    assert take.__doc__ == "Take anything."


def test_generators_and_classes_are_refused() -> None:
    """What can't be a boundary says what to do instead."""

    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="is a generator: mark the function that its values are given to"):
        boundary(numbers)
    with pytest.raises(TypeError, match="is a generator"):
        boundary(later)
    with pytest.raises(TypeError, match="takes a function, not a type"):
        boundary(Pair)
    with pytest.raises(TypeError, match="not a classmethod: put it below @classmethod"):
        boundary(classmethod(lambda cls: None))  # type: ignore[arg-type]


def test_needs_no_sqlalchemy() -> None:
    """A module that only declares boundaries does not import SQLAlchemy."""
    code = """
import sys
import sessionwatch
@sessionwatch.boundary
def take(value): return value
sessionwatch.assert_no_instances([take(1)])
print("sqlalchemy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
