"""``lost-writes``: what is reported, on real databases, and where the finding points."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, event, func, insert, literal, select, text, update
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    declared_attr,
    mapped_column,
    object_session,
    scoped_session,
    sessionmaker,
)

from sessionwatch import FindingError
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.models import Book, Shelf, create
from tests.rules.models import Customer, Employee, Item, Order, Tag
from tests.rules.places import evidence_line, is_idle, labels, line, only

Work = Callable[[Session], object]


# -- how a session ends ---------------------------------------------------------------------------------


def close(session: Session) -> None:
    session.close()


def reset(session: Session) -> None:
    session.reset()


def invalidate(session: Session) -> None:
    session.invalidate()


def leave_with(session: Session) -> None:
    with session:
        pass


def leave_closing(session: Session) -> None:
    with contextlib.closing(session):
        pass


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (close, "closed"),
        (reset, "reset"),
        (invalidate, "invalidated"),
        (leave_with, "closed"),
        (leave_closing, "closed"),
    ],
)
def test_reports_each_way_to_end_a_session(
    shop: Engine, watch: Watch, end: Callable[[Session], None], how: str
) -> None:
    """A flushed object is lost by close, reset, invalidate and the end of a with block."""
    session = Session(shop)
    session.add(Order())
    session.flush()
    end(session)
    finding = only(watch, "lost-writes")
    assert finding.message == f"1 Order object was written, but the session was {how} without a commit"
    assert (finding.subject, finding.function) == ("Order", end.__name__)
    assert labels(finding) == [how, "written", "opened"]


def test_points_at_the_with_line_that_discards(shop: Engine, watch: Watch) -> None:
    """The primary place is the with statement, the write and the opening are evidence."""
    with Session(shop) as session:  # with-block
        session.add(Order())
        session.flush()  # with-flush
    finding = only(watch, "lost-writes")
    assert finding.line == line("with-block")
    assert evidence_line(finding, "written") == line("with-flush")
    assert evidence_line(finding, "opened") == line("with-block")


def test_reports_a_registry_that_is_removed(shop: Engine, watch: Watch) -> None:
    """scoped_session.remove() discards as close() does, and is the place."""
    registry = scoped_session(sessionmaker(shop))
    registry.add(Order())
    registry.flush()
    registry.remove()  # registry-remove
    assert only(watch, "lost-writes").line == line("registry-remove")


def test_reports_a_session_that_was_dropped(shop: Engine, watch: Watch) -> None:
    """A session that the collector found points at its last write."""
    session = Session(shop)
    session.add(Order())
    session.flush()  # dropped-flush
    del session
    gc.collect()
    finding = next(finding for finding in watch.findings if finding.rule == "lost-writes")
    assert finding.message == "1 Order object was written, but the session was dropped and collected without a commit"
    assert finding.line == line("dropped-flush")


def test_reports_a_session_that_was_collected_while_a_class_is_mapped(shop: Engine, watch: Watch) -> None:
    """The collector runs where it likes: also where a registry has a class that has no mapper yet."""

    class Later(DeclarativeBase):
        pass

    session: Session | None = Session(shop)
    session.add(Order())
    session.flush()
    del session

    class Found(Later):
        @declared_attr.directive
        def __tablename__(cls) -> str:  # noqa: N805
            gc.collect()
            return "found"

        id: Mapped[int] = mapped_column(primary_key=True)

    finding = next(finding for finding in watch.findings if finding.rule == "lost-writes")
    assert finding.message.startswith("1 Order object was written, but the session was dropped")
    assert watch.status()["internal_errors"] == {}


def test_reports_pending_objects_of_a_session_that_was_dropped(shop: Engine, watch: Watch) -> None:
    """Objects that were added and never flushed are lost with the session, though no connection was taken."""
    session = Session(shop)
    session.add(Order())  # dropped-add
    del session
    gc.collect()
    finding = only(watch, "lost-writes")
    assert finding.message == "1 Order object was added, but the session was dropped and collected without a commit"
    assert finding.line == line("dropped-add")


def change_order(order: Order, session: Session) -> None:
    order.status = "paid"


def delete_order(order: Order, session: Session) -> None:
    session.delete(order)


def append_item(order: Order, session: Session) -> None:
    order.items.append(Item(name="nut"))


@pytest.mark.parametrize(
    ("lose", "label", "subject"),
    [(change_order, "changed", "Order"), (delete_order, "deleted", "Order"), (append_item, "added", "Item")],
)
def test_names_the_class_where_the_line_is_not_known(
    lose: Callable[[Order, Session], None], label: str, subject: str, shop: Engine, watch: Watch
) -> None:
    """Of what was never flushed, only `add()` has a line, as docs/limits.md says."""
    with Session(shop) as session:
        lose(session.get_one(Order, 1), session)
    (told,) = [item for item in only(watch, "lost-writes").evidence if item.label == label]
    assert (told.site, told.note) == (None, f"1 {subject} object, never flushed")


def test_reports_a_session_that_is_open_when_the_program_ends(tmp_path: Path) -> None:
    """At exit, the finding points at the last write and the program's status is its own."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
            import sessionwatch
            sessionwatch.install(output="findings.jsonl")
            from sqlalchemy import create_engine
            from sqlalchemy.orm import Session
            from tests.rules.models import Order, create
            engine = create_engine("sqlite:///shop.db")
            create(engine)
            session = Session(engine)
            session.add(Order())
            session.flush()
            raise SystemExit(3)
        """)
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, program], cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True)
    assert done.returncode == 3, done.stderr
    written = (tmp_path / "findings.jsonl").read_text()
    assert "1 Order object was written, but the program ended without a commit" in written
    assert '"path": "program.py", "line": 11' in written


def test_reports_a_generator_that_closes_without_a_commit(shop: Engine, watch: Watch) -> None:
    """A dependency's close() in finally is the place, the handler's line is the writer."""

    def get_session() -> Iterator[Session]:
        session = Session(shop)
        try:
            yield session
        finally:
            session.close()  # dependency-close

    provider = get_session()
    session = next(provider)
    session.add(Order())
    session.flush()  # handler-flush
    provider.close()
    finding = only(watch, "lost-writes")
    assert finding.line == line("dependency-close")
    assert evidence_line(finding, "written") == line("handler-flush")


# -- how a session writes -------------------------------------------------------------------------------


def flush_new(session: Session) -> None:
    session.add_all([Order(), Order()])
    session.flush()


def flush_changed(session: Session) -> None:
    session.get_one(Order, 1).status = "paid"
    session.flush()


def flush_deleted(session: Session) -> None:
    session.delete(session.get_one(Employee, 1))
    session.flush()


def autoflush(session: Session) -> None:
    session.add(Tag(name="late"))
    session.scalars(select(Order)).all()


def flush_inherited(session: Session) -> None:
    session.add(Employee(name="Alan", salary=1))
    session.flush()


def flush_mutable(session: Session) -> None:
    order = session.get_one(Order, 1)
    assert order.extra is not None
    order.extra["gift"] = False
    session.flush()


def flush_collection(session: Session) -> None:
    order = session.get_one(Order, 1)
    order.tags.clear()
    session.flush()


def core_insert(session: Session) -> None:
    session.execute(insert(Item.__table__).values(name="washer"))


def core_update(session: Session) -> None:
    session.execute(update(Item.__table__).values(name="washer"))


def core_delete(session: Session) -> None:
    session.execute(delete(Item.__table__))


def orm_insert(session: Session) -> None:
    session.execute(insert(Item), [{"name": "washer"}, {"name": "rivet"}])


def orm_update(session: Session) -> None:
    session.execute(update(Item).where(Item.name == "nut").values(name="washer"))


def orm_delete(session: Session) -> None:
    session.execute(delete(Item).where(Item.name == "nut"))


def query_delete(session: Session) -> None:
    session.query(Item).filter(Item.name == "nut").delete()


def insert_returning(session: Session) -> None:
    session.scalars(insert(Item).returning(Item.id), [{"name": "washer"}, {"name": "rivet"}]).all()


def insert_many_values(session: Session) -> None:
    session.execute(insert(Item).values([{"name": "washer"}, {"name": "rivet"}]))


def insert_from_select(session: Session) -> None:
    session.execute(insert(Item).from_select(["name"], select(Item.name)))


def bulk_mappings(session: Session) -> None:
    session.bulk_insert_mappings(Item, [{"name": "washer"}, {"name": "rivet"}])  # type: ignore[arg-type]


def bulk_update(session: Session) -> None:
    session.bulk_update_mappings(Item, [{"id": 1, "name": "washer"}])  # type: ignore[arg-type]


def bulk_objects(session: Session) -> None:
    session.bulk_save_objects([Item(name="washer"), Item(name="rivet")])


def text_insert(session: Session) -> None:
    session.execute(text("INSERT INTO items (name) VALUES (:name)"), {"name": "washer"})


def text_update(session: Session) -> None:
    session.execute(text("/* nightly */ UPDATE items SET name = 'a; DELETE FROM tags' WHERE id = 1"))


def driver_sql(session: Session) -> None:
    session.connection().exec_driver_sql("DELETE FROM items WHERE id = 1")


def on_connection(session: Session) -> None:
    session.connection().execute(insert(Item.__table__), [{"name": "washer"}, {"name": "rivet"}])


WRITES: list[tuple[Work, str]] = [
    (flush_new, "2 Order objects were written"),
    (flush_changed, "1 Order object was updated"),
    (flush_deleted, "1 Employee object was deleted"),
    (autoflush, "1 Tag object was written"),
    (flush_inherited, "1 Employee object was written"),
    (flush_mutable, "1 Order object was updated"),
    (flush_collection, "1 row of order_tags was deleted"),
    (core_insert, "1 row of items was inserted"),
    (core_update, "2 rows of items were updated"),
    (core_delete, "2 rows of items were deleted"),
    (orm_insert, "2 rows of items were inserted"),
    (orm_update, "1 row of items was updated"),
    (orm_delete, "1 row of items was deleted"),
    (query_delete, "1 row of items was deleted"),
    (insert_returning, "2 rows of items were inserted"),
    (insert_many_values, "2 rows of items were inserted"),
    (insert_from_select, "2 rows of items were inserted"),
    (bulk_mappings, "2 Item objects were written"),
    (bulk_update, "1 Item object was updated"),
    (bulk_objects, "2 Item objects were written"),
    (text_insert, "1 row of items was inserted"),
    (text_update, "1 row of items was updated"),
    (driver_sql, "1 row of items was deleted"),
    (on_connection, "2 rows of items were inserted"),
]


@pytest.mark.parametrize(("work", "what"), WRITES, ids=[work.__name__ for work, _ in WRITES])
def test_reports_each_way_to_write(shop: Engine, watch: Watch, work: Work, what: str) -> None:
    """What was written is named and counted, and the writing function is evidence."""
    session = Session(shop)
    work(session)
    session.close()
    finding = only(watch, "lost-writes")
    assert finding.message == f"{what}, but the session was closed without a commit"
    written = next(item for item in finding.evidence if item.label == "written")
    assert written.site is not None
    assert written.site.function == work.__name__


@pytest.mark.parametrize(("work", "what"), WRITES, ids=[work.__name__ for work, _ in WRITES])
def test_reports_each_way_to_write_on_mariadb(mariadb_shop: Engine, watch: Watch, work: Work, what: str) -> None:
    """MariaDB's driver tells the same story."""
    session = Session(mariadb_shop)
    work(session)
    session.close()
    assert only(watch, "lost-writes").message == f"{what}, but the session was closed without a commit"


