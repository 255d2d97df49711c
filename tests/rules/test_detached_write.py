"""The rule ``detached-write``: changes to detached instances that no session will save."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    Session,
    joinedload,
    make_transient,
    selectinload,
)
from sqlalchemy.pool import QueuePool

import sessionwatch
from sessionwatch import FindingError
from sessionwatch.output.messages import render
from sessionwatch.watch.watch import Watch
from tests.backends import enforce_foreign_keys
from tests.models import Book, Shelf, create
from tests.rules import models
from tests.rules.models import Customer, Item, Order, Tag
from tests.rules.places import evidence_line, is_idle, labels, line, only

RULE = "detached-write"


@pytest.fixture
def memory() -> Iterator[Engine]:
    """A seeded SQLite database in memory, with a pool that counts its connections."""
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0)
    enforce_foreign_keys(engine)
    models.seed(engine)
    yield engine
    engine.dispose()


def load(engine: Engine) -> Order:
    """An order with its items, tags and customer, whose session has ended."""
    options = selectinload(Order.items), selectinload(Order.tags), joinedload(Order.customer)
    with Session(engine) as session:
        return session.scalars(select(Order).options(*options)).one()  # query


def waiting(watch: Watch) -> int:
    """How many changed instances wait for an end."""
    return len(watch._pending.waiting)


def set_status(order: Order) -> None:
    order.status = "sent"  # set


def set_same_attribute_twice(order: Order) -> None:
    for status in ("packed", "sent"):
        order.status = status  # set twice


def append_tag(order: Order) -> None:
    order.tags.append(Tag(name="late"))  # append


def insert_tag(order: Order) -> None:
    order.tags.insert(0, Tag(name="late"))  # insert


def extend_tags(order: Order) -> None:
    order.tags.extend([Tag(name="late"), Tag(name="lost")])  # extend


def remove_tag(order: Order) -> None:
    order.tags.remove(order.tags[0])  # remove


def pop_item(order: Order) -> None:
    order.items.pop()  # pop


def clear_items(order: Order) -> None:
    order.items.clear()  # clear


def delete_item(order: Order) -> None:
    del order.items[0]  # del item


def delete_status(order: Order) -> None:
    del order.status  # del attribute


def change_in_place(order: Order) -> None:
    assert order.extra is not None
    order.extra["gift"] = False  # in place


def replace_collection(order: Order) -> None:
    order.tags = [Tag(name="late")]  # bulk


def set_parent(order: Order) -> None:
    order.customer = None  # many-to-one


CHANGES: list[tuple[Callable[[Order], None], str, str, str]] = [
    (set_status, "Order.status", "changed", "set"),
    (set_same_attribute_twice, "Order.status", "changed", "set twice"),
    (append_tag, "Order.tags", "appended to", "append"),
    (insert_tag, "Order.tags", "appended to", "insert"),
    (extend_tags, "Order.tags", "appended to", "extend"),
    (remove_tag, "Order.tags", "removed from", "remove"),
    (pop_item, "Order.items", "removed from", "pop"),
    (clear_items, "Order.items", "removed from", "clear"),
    (delete_item, "Order.items", "removed from", "del item"),
    (delete_status, "Order.status", "deleted", "del attribute"),
    (change_in_place, "Order.extra", "changed in place", "in place"),
    (replace_collection, "Order.tags", "changed", "bulk"),
    (set_parent, "Order.customer", "changed", "many-to-one"),
]


# -- reports ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "subject", "verb", "marker"), CHANGES, ids=[item[3] for item in CHANGES])
def test_reports(
    watch: Watch, memory: Engine, change: Callable[[Order], None], subject: str, verb: str, marker: str
) -> None:
    """Each way to change a detached instance is one finding at the user's line."""
    order = load(memory)
    change(order)
    assert watch.findings == []
    watch.drain()
    finding = only(watch, RULE)
    assert (finding.subject, finding.line) == (subject, line(marker))
    assert finding.message == f"{subject} was {verb}, but no session will save it"


def test_reports_on_every_database(watch: Watch, shop: Engine) -> None:
    """The evidence names the session's place and the query's."""
    order = load(shop)
    set_status(order)
    watch.drain()
    finding = only(watch, RULE)
    assert labels(finding) == ["changed", "detached", "loaded", "opened"]
    assert evidence_line(finding, "loaded") == line("query")
    assert is_idle(shop)


