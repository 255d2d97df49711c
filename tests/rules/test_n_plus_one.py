"""The rule ``n-plus-one``: one attribute loaded by a query of its own for one parent after another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pydantic
import pytest
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.orm import (
    Session,
    immediateload,
    joinedload,
    load_only,
    scoped_session,
    selectinload,
    sessionmaker,
    undefer,
)
from sqlalchemy.pool import QueuePool

import sessionwatch
from sessionwatch import FindingError
from sessionwatch.output.messages import render
from sessionwatch.watch.watch import Watch
from tests.models import Book, Shelf, create
from tests.rules import models
from tests.rules.models import Customer, Employee, Item, Order, Person
from tests.rules.places import evidence_line, is_idle, labels, line, only

RULE = "n-plus-one"
ROWS = 7


def rows() -> list[Any]:
    """Seven customers with an order of two items each, and seven employees."""
    made: list[Any] = [
        Customer(name="Ada", orders=[Order(notes="ring", items=[Item(name="bolt"), Item(name="nut")])])
        for _ in range(ROWS)
    ]
    return [*made, *(Employee(name="Grace", salary=100) for _ in range(ROWS))]


@pytest.fixture
def shop(engine: Engine) -> Engine:
    """A database of seven rows, so that a load for each of them is too many."""
    models.create(engine)
    with Session(engine) as session:
        session.add_all(rows())
        session.commit()
    return engine


@pytest.fixture
def memory() -> Engine:
    """The same in a SQLite database in memory, with a pool that counts its connections."""
    made = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0)
    models.create(made)
    with Session(made) as session:
        session.add_all(rows())
        session.commit()
    return made


def statements(engine: Engine) -> list[str]:
    """What runs on the engine from now on."""
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: seen.append(statement))
    return seen


# -- reports ------------------------------------------------------------------------------------------


def test_reports_a_collection_with_selectinload(watch: Watch, shop: Engine) -> None:
    """A collection that is loaded for one parent after another is one finding at the reading line."""
    with Session(shop) as session:  # opened
        for order in session.scalars(select(Order)).all():  # query
            len(order.items)  # collection
    finding = only(watch, RULE)
    assert (finding.subject, finding.line, finding.severity) == ("Order.items", line("collection"), "advice")
    assert finding.fix == "load it with the query: .options(selectinload(Order.items))"
    assert labels(finding) == ["touched", "loaded", "opened"]
    assert evidence_line(finding, "loaded") == line("query")
    assert evidence_line(finding, "opened") == line("opened")
    assert finding.count == ROWS


def test_reports_a_many_to_one_with_joinedload(watch: Watch, shop: Engine) -> None:
    """A many-to-one to different objects is reported, and the fix is joinedload."""
    with Session(shop) as session:
        for order in session.scalars(select(Order)).all():
            order.customer  # noqa: B018
    finding = only(watch, RULE)
    assert finding.fix == "load it with the query: .options(joinedload(Order.customer))"
    assert finding.count == ROWS


def test_reports_a_deferred_column_with_undefer(watch: Watch, shop: Engine) -> None:
    """A deferred column is reported, and the fix is undefer."""
    with Session(shop) as session:
        for order in session.scalars(select(Order)):
            order.notes  # noqa: B018
    finding = only(watch, RULE)
    assert finding.message == "Order.notes was loaded for one Order at a time, by a query each"
    assert finding.fix == "load it with the query: .options(undefer(Order.notes))"
    assert finding.count == ROWS


def test_reports_a_column_that_load_only_left_out(watch: Watch, memory: Engine) -> None:
    """A column that the query did not ask for is reported."""
    with Session(memory) as session:
        for order in session.scalars(select(Order).options(load_only(Order.id))):
            order.status  # noqa: B018
    assert only(watch, RULE).fix == "load it with the query: .options(undefer(Order.status))"


def test_reports_a_subclass_column_with_selectin_polymorphic(watch: Watch, memory: Engine) -> None:
    """Columns of a joined subclass need a polymorphic loader option."""
    with Session(memory) as session:
        for person in session.scalars(select(Person)):
            person.salary  # type: ignore[attr-defined]  # noqa: B018
    finding = only(watch, RULE)
    assert finding.subject == "Employee.salary"
    assert labels(finding) == ["touched", "loaded", "opened"]
    assert finding.fix == "load it with the query: .options(selectin_polymorphic(Person, [Employee]))"


@pytest.mark.parametrize(
    ("name", "option"),
    [("items", selectinload(Order.items)), ("customer", joinedload(Order.customer)), ("notes", undefer(Order.notes))],
)
def test_the_fix_removes_the_finding(watch: Watch, memory: Engine, name: str, option: Any) -> None:
    """With the loader option there are no queries a parent, and no finding."""
    with Session(memory) as session:
        for order in session.scalars(select(Order).options(option)):
            getattr(order, name)
    assert watch.findings == []


def test_reports_what_a_commit_expired(watch: Watch, shop: Engine) -> None:
    """Instances that a commit emptied are refreshed one at a time: the fix is expire_on_commit=False."""
    with Session(shop) as session:
        orders = session.scalars(select(Order)).all()  # expired query
        session.commit()  # commit
        for order in orders:
            order.status  # refresh  # noqa: B018
    finding = only(watch, RULE)
    assert finding.message == "Order.status was refreshed for one Order at a time, by a query each"
    assert evidence_line(finding, "expired") == line("commit")
    assert evidence_line(finding, "loaded") == line("expired query")
    assert finding.fix == "make the sessions with expire_on_commit=False"


def test_reports_a_commit_in_the_loop(watch: Watch, memory: Engine) -> None:
    """A commit an object empties all the others, again and again."""
    with Session(memory) as session:
        for order in session.scalars(select(Order)).all():
            assert order.status == "new"  # in the loop
            session.commit()
    finding = only(watch, RULE)
    assert (finding.line, finding.count) == (line("in the loop"), ROWS - 1)


def test_reports_new_objects_that_a_commit_expired(watch: Watch, memory: Engine) -> None:
    """Objects that the session made are refreshed one at a time, too, for no more than their keys."""
    with Session(memory) as session:
        made = [Order() for _ in range(ROWS)]
        session.add_all(made)
        session.commit()
        assert len([order.id for order in made]) == ROWS
    finding = only(watch, RULE)
    assert finding.subject == "Order.id"
    assert "loaded" not in labels(finding)


def test_reports_a_relationship_that_a_commit_expired(watch: Watch, memory: Engine) -> None:
    """Where both are needed, the fix says both, and one line and attribute is one finding."""
    with Session(memory) as session:
        orders = session.scalars(select(Order).options(selectinload(Order.items))).all()
        session.commit()
        for order in orders:
            len(order.items)
    assert only(watch, RULE).fix == (
        "load it with the query: .options(selectinload(Order.items)),\n"
        "and make the sessions with expire_on_commit=False"
    )


@pytest.mark.parametrize("how", ["rollback", "expire_all"])
def test_reports_what_was_expired_otherwise(watch: Watch, memory: Engine, how: str) -> None:
    """After a rollback or an expire_all() the fix is to run the query again."""
    with Session(memory) as session:
        orders = session.scalars(select(Order)).all()
        getattr(session, how)()
        for order in orders:
            order.status  # noqa: B018
    finding = only(watch, RULE)
    assert f"by {how}()" in render(finding)
    assert finding.fix.startswith("run the query again: .execution_options(populate_existing=True)")


def test_reports_the_second_level(watch: Watch, memory: Engine) -> None:
    """What hangs on lazily loaded parents is one story, whose option begins at the query, though each load is small."""
    with Session(memory) as session:
        for customer in session.scalars(select(Customer)):  # first query
            for order in customer.orders:
                len(order.items)
    by_subject = {finding.subject: finding for finding in watch.findings}
    assert set(by_subject) == {"Customer.orders", "Order.items"}
    finding = by_subject["Order.items"]
    assert finding.fix == "load it with the query: .options(selectinload(Customer.orders).selectinload(Order.items))"
    assert evidence_line(finding, "loaded") == line("first query")


def test_reports_the_second_level_alone(watch: Watch, memory: Engine) -> None:
    """Parents that an option of the query loaded get the option chained to that one, and the chain helps."""
    with Session(memory) as session:
        for customer in session.scalars(select(Customer).options(selectinload(Customer.orders))):
            for order in customer.orders:
                len(order.items)
        finding = only(watch, RULE)
        assert ".options(selectinload(Customer.orders).selectinload(Order.items))" in finding.fix
        watch.clear()
        session.expunge_all()
        for customer in session.scalars(
            select(Customer).options(selectinload(Customer.orders).selectinload(Order.items))
        ):
            for order in customer.orders:
                len(order.items)
    assert watch.findings == []


def test_reports_a_loop_of_get(watch: Watch, shop: Engine) -> None:
    """A loop of get() has its own wording and its own fix."""
    with Session(shop) as session:
        keys = session.scalars(select(Order.id)).all()
        for key in keys:
            session.get(Order, key)  # get
    finding = only(watch, RULE)
    assert finding.message == "Order was fetched by get() one key at a time, by a query each"
    assert (finding.subject, finding.line, finding.count) == ("Order", line("get"), ROWS)
    assert finding.fix == "ask once for all keys: session.scalars(select(Order).where(Order.id.in_(keys)))"


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.LegacyAPIWarning")
@pytest.mark.parametrize("how", ["scoped get", "get_one", "legacy get", "own get"])
def test_reports_a_loop_of_get_in_other_ways(watch: Watch, memory: Engine, how: str) -> None:
    """However get() is called, from the first one of a transaction on: the line is the user's."""

    class OwnSession(Session):
        def get(self, *args: Any, **kwargs: Any) -> Any:
            return super().get(*args, **kwargs)  # own get

    registry = scoped_session(sessionmaker(memory, class_=OwnSession if how == "own get" else Session))
    ways: dict[str, Callable[[int], object]] = {
        "scoped get": lambda key: registry.get(Order, key),  # scoped get
        "get_one": lambda key: registry().get_one(Order, key),  # get_one
        "legacy get": lambda key: registry().query(Order).get(key),  # legacy get
        "own get": lambda key: registry().get(Order, key),
    }
    for key in range(1, ROWS + 1):
        ways[how](key)
    registry.remove()
    finding = only(watch, RULE)
    assert (finding.subject, finding.line, finding.count) == ("Order", line(how), ROWS)