@pytest.mark.parametrize("end", [close, reset, invalidate, leave_with])
@pytest.mark.parametrize("verb", ["added", "changed", "deleted"])
def test_reports_objects_that_never_were_flushed(
    shop: Engine, watch: Watch, end: Callable[[Session], None], verb: str
) -> None:
    """New, dirty and deleted objects are lost without a single statement."""
    session = Session(shop)
    if verb == "added":
        session.add(Order())
    elif verb == "changed":
        session.get_one(Order, 1).status = "paid"
    else:
        session.delete(session.get_one(Order, 1))
    end(session)
    finding = only(watch, "lost-writes")
    assert finding.message.startswith(f"1 Order object was {verb}, but the session was ")
    assert finding.function == end.__name__


def test_reports_a_write_inside_a_cte(shop: Engine, watch: Watch) -> None:
    """A SELECT over an INSERT in a CTE writes; PostgreSQL alone has that."""
    if shop.dialect.name != "postgresql":
        pytest.skip(f"{shop.dialect.name} has no DML in a CTE")
    with Session(shop) as session:
        added = insert(Item).values(name="washer").returning(Item.id).cte("added")
        session.execute(select(added.c.id)).all()
    assert only(watch, "lost-writes").subject == "items"


def test_reports_a_textual_write_inside_a_cte(shop: Engine, watch: Watch) -> None:
    """The same given as text."""
    if shop.dialect.name != "postgresql":
        pytest.skip(f"{shop.dialect.name} has no DML in a CTE")
    with Session(shop) as session:
        session.execute(text("WITH gone AS (DELETE FROM items RETURNING id) SELECT count(*) FROM gone"))
    assert only(watch, "lost-writes").subject == "items"