def test_reports_after_expunge(watch: Watch, memory: Engine) -> None:
    """A change after expunge() is lost though the session is open and commits."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        session.expunge(order)  # expunge
        order.status = "sent"
        session.commit()
    watch.drain()
    assert evidence_line(only(watch, RULE), "detached") == line("expunge")


def test_reports_when_the_instance_is_gone(watch: Watch, memory: Engine) -> None:
    """Nobody can save what no longer exists: reported without waiting for an end."""
    order = load(memory)
    set_status(order)
    assert watch.findings == []
    del order
    gc.collect()
    assert only(watch, RULE).line == line("set")
    assert waiting(watch) == 0


def test_reports_when_the_unit_ends(watch: Watch, memory: Engine) -> None:
    """The end of the unit of work is the end of the waiting."""
    order = load(memory)
    with sessionwatch.unit_of_work("import"):
        set_status(order)
        assert watch.findings == []
    assert only(watch, RULE).line == line("set")


def test_reports_no_change_of_another_unit(watch: Watch, memory: Engine) -> None:
    """A unit that ends does not end the waiting of a change made outside of it."""
    order = load(memory)
    set_status(order)
    with sessionwatch.unit_of_work("import"):
        pass
    assert watch.findings == []
    watch.drain()
    only(watch, RULE)


def test_reports_at_uninstall(memory: Engine) -> None:
    """What still waits is reported when the watch is uninstalled."""
    with sessionwatch.watching("log", log=False) as watch:
        order = load(memory)
        set_status(order)
    assert only(watch, RULE).line == line("set")


def test_reports_at_exit(tmp_path: Path) -> None:
    """What still waits when the program ends is written to the output file."""
    output = tmp_path / "findings.jsonl"
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import sessionwatch
            from sqlalchemy import create_engine, select
            from sqlalchemy.orm import Session
            from tests.rules import models

            sessionwatch.install(output={str(output)!r}, log=False, rules={{"config": "off"}})
            engine = create_engine("sqlite:///{tmp_path / "exit.db"}")
            models.seed(engine)
            with Session(engine) as session:
                order = session.scalars(select(models.Order)).one()
            order.status = "sent"
            """
        ),
        encoding="utf-8",
    )
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, env=_environment(), check=False)
    assert (run.returncode, run.stderr) == (0, "")
    (found,) = [json.loads(text) for text in output.read_text(encoding="utf-8").splitlines()]
    assert (found["rule"], found["subject"], found["line"]) == (RULE, "Order.status", 12)


def test_reports_two_attributes_of_one_instance(watch: Watch, memory: Engine) -> None:
    """Each attribute is a finding of its own."""
    order = load(memory)
    set_status(order)
    append_tag(order)
    watch.drain()
    assert [finding.subject for finding in watch.findings] == ["Order.status", "Order.tags"]


def test_reports_after_the_session_was_collected(watch: Watch, memory: Engine) -> None:
    """A session that was dropped unclosed saves nothing either."""
    order = first_of_a_dropped_session(memory)
    gc.collect()
    watch.clear()  # the leak is another rule's
    set_status(order)
    watch.drain()
    assert only(watch, RULE).line == line("set")
    assert "its session was collected unclosed" in render(watch.findings[0])


def first_of_a_dropped_session(engine: Engine) -> Order:
    return Session(engine).scalars(select(Order)).one()


def test_reports_what_a_bulk_save_left_out(watch: Watch, memory: Engine) -> None:
    """bulk_save_objects() saves what it is given: a change to another object, or one after it, is lost."""
    order, other = load(memory), load(memory)
    set_status(order)
    other.status = "late"  # left out
    with Session(memory) as session:
        session.bulk_save_objects([order])
        session.commit()
    order.status = "lost"  # after the bulk save
    watch.drain()
    assert [finding.line for finding in watch.findings] == [line("left out"), line("after the bulk save")]


def test_reports_writers_of_large_collections(watch: Watch, memory: Engine) -> None:
    """Write-only and dynamic relationships of a detached instance are changed in vain, too."""
    create(memory, Shelf, Book)
    with Session(memory) as session:
        session.add(Shelf())
        session.commit()
        shelf = session.scalars(select(Shelf)).one()
        shelf.archive.add(Book())
        session.commit()
        session.refresh(shelf)
    shelf.archive.add(Book())  # add
    shelf.lent.append(Book())  # append to dynamic
    shelf.lent.remove(Book())  # remove from dynamic
    watch.drain()
    found = [(finding.message.partition(",")[0], finding.line) for finding in watch.findings]
    assert found == [
        ("Shelf.archive was appended to", line("add")),
        ("Shelf.lent was appended to", line("append to dynamic")),
        ("Shelf.lent was removed from", line("remove from dynamic")),
    ]


