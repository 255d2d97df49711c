"""A stateful fuzz of sessions: what sessionwatch says of each against what the database has.

python -m tests.host.fuzz                 100,000 steps, half of them on an event loop
python -m tests.host.fuzz 2000 --async    some, of one kind
"""

from __future__ import annotations

import gc
import pickle
import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from sqlalchemy import delete, insert, inspect, select, text, update
from sqlalchemy.orm import Session, make_transient

import sessionwatch
from sessionwatch.model import Finding
from sessionwatch.watch.watch import Watch

from .program import MODELS, SLOTS, Item, Order, Program, Slot, Tag

slots = st.integers(0, SLOTS - 1)
models = st.sampled_from(MODELS)
picks = st.integers(0, 1000)
answers = st.sampled_from([True, True, True, False])  # whether a handler rolls back
KEPT = 12  # instances that the program holds


class OwnError(Exception):
    """The program's own error."""


class Machine(RuleBasedStateMachine):
    """Steps of a program. Each is checked by itself; what was thrown out, at the end of the unit."""

    program: Program  # of the class that is run
    watch: Watch

    def __init__(self) -> None:
        super().__init__()
        warnings.simplefilter("ignore")
        self.kept: list[Any] = []
        self.thrown: list[Any] = []
        self.found: list[Finding] = []
        self.step = "the beginning"
        self.unsubscribe = self.watch.subscribe(lambda finding, first: self.found.append(finding))
        self.unit = sessionwatch.unit_of_work("the fuzz")
        self.unit.__enter__()
        self.program.clear()
        for slot in self.program.slots:
            slot.begin()

    def teardown(self) -> None:
        try:
            for slot in self.program.slots:
                if slot.session is None:  # a step failed before it had a new one
                    continue
                self.ends(slot, lambda slot: self.program.call(slot, "close"), "close, at last")
                slot.session = None
            self.kept.clear()
            gc.collect()
        finally:
            self.program.recover()
            wanted = any(inspect(one).transient for one in self.thrown)
            self.found.clear()
            self.unit.__exit__(None, None, None)
            self.watch.drain()
            self.unsubscribe()
        said = [one.message for one in self.found if "expunged" in one.message]
        if wanted:
            assert said, "objects were thrown out, and in no session since: not reported"
        else:
            assert not said, said
        assert self.watch.status()["internal_errors"] == {}

    # -- what is checked ---------------------------------------------------------------------------------

    def said(self, *rules: str) -> list[str]:
        return [one.message for one in self.found if one.rule in rules and "expunged" not in one.message]

    def does(self, number: int, answered: bool, work: Callable[[Slot], Any], what: str) -> bool:
        """One step that ends no session: nothing may be called lost. True if it raised nothing."""
        slot = self.program.slots[number]
        before, self.step = slot.written(), f"{what} in {number}"
        error = self.tried(slot, answered, work)
        assert not self.said("lost-writes", "session-leak"), (self.step, self.said("lost-writes", "session-leak"))
        if error is None or not answered:
            slot.told += self.said("swallowed-error")
        self.found.clear()
        if error is not None:
            slot.unanswered = not answered
            if before and not answered and not slot.written():
                slot.undone = True
        self.thrown = [one for one in self.thrown if inspect(one).transient]  # no session has had it since
        if not slot.written() and not slot.undone and slot.session is not None and not slot.in_transaction():
            slot.changes = slot.counted()
        return error is None

    def tried(self, slot: Slot, answered: bool, work: Callable[[Slot], Any]) -> Exception | None:
        try:
            work(slot)
        except Exception as error:
            error.__traceback__ = None
            if answered:
                self.program.call(slot, "rollback")
                slot.forget()
            return error
        return None

    def ends(self, slot: Slot, end: Callable[[Slot], None], what: str, quiet: bool = False) -> None:
        """One step that ends a session: what it wrote, and nobody saved or threw away, is called lost."""
        self.step = f"{what} of {slot.number}"
        written, unflushed, touched = slot.written(), slot.unflushed(), slot.touched()
        undone, unanswered, held = slot.undone, slot.unanswered, slot.holds()
        self.found.clear()
        end(slot)
        assert self.watch.findings is not None  # asking is a safe point: what the collector has found is told
        lost, leaked = self.said("lost-writes"), self.said("session-leak")
        facts = {"step": self.step, "written": written, "unflushed": unflushed, "lost": lost, "leaked": leaked}
        if unanswered:
            if (undone or written or unflushed) and not quiet:
                assert lost or slot.told or self.said("swallowed-error"), facts
        elif quiet:
            assert not lost, facts
        elif written or unflushed:
            assert len(lost) == 1, facts
        elif not touched:
            assert not lost, facts
        assert bool(leaked) == (what == "drop" and held), facts
        self.found.clear()
        if slot.session is not None:
            slot.forget()

    def instance(self, pick: int) -> Any:
        return self.kept[pick % len(self.kept)] if self.kept else None

    def keep(self, *instances: Any) -> None:
        self.kept = [*self.kept, *instances][-KEPT:]

    def new(self, model: Any) -> Any:
        made = model(word=self.program.word())
        if model is Tag:
            made.id = self.program.word()
        self.keep(made)
        return made

    # -- objects -----------------------------------------------------------------------------------------

    @rule(number=slots, model=models, answered=answers)
    def adds(self, number: int, model: Any, answered: bool) -> None:
        self.does(number, answered, lambda slot: slot.session.add(self.new(model)), "add")

    @rule(number=slots, pick=picks, answered=answers)
    def adds_again(self, number: int, pick: int, answered: bool) -> None:
        if (one := self.instance(pick)) is not None:
            self.does(number, answered, lambda slot: slot.session.add(one), "add of a known one")

    @rule(number=slots, model=models, answered=answers)
    def loads(self, number: int, model: Any, answered: bool) -> None:
        def load(session: Session) -> None:
            self.keep(*session.scalars(select(model).order_by(model.id).limit(2)))

        self.does(number, answered, lambda slot: self.program.on_loop(slot, load), "load")

    @rule(pick=picks)
    def changes(self, pick: int) -> None:
        one = self.instance(pick)
        if one is not None and not inspect(one).expired and not inspect(one).was_deleted:
            one.word = self.program.word()

    @rule(pick=picks, other=picks)
    def moves(self, pick: int, other: int) -> None:
        items = [one for one in self.kept if isinstance(one, Item) and not inspect(one).expired]
        orders = [one for one in self.kept if isinstance(one, Order) and not inspect(one).expired]
        if items and orders:
            item, order = items[pick % len(items)], orders[other % len(orders)]
            both = inspect(item), inspect(order)
            if both[0].session is both[1].session and "order" not in both[0].unloaded:
                with_session = both[0].session
                if with_session is None or "items" not in both[1].unloaded:
                    item.order = order

    @rule(number=slots, pick=picks, answered=answers)
    def deletes(self, number: int, pick: int, answered: bool) -> None:
        one = self.instance(pick)
        if one is not None and inspect(one).session is self.program.slots[number].sync and inspect(one).persistent:
            self.does(
                number, answered, lambda slot: self.program.on_loop(slot, lambda session: session.delete(one)), "delete"
            )

    @rule(number=slots, pick=picks, answered=answers)
    def merges(self, number: int, pick: int, answered: bool) -> None:
        one = self.instance(pick)
        if one is not None and inspect(one).session is None and not inspect(one).was_deleted:
            self.thrown = [other for other in self.thrown if other is not one]
            merge: Callable[[Session], Any] = lambda session: self.keep(session.merge(one))  # noqa: E731
            self.does(number, answered, lambda slot: self.program.on_loop(slot, merge), "merge")

    @rule(pick=picks)
    def pickles(self, pick: int) -> None:
        one = self.instance(pick)
        if one is not None and not inspect(one).was_deleted:
            self.keep(pickle.loads(pickle.dumps(one)))

    @rule(pick=picks)
    def makes_transient(self, pick: int) -> None:
        one = self.instance(pick)
        if one is not None and inspect(one).detached and not inspect(one).expired:
            make_transient(one)

    @rule(number=slots, pick=picks)
    def expunges(self, number: int, pick: int) -> None:
        one, session = self.instance(pick), self.program.slots[number].sync
        if one is not None and one in session:
            going = [one, *(other for other in session.new if other is not one)]
            pending = [other for other in going if inspect(other).pending]
            self.does(number, True, lambda slot: slot.session.expunge(one), "expunge")
            self.thrown += [other for other in pending if inspect(other).transient]

    @rule(number=slots)
    def expunges_all(self, number: int) -> None:
        self.thrown += self.program.slots[number].sync.new
        self.does(number, True, lambda slot: slot.session.expunge_all(), "expunge_all")

    # -- statements --------------------------------------------------------------------------------------

    def executes(self, number: int, answered: bool, work: Callable[[Session], Any], what: str) -> None:
        self.does(number, answered, lambda slot: self.program.on_loop(slot, work), what)

    @rule(number=slots, model=st.sampled_from([Order, Item]), answered=answers, count=st.integers(1, 3))
    def inserts(self, number: int, model: Any, answered: bool, count: int) -> None:
        values = [{"word": self.program.word()} for _ in range(count)]
        self.executes(number, answered, lambda session: session.execute(insert(model), values), "insert")

    @rule(number=slots, model=models, answered=answers, row=st.integers(1, 5))
    def updates(self, number: int, model: Any, answered: bool, row: int) -> None:
        key: Any = f"tag {row}" if model is Tag else row
        statement = update(model).where(model.id == key).values(word=self.program.word())
        self.executes(number, answered, lambda session: session.execute(statement), "update")

    @rule(number=slots, answered=answers, row=st.integers(1, 5))
    def removes(self, number: int, answered: bool, row: int) -> None:
        statement = delete(Tag).where(Tag.id == f"tag {row}")
        self.executes(number, answered, lambda session: session.execute(statement), "delete by statement")

    @rule(number=slots, answered=answers, row=st.integers(1, 5))
    def writes_text(self, number: int, answered: bool, row: int) -> None:
        statement, values = "update orders set word = :word where id = :id", {"word": self.program.word(), "id": row}
        self.executes(number, answered, lambda session: session.execute(text(statement), values), "text")

    @rule(number=slots, answered=answers)
    def saves_in_bulk(self, number: int, answered: bool) -> None:
        made = [Order(word=self.program.word()) for _ in range(2)]
        self.executes(number, answered, lambda session: session.bulk_save_objects(made), "bulk save")

    @rule(number=slots, answered=answers, row=st.integers(1, 5))
    def updates_in_bulk(self, number: int, answered: bool, row: int) -> None:
        values = [{"id": row, "word": self.program.word()}]
        self.executes(number, answered, lambda session: session.bulk_update_mappings(inspect(Order), values), "bulk")

    @rule(number=slots, answered=answers)
    def fails(self, number: int, answered: bool) -> None:
        work: Callable[[Session], Any] = lambda session: session.execute(text("insert into nowhere values (1)"))  # noqa: E731
        self.executes(number, answered, work, "a wrong statement")

    @rule(number=slots, answered=answers)
    def adds_twice(self, number: int, answered: bool) -> None:
        def work(session: Session) -> None:
            session.add(Tag(id="tag 1", word=self.program.word()))
            session.flush()

        self.executes(number, answered, work, "a row that is there")

    # -- transactions ------------------------------------------------------------------------------------

    @rule(number=slots, answered=answers)
    def flushes(self, number: int, answered: bool) -> None:
        self.executes(number, answered, lambda session: session.flush(), "flush")

    @rule(number=slots, answered=answers)
    def commits(self, number: int, answered: bool) -> None:
        slot = self.program.slots[number]
        if self.does(number, answered, lambda slot: self.program.call(slot, "commit"), "commit"):
            slot.forget()

    @rule(number=slots)
    def rolls_back(self, number: int) -> None:
        slot = self.program.slots[number]
        if self.does(number, True, lambda slot: self.program.call(slot, "rollback"), "rollback"):
            slot.forget()

    @rule(number=slots, answered=answers)
    def begins_nested(self, number: int, answered: bool) -> None:
        slot = self.program.slots[number]
        begin: Callable[[Session], Any] = lambda session: slot.nested.append(session.begin_nested())  # noqa: E731
        self.executes(number, answered, begin, "begin_nested")

    @rule(number=slots, answered=answers, how=st.sampled_from(["commit", "rollback"]))
    def ends_nested(self, number: int, answered: bool, how: str) -> None:
        slot = self.program.slots[number]
        if slot.nested:
            nested = slot.nested.pop()
            if nested.is_active:
                self.executes(number, answered, lambda _: getattr(nested, how)(), f"{how} of a savepoint")

    @rule(number=slots, answered=answers, how=st.sampled_from(["commit", "rollback"]))
    def ends_by_connection(self, number: int, answered: bool, how: str) -> None:
        self.executes(number, answered, lambda session: getattr(session.connection(), how)(), f"connection().{how}()")

    @rule(number=slots, how=st.sampled_from(["commit", "rollback", "close"]))
    def joins(self, number: int, how: str) -> None:
        """A session in a transaction that somebody else began, who undoes it: meant, whatever the session does."""
        slot = self.program.slots[number]
        if slot.holds() or hasattr(slot.engine, "sync_engine"):
            return

        def work(slot: Slot) -> None:
            with slot.engine.connect() as connection, connection.begin() as outer:
                session = Session(connection, join_transaction_mode="create_savepoint")
                session.add(Order(word=self.program.word()))
                session.flush()
                getattr(session, how)()
                session.close()
                outer.rollback()

        self.does(number, True, work, "a joined session")
        slot.changes = slot.counted()

    # -- ends --------------------------------------------------------------------------------------------

    @rule(number=slots, how=st.sampled_from(["close", "close", "reset", "invalidate"]))
    def closes(self, number: int, how: str) -> None:
        self.ends(self.program.slots[number], lambda slot: self.program.call(slot, how), how)

    @rule(number=slots)
    def leaves(self, number: int) -> None:
        self.ends(self.program.slots[number], lambda slot: self.program.leave(slot, None), "with")

    @rule(number=slots)
    def breaks_off(self, number: int) -> None:
        def leave(slot: Slot) -> None:
            try:
                self.program.leave(slot, OwnError())
            except OwnError:
                return

        self.ends(self.program.slots[number], leave, "with, by an exception", quiet=True)

    @rule(number=slots)
    def drops(self, number: int) -> None:
        slot = self.program.slots[number]
        self.ends(slot, self.program.drop, "drop")
        slot.begin()