def test_names_everything_that_was_lost(shop: Engine, watch: Watch) -> None:
    """Several classes and tables are one finding, newest evidence first."""
    with Session(shop) as session:
        session.add(Customer(name="Bob", orders=[Order(items=[Item(name="a"), Item(name="b")])]))
        session.flush()
        session.execute(update(Tag).values(name="old"))
    finding = only(watch, "lost-writes")
    assert finding.subject == "Customer, Order, Item and tags"
    assert labels(finding) == ["closed", "written", "written", "written", "written", "opened"]


def test_reports_writes_after_a_commit(shop: Engine, watch: Watch) -> None:
    """A commit covers what came before it, not what came after."""
    with Session(shop) as session:
        session.add(Order())
        session.commit()
        session.add(Tag(name="late"))
        session.flush()
    assert only(watch, "lost-writes").subject == "Tag"


def test_reports_writes_after_a_rollback(shop: Engine, watch: Watch) -> None:
    """A rollback covers what came before it, not what came after."""
    with Session(shop) as session:
        session.add(Order())
        session.flush()
        session.rollback()
        session.add(Tag(name="late"))
        session.flush()
    assert only(watch, "lost-writes").subject == "Tag"


def test_reports_after_an_exception_that_was_handled_inside(shop: Engine, watch: Watch) -> None:
    """An exception that never left the block excuses nothing."""
    with Session(shop) as session:
        session.add(Order())
        session.flush()  # handled-inside
        with contextlib.suppress(ValueError):
            raise ValueError
    assert evidence_line(only(watch, "lost-writes"), "written") == line("handled-inside")