# -- stays silent on ----------------------------------------------------------------------------------


def test_ignores_what_is_added_again(watch: Watch, memory: Engine) -> None:
    """A session that takes the instance saves the change."""
    order = load(memory)
    set_status(order)
    with Session(memory) as session:
        session.add(order)
        session.commit()
    watch.drain()
    assert watch.findings == []


def test_ignores_what_is_added_and_collected(watch: Watch, memory: Engine) -> None:
    """An instance in a reference cycle that was saved and is gone has been saved all the same."""
    order = load(memory)
    set_status(order)
    order.__dict__["itself"] = order
    with Session(memory) as session:
        session.add(order)
        session.commit()
    gone = weakref.ref(order)
    del order
    gc.collect()
    assert gone() is None
    watch.drain()
    assert watch.findings == []


def test_ignores_what_is_merged(watch: Watch, memory: Engine) -> None:
    """A merge carries the change into its session."""
    order = load(memory)
    set_status(order)
    with Session(memory) as session:
        session.merge(order)
        session.commit()
    watch.drain()
    assert watch.findings == []


@pytest.mark.parametrize("installed", ["watch", "strict"])
def test_ignores_what_is_saved_in_bulk(request: pytest.FixtureRequest, memory: Engine, installed: str) -> None:
    """bulk_save_objects() writes the change of each object that it is given, though no session has it afterwards."""
    installation: Watch = request.getfixturevalue(installed)
    order = load_quietly(memory)
    with sessionwatch.unit_of_work("import"):
        set_status(order)
        with Session(memory) as session:
            session.bulk_save_objects(objects=[order])
            session.commit()
    with Session(memory) as session:
        assert session.scalar(select(Order.status)) == "sent"
    del order
    gc.collect()
    assert installation.findings == []


def test_ignores_what_a_generator_changes_for_a_bulk_save(watch: Watch, memory: Engine) -> None:
    """An object may be changed just before it is handed over, and be gone right after it."""

    def changed() -> Iterator[Order]:
        order = load(memory)
        set_status(order)
        yield order

    other = create_engine("sqlite://")
    models.seed(other)
    with Session(other) as session:
        session.bulk_save_objects(changed())
        session.commit()
    watch.drain()
    assert watch.findings == []


@pytest.mark.parametrize("given", [None, [object()], (1 / 0 for _ in "1")], ids=["nothing", "unmapped", "failing"])
def test_a_refused_bulk_save_fails_as_ever(watch: Watch, memory: Engine, given: Any) -> None:
    """The host's own error of bulk_save_objects() comes out as without us, without a frame of ours."""
    with Session(memory) as session, pytest.raises((TypeError, AttributeError, ZeroDivisionError)) as caught:
        session.bulk_save_objects(given)
    assert "changes.py" not in {Path(entry.path).name for entry in caught.traceback}
    assert watch.findings == []


def test_ignores_what_is_added_by_cascade(watch: Watch, memory: Engine) -> None:
    """Adding the parent adds the changed child."""
    order = load(memory)
    order.items[0].name = "screw"
    with Session(memory) as session:
        session.add(order)
        session.commit()
    watch.drain()
    assert watch.findings == []


def test_ignores_what_is_merged_by_cascade(watch: Watch, memory: Engine) -> None:
    """Merging the parent merges the changed child."""
    order = load(memory)
    order.items[0].name = "screw"
    with Session(memory) as session:
        session.merge(order)
        session.commit()
    watch.drain()
    assert watch.findings == []


def test_ignores_what_is_added_before_its_unit_ends(strict: Watch, memory: Engine) -> None:
    """Inside one unit a change may come before the session that saves it."""
    order = load_quietly(memory)
    with sessionwatch.unit_of_work("import"):
        order.__class__.status.__set__(order, "sent")
        with Session(memory) as session:
            session.add(order)
            session.commit()
    assert strict.findings == []


def test_ignores_make_transient_after_the_change(watch: Watch, memory: Engine) -> None:
    """An instance that becomes a plain object has nothing to save."""
    order = load(memory)
    set_status(order)
    make_transient(order)
    watch.drain()
    assert watch.findings == []


def test_ignores_make_transient_and_collected(watch: Watch, memory: Engine) -> None:
    """The same when the cycle collector takes instance and state together."""
    order = load(memory)
    set_status(order)
    order.__dict__["itself"] = order
    make_transient(order)
    del order
    gc.collect()
    watch.drain()
    assert watch.findings == []