def test_reports_an_association_proxy(watch: Watch, memory: Engine) -> None:
    """A read through a proxy is the read of the relationship behind it."""
    create(memory, Shelf, Book)
    with Session(memory) as session:
        session.add_all([Shelf(books=[Book(title="x")]) for _ in range(ROWS)])
        session.commit()
        for shelf in session.scalars(select(Shelf)):
            list(shelf.titles)  # proxy
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == ("Shelf.books", line("proxy"))


def test_reports_a_template(watch: Watch, memory: Engine) -> None:
    """Reads inside of a template are blamed on the line that rendered it."""
    template = jinja2.Environment(autoescape=True).from_string("{% for o in orders %}{{ o.items|length }}{% endfor %}")
    with Session(memory) as session:
        template.render(orders=session.scalars(select(Order)).all())  # jinja
    assert only(watch, RULE).line == line("jinja")


def test_reports_a_serializer(watch: Watch, memory: Engine) -> None:
    """Reads inside of pydantic are blamed on the line that called for the serialization."""

    class OrderOut(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True)
        items: list[Any]

    with Session(memory) as session:
        for order in session.scalars(select(Order)):
            OrderOut.model_validate(order)  # pydantic
    assert only(watch, RULE).line == line("pydantic")


# -- stays silent on ----------------------------------------------------------------------------------