def test_reports_a_session_used_inside_an_except_block(shop: Engine, watch: Watch) -> None:
    """An exception that was being handled before the session was opened is not on its way out of it."""
    try:
        raise ValueError("why the audit row is written")
    except ValueError:
        session = Session(shop)
        session.add(Order(status="failed"))
        session.flush()
        session.close()  # within-except
    assert only(watch, "lost-writes").line == line("within-except")


def test_reports_a_generator_that_was_broken_off(shop: Engine, watch: Watch) -> None:
    """GeneratorExit is how a broken generator loses writes, not an exception on its way."""

    def get_session() -> Iterator[Session]:
        with Session(shop) as session:
            yield session
            session.commit()

    for session in get_session():
        session.add(Order())
        session.flush()  # broken-off
        break
    gc.collect()
    assert evidence_line(only(watch, "lost-writes"), "written") == line("broken-off")


# -- savepoints -----------------------------------------------------------------------------------------


def released(session: Session) -> None:
    with session.begin_nested():
        session.add(Tag(name="inner"))


def rolled_back(session: Session) -> None:
    savepoint = session.begin_nested()
    session.add(Tag(name="inner"))
    session.flush()
    savepoint.rollback()


def still_open(session: Session) -> None:
    session.begin_nested()
    session.add(Tag(name="inner"))
    session.flush()