def test_ignores_make_transient_before_the_change(watch: Watch, memory: Engine) -> None:
    """A plain object may be changed freely."""
    order = load(memory)
    make_transient(order)
    set_status(order)
    watch.drain()
    assert watch.findings == []


def test_ignores_transient_and_pending_objects(watch: Watch, memory: Engine) -> None:
    """Objects that were never stored are built by changes."""
    order = Order()
    set_status(order)
    append_tag(order)
    with Session(memory) as session:
        session.add(order)
        order.status = "packed"
        session.rollback()
    watch.drain()
    assert watch.findings == []


def test_ignores_changes_inside_the_session(watch: Watch, memory: Engine) -> None:
    """A change that a commit saves is right use."""
    with Session(memory) as session:
        order = session.scalars(select(Order)).one()
        for change, *_ in CHANGES:
            if change is not delete_status:
                change(order)
                session.rollback()
        order.status = "sent"
        session.commit()
    watch.drain()
    assert watch.findings == []


def test_ignores_the_effect_of_a_backref(watch: Watch, memory: Engine) -> None:
    """A new item that names a detached order changes the item; the order's collection only follows."""
    order = load(memory)
    item = Item(name="cog")
    item.order = order
    assert item in order.items
    watch.drain()
    assert watch.findings == []


def test_ignores_a_transient_parent_that_is_given_a_detached_child(watch: Watch, memory: Engine) -> None:
    """The new parent's relationship was set by the user; the child only follows."""
    order = load(memory)
    customer = Customer(name="Bea", orders=[order])
    assert order.customer is customer
    watch.drain()
    assert watch.findings == []


def test_ignores_what_sqlalchemy_sets(watch: Watch, memory: Engine) -> None:
    """Loading, refreshing, flushing and merging set attributes of instances that a session holds."""
    order = load(memory)
    with Session(memory) as session:
        merged = session.merge(order)
        session.refresh(merged)
        session.expire(merged)
        assert merged.status == "new"
        session.commit()
    watch.drain()
    assert watch.findings == []


def test_ignores_changes_inside_an_allowance(watch: Watch, memory: Engine) -> None:
    """A change is covered where it is made, though it is reported later, and counts as allowed."""
    order = load(memory)
    with sessionwatch.allow(RULE, reason="display only"):
        set_status(order)
    watch.drain()
    assert watch.findings == []
    assert [finding.allowed for finding in watch.allowed] == ["display only"]


def test_ignores_everything_in_mode_telemetry(memory: Engine) -> None:
    """Off in production."""
    with sessionwatch.watching("telemetry", log=False) as watch:
        set_status(load(memory))
    assert watch.findings == []


# -- bounds -------------------------------------------------------------------------------------------


def test_never_keeps_the_instance_alive(watch: Watch, memory: Engine) -> None:
    """The waiting change holds the instance weakly, and so does the finding."""
    order = load(memory)
    set_status(order)
    gone = weakref.ref(order)
    del order
    gc.collect()
    assert gone() is None
    only(watch, RULE)