def test_ignores_fewer_than_the_threshold(watch: Watch, memory: Engine) -> None:
    """Four parents are not too many."""
    with Session(memory) as session:
        for order in session.scalars(select(Order).limit(4)):
            len(order.items)
    assert watch.findings == []


def test_ignores_the_identity_map(watch: Watch, memory: Engine) -> None:
    """The same parents read again, and a many-to-one that is there already, need no query."""
    with Session(memory) as session:
        customers = session.scalars(select(Customer)).all()
        for order in session.scalars(select(Order)):
            assert order.customer in customers
        first = session.scalars(select(Order)).first()
        assert first is not None
        for _ in range(ROWS):
            len(first.items)
    assert watch.findings == []


@pytest.mark.parametrize("load", [selectinload, joinedload, immediateload])
def test_ignores_eager_loads(watch: Watch, memory: Engine, load: Callable[..., Any]) -> None:
    """Whatever the option sends, it is the query's."""
    with Session(memory) as session:
        for order in session.scalars(select(Order).options(load(Order.items), load(Order.customer))).unique():
            len(order.items)
    assert watch.findings == []


def test_ignores_one_object_for_each_query(watch: Watch, memory: Engine) -> None:
    """A worker that takes one job after another from the database, in one session, repeats no load of one query."""
    with Session(memory) as session:
        for number in range(ROWS):
            order = session.scalars(select(Order).order_by(Order.id).offset(number).limit(1)).one()
            assert order.customer is not None
            len(order.items)
            session.commit()
    assert watch.findings == []