def mixed(session: Session) -> None:
    with session.begin_nested():
        session.add(Tag(name="kept"))
        session.flush()
        rolled_back(session)
        released(session)


SAVEPOINTS: list[tuple[Work, str]] = [
    (released, "1 Tag object was written"),
    (still_open, "1 Tag object was written"),
    (mixed, "2 Tag objects were written"),
]


@pytest.mark.parametrize(("work", "what"), SAVEPOINTS)
def test_reports_writes_of_savepoints(shop: Engine, watch: Watch, work: Work, what: str) -> None:
    """What a released savepoint wrote is lost with the transaction around it.

    SQLite's driver begins none for a savepoint: its release stores the rows, and nothing is lost.
    """
    with Session(shop) as session:
        work(session)
    if shop.dialect.name == "sqlite" and work is not still_open:
        with Session(shop) as session:
            assert session.scalars(select(Tag).where(Tag.name != "urgent")).all()
        assert watch.findings == []
        return
    assert only(watch, "lost-writes").message == f"{what}, but the session was closed without a commit"


@pytest.mark.parametrize(("work", "what"), SAVEPOINTS)
def test_reports_writes_of_savepoints_on_mariadb(mariadb_shop: Engine, watch: Watch, work: Work, what: str) -> None:
    """MariaDB's savepoints are the same."""
    with Session(mariadb_shop) as session:
        work(session)
    assert only(watch, "lost-writes").message == f"{what}, but the session was closed without a commit"


def test_drops_what_a_rolled_back_savepoint_wrote(shop: Engine, watch: Watch) -> None:
    """Only the outer transaction's write is named when the savepoint's was rolled back."""
    with Session(shop) as session:
        session.add(Order())
        session.flush()
        rolled_back(session)
    assert only(watch, "lost-writes").subject == "Order"


def add_and_change(session: Session) -> None:
    session.get_one(Order, 1).status = "paid"
    session.add_all([Tag(name="late"), Tag(name="lost"), Item(name="cog")])


def add_change_and_delete(session: Session) -> None:
    session.delete(session.get_one(Employee, 1))
    session.get_one(Order, 1).status = "paid"
    session.add(Tag(name="late"))


def flush_and_add(session: Session) -> None:
    session.add(Order())
    session.flush()
    session.get_one(Order, 1).status = "paid"
    session.add(Tag(name="late"))


def flush_and_delete(session: Session) -> None:
    flush_deleted(session)
    session.delete(session.get_one(Tag, 1))


def flush_in_two_ways_and_add(session: Session) -> None:
    session.execute(insert(Item).values(name="nut"))
    session.add(Order())
    session.flush()
    session.add(Tag(name="late"))


FATES: list[tuple[Work, str]] = [
    (add_and_change, "2 Tag objects and 1 Item object were added and 1 Order object was changed"),
    (add_change_and_delete, "1 Tag object was added, 1 Employee object was deleted and 1 Order object was changed"),
    (flush_and_add, "1 Order object was written, 1 Tag object was added and 1 Order object was changed"),
    (flush_and_delete, "1 Employee object and 1 Tag object were deleted"),
    (flush_in_two_ways_and_add, "1 Order object and 1 row of items were written and 1 Tag object was added"),
]


@pytest.mark.parametrize(("work", "what"), FATES, ids=[work.__name__ for work, _ in FATES])
def test_the_message_names_each_fate(shop: Engine, watch: Watch, work: Work, what: str) -> None:
    """What was never flushed was not written: it keeps the verb of what the program did."""
    with Session(shop, autoflush=False) as session:
        work(session)
    assert only(watch, "lost-writes").message == f"{what}, but the session was closed without a commit"