def test_waits_for_a_bounded_number_of_instances(watch: Watch, memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a change is no longer noted; nothing grows without end."""
    monkeypatch.setattr("sessionwatch.hooks.attributes._PENDING_LIMIT", 2)
    orders = [load(memory) for _ in range(5)]
    for order in orders:
        set_status(order)
    assert waiting(watch) == 2
    watch.drain()
    assert only(watch, RULE).count == 2


# -- the story ----------------------------------------------------------------------------------------


def test_the_message(watch: Watch, memory: Engine) -> None:
    """The whole story, word for word."""

    def get_order() -> Order:
        with Session(memory) as session:  # message opened
            return session.scalars(select(Order)).one()  # message loaded

    order = get_order()
    order.status = "sent"  # message changed
    watch.drain()
    finding = only(watch, RULE)
    assert finding.session is not None
    label, here = finding.session["id"], "tests/rules/test_detached_write.py"
    changed, opened, loaded = line("message changed"), line("message opened"), line("message loaded")
    width = len(f"  detached  {here}:{opened} in get_order")
    assert render(finding) == "\n".join(
        [
            "detached-write: Order.status was changed, but no session will save it",
            f"  changed   {here}:{changed} in test_the_message",
            f"  detached  {here}:{opened} in get_order".ljust(width) + f"     session {label} closed here",
            f"  loaded    {here}:{loaded} in get_order",
            f"  opened    {here}:{opened} in get_order".ljust(width) + f"     session {label}",
            "  fix: make the change before the session closes, or merge the order into a new session and commit",
            "  more: sessionwatch explain detached-write",
        ]
    )


def test_no_value_is_part_of_the_finding(watch: Watch, memory: Engine) -> None:
    """Neither the old value nor the new one is told."""
    order = load(memory)
    order.notes = "top secret"
    watch.drain()
    finding = only(watch, RULE)
    assert "top secret" not in f"{render(finding)}{finding.as_json()}"
    assert "ring twice" not in f"{render(finding)}{finding.as_json()}"


# -- strict -------------------------------------------------------------------------------------------


def load_quietly(engine: Engine) -> Order:
    """An order whose session has ended and that was expunged on purpose, so that reads of it are allowed."""
    with Session(engine) as session:
        order = session.scalars(select(Order)).one()
        with sessionwatch.allow("detached-touch", reason="a fixture"):
            session.expunge(order)
    return order


def test_strict_raises_at_the_end_of_the_unit(strict: Watch, memory: Engine) -> None:
    """The change itself goes through; the unit's end raises, and the pool is idle."""
    order = load_quietly(memory)
    with pytest.raises(FindingError) as caught, sessionwatch.unit_of_work("import"):
        set_status(order)
    finding = only(strict, RULE)
    assert caught.value.finding is finding
    assert str(caught.value) == render(finding)
    assert is_idle(memory)


def test_strict_never_replaces_an_exception_on_its_way(strict: Watch, memory: Engine) -> None:
    """A unit that is left by an exception raises that one; the finding is there all the same."""
    order = load_quietly(memory)

    def fail() -> None:
        with sessionwatch.unit_of_work("import"):
            set_status(order)
            raise LookupError("first")

    with pytest.raises(LookupError, match="first"):
        fail()
    only(strict, RULE)


def test_strict_raises_nowhere_else(strict: Watch, memory: Engine) -> None:
    """Without a unit there is no safe point: the finding is left to the test's report."""
    order = load_quietly(memory)
    set_status(order)
    del order
    gc.collect()
    only(strict, RULE)


# -- where it points ----------------------------------------------------------------------------------


def test_points_at_the_line_that_called_a_library(watch: Watch, memory: Engine) -> None:
    """A change made through setattr() and the standard library is the user's line."""
    order = load(memory)
    reduce(lambda _, name: setattr(order, name, "sent"), ["status"], None)  # setattr
    watch.drain()
    assert only(watch, RULE).line == line("setattr")


def test_points_into_a_loop_over_instances(watch: Watch, memory: Engine) -> None:
    """Many instances changed at one line are one finding with a count."""
    for order in [load(memory) for _ in range(3)]:
        order.status = "sent"  # loop
    del order
    watch.drain()
    finding = only(watch, RULE)
    assert (finding.line, finding.count) == (line("loop"), 3)


# -- asyncio ------------------------------------------------------------------------------------------


async def test_reports_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """The same after an AsyncSession, with the async with line and the query's."""
    async with AsyncSession(async_shop) as session:  # async opened
        order = (await session.scalars(select(Order))).one()  # async query
    order.status = "sent"  # async change
    watch.drain()
    finding = only(watch, RULE)
    assert finding.line == line("async change")
    assert evidence_line(finding, "detached") == line("async opened")
    assert evidence_line(finding, "loaded") == line("async query")


async def test_ignores_what_is_added_again_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """An AsyncSession that takes the instance saves the change."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
    order.status = "sent"
    async with AsyncSession(async_shop) as session:
        session.add(order)
        await session.commit()
    watch.drain()
    assert watch.findings == []


async def test_ignores_what_is_saved_in_bulk_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """run_sync() is how an AsyncSession saves in bulk."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
    order.status = "sent"
    async with AsyncSession(async_shop) as session:
        await session.run_sync(lambda inner: inner.bulk_save_objects([order]))
        await session.commit()
        assert await session.scalar(select(Order.status)) == "sent"
    watch.drain()
    assert watch.findings == []


async def test_ignores_what_is_merged_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """An awaited merge carries the change into its session."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
    order.status = "sent"
    async with AsyncSession(async_shop) as session:
        await session.merge(order)
        await session.commit()
    watch.drain()
    assert watch.findings == []


async def test_strict_raises_at_the_end_of_an_async_unit(strict: Watch, async_shop: AsyncEngine) -> None:
    """``async with unit_of_work()`` raises like the plain one, and the pool is idle."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
    with pytest.raises(FindingError):
        async with sessionwatch.unit_of_work("import"):
            order.status = "sent"
    only(strict, RULE)
    assert is_idle(async_shop)


def _environment() -> dict[str, Any]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "SESSIONWATCH_TESTING": "1"}