def test_ignores_one_get_for_each_transaction(watch: Watch, memory: Engine) -> None:
    """A worker that gets one object a transaction could not have asked for all of them."""
    with Session(memory) as session:
        for key in range(1, ROWS + 1):
            session.get(Order, key)
            session.commit()
    assert watch.findings == []


def test_ignores_gets_of_earlier_transactions(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One get a transaction, whether it begins the transaction or comes later in it."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("log", log=False, settings={"n-plus-one.threshold": 2}) as watch:
        with Session(memory) as session:
            for key in range(1, ROWS + 1):
                if key > 1:
                    session.scalars(select(Customer)).all()
                session.get(Order, key)
                session.commit()
        assert watch.findings == []


def test_ignores_merges_through_a_get_of_the_session_class(watch: Watch, memory: Engine) -> None:
    """A merge looks up each instance by the get() of the session's class, which may be the program's own."""

    class OwnSession(Session):
        def get(self, *args: Any, **kwargs: Any) -> Any:
            return super().get(*args, **kwargs)

    with OwnSession(memory) as session:
        for key in range(1, ROWS + 1):
            session.merge(Order(id=key, status="merged", items=[]))
        session.rollback()
    assert watch.findings == []


def test_ignores_one_object_for_each_session(watch: Watch, memory: Engine) -> None:
    """A worker that opens a session a job is right use."""
    for key in range(1, ROWS + 1):
        with Session(memory) as session:
            order = session.get(Order, key)
            assert order is not None
            len(order.items)
    assert watch.findings == []


def test_ignores_one_new_object_for_each_commit(watch: Watch, memory: Engine) -> None:
    """An import that commits each row and reads its key could not have refreshed them together."""
    with Session(memory) as session:
        for _ in range(ROWS):
            order = Order()
            session.add(order)
            session.commit()
            assert order.id
    assert watch.findings == []


def test_ignores_the_same_object_again(watch: Watch, memory: Engine) -> None:
    """An object that is read anew after each commit, as in waiting for a status, is one parent."""
    with Session(memory) as session:
        order = session.scalars(select(Order).limit(1)).one()
        for _ in range(ROWS):
            assert order.status == "new"
            len(order.items)
            session.commit()
    assert watch.findings == []


def test_ignores_different_lines(watch: Watch, memory: Engine) -> None:
    """Loads from different lines are no loop."""
    with Session(memory) as session:
        orders = session.scalars(select(Order)).all()
        len(orders[0].items)
        len(orders[1].items)
        len(orders[2].items)
        len(orders[3].items)
        len(orders[4].items)
    assert watch.findings == []


def test_ignores_cascades_and_flushes(watch: Watch, memory: Engine) -> None:
    """What a delete loads to take along is SQLAlchemy's own business, and so is a merge's look-up."""
    with Session(memory) as session:
        for order in session.scalars(select(Order)):
            session.delete(order)
        session.rollback()
    with Session(memory) as session:
        for key in range(1, ROWS + 1):
            session.merge(Order(id=key, status="merged", items=[]))
        session.rollback()
    assert watch.findings == []


def test_ignores_refresh_by_hand(watch: Watch, memory: Engine) -> None:
    """A refresh an object was asked for."""
    with Session(memory) as session:
        for order in session.scalars(select(Order)):
            session.refresh(order, ["status", "items"])
    assert watch.findings == []


def test_ignores_gets_that_lock(watch: Watch, memory: Engine) -> None:
    """Rows that are locked one after another are so on purpose."""
    with Session(memory) as session:
        for key in range(1, ROWS + 1):
            session.get(Order, key, with_for_update=True)
    assert watch.findings == []


def test_ignores_gets_that_the_identity_map_answers(watch: Watch, memory: Engine) -> None:
    """A get() of what is there sends no query."""
    with Session(memory) as session:
        orders = session.scalars(select(Order)).all()
        for order in orders:
            assert session.get(Order, order.id) is order
    assert watch.findings == []


def test_ignores_pages(watch: Watch, memory: Engine) -> None:
    """Each page of a paginated query is a query of its own."""
    with Session(memory) as session:
        for page in range(3):
            for order in session.scalars(select(Order).order_by(Order.id).offset(page * 2).limit(2)):
                len(order.items)
    assert watch.findings == []


def test_ignores_what_is_allowed(watch: Watch, memory: Engine) -> None:
    """An allowance covers the line, and its findings are still counted."""
    with Session(memory) as session, sessionwatch.allow(RULE, reason="few rows"):
        for order in session.scalars(select(Order)):
            len(order.items)
    assert watch.findings == []
    assert [(finding.allowed, finding.count) for finding in watch.allowed] == [("few rows", ROWS)]


# -- thresholds and levels ----------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "expected"), [({}, 0), ({"n-plus-one.threshold": 3}, 1)])
def test_the_threshold_is_a_setting(
    memory: Engine, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], expected: int
) -> None:
    """Four parents are reported with a threshold of three."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("log", log=False, settings=settings) as watch, Session(memory) as session:
        for order in session.scalars(select(Order).limit(4)):
            len(order.items)
        assert len(watch.findings) == expected


def test_advice_is_not_raised_in_strict_mode(strict: Watch, memory: Engine) -> None:
    """Strict mode logs it, so that a team can be strict about lost data first."""
    with Session(memory) as session:
        for order in session.scalars(select(Order)):
            len(order.items)
    finding = only(strict, RULE)
    assert (finding.level, finding.raised, finding.count) == ("log", False, ROWS)


def test_a_threshold_of_one(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the first load is too many, and those that follow are counted with it."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("log", log=False, settings={"n-plus-one.threshold": 1}) as watch:
        with Session(memory) as session:
            for order in [session.get_one(Order, key) for key in range(1, ROWS + 1)]:
                len(order.items)
        assert {finding.subject: finding.count for finding in watch.findings} == {"Order": ROWS, "Order.items": ROWS}


@pytest.mark.parametrize("kind", ["relationship", "deferred", "get"])
def test_raises_before_the_second_load(memory: Engine, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Set to raise, the second load is not tried: no statement is sent, and the pool is idle."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("strict", log=False, rules={RULE: "raise"}) as watch:
        with Session(memory) as session:
            orders = session.scalars(select(Order).order_by(Order.id)).all()
            keys = [order.id for order in orders]
            ways: dict[str, Callable[[Order, int], object]] = {
                "relationship": lambda order, key: order.items,
                "deferred": lambda order, key: order.notes,
                "get": lambda order, key: session.get(Customer, key),
            }
            seen = statements(memory)
            with pytest.raises(FindingError) as caught:
                list(map(ways[kind], orders, keys))
            assert len(seen) == 1
        assert caught.value.finding is only(watch, RULE)
        assert watch.findings[0].count == 2
    assert is_idle(memory)


def test_raising_keeps_the_exception_on_its_way(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load in a handler keeps the first exception as the context."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    first = LookupError("first")

    def handle(order: Order) -> None:
        try:
            raise first
        except LookupError:
            len(order.items)

    with sessionwatch.watching("strict", log=False, rules={RULE: "raise"}), Session(memory) as session:
        orders = session.scalars(select(Order)).all()
        with pytest.raises(FindingError) as caught:
            list(map(handle, orders))
    assert caught.value.__context__ is first


def test_telemetry_reports_it_too(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In telemetry the line and the attribute are named, though the queries' places are not kept."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    with sessionwatch.watching("telemetry", log=False) as watch, Session(memory) as session:
        for order in session.scalars(select(Order)):
            len(order.items)  # telemetry
        finding = only(watch, RULE)
    assert (finding.subject, finding.line, finding.count) == ("Order.items", line("telemetry"), ROWS)


# -- the story ----------------------------------------------------------------------------------------


def test_the_message(watch: Watch, memory: Engine) -> None:
    """The whole story, word for word."""

    def show() -> None:
        with Session(memory) as session:  # message opened
            for order in session.scalars(select(Order)):  # message loaded
                len(order.items)  # message touched

    show()  # message called
    finding = only(watch, RULE)
    assert finding.session is not None
    label, here = finding.session["id"], "tests/rules/test_n_plus_one.py"
    touched, loaded, opened = line("message touched"), line("message loaded"), line("message opened")
    assert render(finding) == "\n".join(
        [
            "n-plus-one: Order.items was loaded for one Order at a time, by a query each",
            f"  touched      {here}:{touched} in show",
            f"  loaded       {here}:{loaded} in show",
            f"  opened       {here}:{opened} in show     session {label}",
            f"  called from  {here}:{line('message called')} in test_the_message",
            "  fix: load it with the query: .options(selectinload(Order.items))",
            "  more: sessionwatch explain n-plus-one",
        ]
    )


def test_counts_over_sessions(watch: Watch, memory: Engine) -> None:
    """The count is the number of queries, of all sessions that reached the threshold; the fingerprint stays."""
    fingerprints = set()
    for _ in range(3):
        with Session(memory) as session:
            for order in session.scalars(select(Order)):
                len(order.items)
        finding = only(watch, RULE)
        fingerprints.add(finding.fingerprint)
    assert finding.count == 3 * ROWS
    assert len(fingerprints) == 1


def test_the_last_count_is_written(memory: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file has the finding when it was made, and once more at the end with what it grew to."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    path = tmp_path / "found.jsonl"
    with sessionwatch.watching("log", log=False, output=str(path)), Session(memory) as session:
        for order in session.scalars(select(Order)):
            len(order.items)
    written = [json.loads(text) for text in path.read_text().splitlines()]
    assert [record["count"] for record in written] == [5, ROWS]
    assert len({record["fingerprint"] for record in written}) == 1
    assert len({record["message"] for record in written}) == 1


def test_no_value_is_part_of_the_finding(watch: Watch, memory: Engine) -> None:
    """Neither the story nor the JSON carries a value of a column."""
    with Session(memory) as session:
        for order in session.scalars(select(Order)):
            assert order.customer.name == "Ada"  # type: ignore[union-attr]
    finding = only(watch, RULE)
    assert "Ada" not in f"{render(finding)}{finding.as_json()}".replace('== "Ada"', "")


def test_nothing_is_kept_after_the_close(watch: Watch, memory: Engine) -> None:
    """A closed session's record keeps no counters."""
    session = sessionmaker(memory)()
    for order in session.scalars(select(Order)):
        len(order.items)
    record = session.__dict__["_sessionwatch"]
    assert record.loads
    assert record.roots
    session.close()
    assert not record.loads
    assert not record.roots