# -- parents and children -------------------------------------------------------------------------------


@pytest.fixture
def library() -> Iterator[Engine]:
    """Two shelves with a book each."""
    engine = create_engine("sqlite://")
    create(engine, Shelf, Book)
    with Session(engine) as session:
        session.add_all([Shelf(books=[Book()]), Shelf(books=[Book()])])
        session.commit()
    yield engine
    engine.dispose()


def append_new(shelf: Shelf, other: Shelf) -> None:
    shelf.books.append(Book())


def add_new(shelf: Shelf, other: Shelf) -> None:
    shelf.archive.add(Book())


def name_parent(shelf: Shelf, other: Shelf) -> None:
    object_session(shelf).add(Shelf(room=shelf))  # type: ignore[union-attr]


def append_moved(shelf: Shelf, other: Shelf) -> None:
    shelf.books.append(other.books[0])


def append_both(shelf: Shelf, other: Shelf) -> None:
    shelf.books.extend([Book(), other.books[0]])


def replace(shelf: Shelf, other: Shelf) -> None:
    shelf.books = [Book()]


def add_moved(shelf: Shelf, other: Shelf) -> None:
    shelf.archive.add(other.books[0])


def remove(shelf: Shelf, other: Shelf) -> None:
    shelf.books.clear()


def change_room(shelf: Shelf, other: Shelf) -> None:
    shelf.room = Shelf()


def append_and_change(shelf: Shelf, other: Shelf) -> None:
    shelf.books.append(Book())
    shelf.room_id = 2


PARENTS: list[tuple[Callable[[Shelf, Shelf], None], str]] = [
    (append_new, "1 Book object was added"),
    (add_new, "1 Book object was added"),
    (name_parent, "1 Shelf object was added"),
    (append_moved, "1 Shelf object was changed"),
    (append_both, "1 Book object was added and 1 Shelf object was changed"),
    (replace, "1 Book object was added and 1 Shelf object was changed"),
    (add_moved, "1 Shelf object was changed"),
    (remove, "1 Shelf object was changed"),
    (change_room, "1 Shelf object was added and 1 Shelf object was changed"),
    (append_and_change, "1 Book object was added and 1 Shelf object was changed"),
]


@pytest.mark.parametrize(("work", "what"), PARENTS, ids=[work.__name__ for work, _ in PARENTS])
@pytest.mark.parametrize("how", ["closed", "dropped and collected"])
def test_reports_no_parent_that_was_only_given_new_children(
    library: Engine, watch: Watch, work: Callable[[Shelf, Shelf], None], what: str, how: str
) -> None:
    """The rows of new children are all that is lost; where a child was there before, its parent tells of the move."""
    session = Session(library)
    shelves = session.scalars(select(Shelf).order_by(Shelf.id)).all()
    work(*shelves)
    if how == "closed":
        session.close()
    else:
        del session
        gc.collect()
    found = [finding.message for finding in watch.findings if finding.rule == "lost-writes"]
    assert found == [f"{what}, but the session was {how} without a commit"]


def test_reports_a_parent_that_was_given_new_children_of_many(shop: Engine, watch: Watch) -> None:
    """A new tag of an order writes a row between the two, which is the order's."""
    with Session(shop) as session:
        order = session.get_one(Order, 1)
        order.tags.append(Tag(name="late"))
    message = "1 Tag object was added and 1 Order object was changed, but the session was closed without a commit"
    assert only(watch, "lost-writes").message == message


def test_reports_without_a_look_at_the_database(library: Engine, watch: Watch) -> None:
    """Whether a parent changed is told without a statement, and without loading its children."""
    session = Session(library)
    shelf, other = session.scalars(select(Shelf).order_by(Shelf.id))
    name_parent(shelf, other)
    add_new(shelf, other)
    sent: list[str] = []
    event.listen(library, "before_cursor_execute", lambda *given: sent.append(given[2]))
    session.close()
    assert only(watch, "lost-writes").message.startswith("1 Shelf object and 1 Book object were added, but ")
    assert (sent, "books" in vars(shelf), "shelves" in vars(shelf)) == ([], False, False)


# -- the message, and strict mode -----------------------------------------------------------------------


def get_session(engine: Engine) -> Session:
    return Session(engine)  # story-open


def place_order(session: Session) -> None:
    session.add(Order())
    session.flush()  # story-flush


def test_message_word_for_word(shop: Engine, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole story: headline, evidence newest first, one fix, where to read more."""
    monkeypatch.chdir(Path(__file__).parent)
    block = "with get_session(shop) as session, session.begin():"
    session = get_session(shop)
    place_order(session)
    session.add(Tag(name="late"))  # story-add
    session.close()  # story-close
    label = session.__dict__["_sessionwatch"].label
    assert messages.render(only(watch, "lost-writes")) == textwrap.dedent(f"""\
        lost-writes: 1 Order object was written and 1 Tag object was added, but the session was closed without a commit
          closed   test_lost_writes.py:{line("story-close")} in test_message_word_for_word     session {label}
          added    test_lost_writes.py:{line("story-add")} in test_message_word_for_word     1 Tag object, never flushed
          written  test_lost_writes.py:{line("story-flush")} in place_order                    1 Order object written
          opened   test_lost_writes.py:{line("story-open")} in get_session                    session {label}
          fix: commit before the session ends: session.commit(), or `{block}`;
               to discard on purpose: session.rollback()
          more: sessionwatch explain lost-writes""")


@pytest.mark.parametrize("end", [close, reset, invalidate, leave_with, leave_closing])
def test_strict_raises_after_everything_was_released(
    shop: Engine, strict: Watch, end: Callable[[Session], None]
) -> None:
    """The error carries the finding, and comes when the connection is back in the pool."""
    session = Session(shop)
    session.add(Order())
    session.flush()
    with pytest.raises(FindingError, match="1 Order object was written") as raised:
        end(session)
    assert raised.value.finding is only(strict, "lost-writes")
    assert is_idle(shop)
    assert not session.in_transaction()


@pytest.mark.parametrize("mode", ["with", "finally", "closing"])
def test_strict_never_replaces_an_exception_on_its_way(shop: Engine, strict: Watch, mode: str) -> None:
    """Whatever leaves the block is what arrives, and the pool is idle."""
    with pytest.raises(KeyError, match="mine"):
        fail_in(mode, Session(shop))
    assert strict.findings == []
    assert is_idle(shop)


def fail_in(mode: str, session: Session) -> None:
    if mode == "finally":
        try:
            work_and_fail(session)
        finally:
            session.close()
    with session if mode == "with" else contextlib.closing(session):
        work_and_fail(session)


def work_and_fail(session: Session) -> None:
    session.add(Order())
    session.flush()
    raise KeyError("mine")


def test_strict_keeps_the_exception_that_was_handled_outside(shop: Engine, strict: Watch) -> None:
    """A lost write of a session opened in an except block raises, and what was handled there is its context."""
    with pytest.raises(FindingError) as raised:
        audit_and_raise(shop)
    assert isinstance(raised.value.__context__, KeyError)
    assert raised.value.finding is only(strict, "lost-writes")
    assert is_idle(shop)


def audit_and_raise(engine: Engine) -> Any:
    try:
        raise KeyError("mine")
    except KeyError:
        session = Session(engine)
        session.add(Order(status="failed"))
        session.flush()
        session.close()
        raise


def test_a_reported_write_is_really_lost(shop: Engine, watch: Watch) -> None:
    """What the rule says is what the database says."""
    with Session(shop) as session:
        session.add(Order())
        session.flush()
    only(watch, "lost-writes")
    with Session(shop) as session:
        assert session.scalar(select(func.count(literal(1))).select_from(Order)) == 1
