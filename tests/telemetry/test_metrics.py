"""What a session, its transactions and its findings become, as a reader of the real SDK sees it."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics._internal import aggregation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import Engine, create_engine, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.record.counts import MANY
from sessionwatch.telemetry.table import LOAD_KINDS, METRICS, OPERATIONS, OUTCOMES, POOL
from sessionwatch.watch.watch import Watch
from tests.rules.models import Customer, Item, Order
from tests.telemetry.readings import Readings, all_series

OPENED, CLOSED, ACTIVE = "sessionwatch.sessions.opened", "sessionwatch.sessions.closed", "sessionwatch.session.active"
DURATION, STATEMENTS = "sessionwatch.session.duration", "sessionwatch.session.statements"
TRANSACTION, LOADS = "sessionwatch.transaction.duration", "sessionwatch.lazy_loads"
FLUSHES, ROWS, FINDINGS = "sessionwatch.flushes", "sessionwatch.rows.written", "sessionwatch.findings"
ERRORS, PLACES = "sessionwatch.internal_errors", "sessionwatch.findings.places"


# -- outcomes -----------------------------------------------------------------------------------------


def commit(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Customer(name="Ada"))


def roll_back(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Customer(name="Ada"))
        session.flush()
        session.rollback()


def read(engine: Engine) -> None:
    with Session(engine) as session:
        session.scalars(select(Order)).all()


def lose(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Customer(name="Ada"))
        session.flush()


def leak(engine: Engine) -> None:
    session = Session(engine)
    session.scalars(select(Order)).all()
    del session
    gc.collect()


@pytest.mark.parametrize(
    ("work", "outcome"),
    [(commit, "committed"), (roll_back, "rolled_back"), (read, "read_only"), (lose, "lost"), (leak, "leaked")],
)
def test_outcome_of_a_session_and_of_its_transaction(
    work: Callable[[Engine], None], outcome: str, shop: Engine, watch: Watch, readings: Readings
) -> None:
    """Both are of the closed set, and each session and transaction is in one series of each metric."""
    work(shop)
    metrics = {name: readings.values(name) for name in (CLOSED, DURATION, STATEMENTS, TRANSACTION, OPENED, ACTIVE)}
    assert metrics[CLOSED] == metrics[DURATION] == metrics[STATEMENTS] == {(outcome, "sync"): 1}
    assert metrics[TRANSACTION] == {(outcome,): 1}
    assert metrics[OPENED] == {("sync",): 1}
    assert metrics[ACTIVE] == {}


async def test_outcomes_under_asyncio(async_shop: AsyncEngine, watch: Watch, readings: Readings) -> None:
    """The same with the kind async."""
    async with AsyncSession(async_shop) as session, session.begin():
        session.add(Customer(name="Ada"))
    async with AsyncSession(async_shop) as session:
        await session.scalars(select(Order))
    still = AsyncSession(async_shop)
    assert readings.values(OPENED) == {("async",): 3}
    assert readings.values(CLOSED) == {("committed", "async"): 1, ("read_only", "async"): 1}
    assert readings.values(DURATION) == {("committed", "async"): 1, ("read_only", "async"): 1}
    assert readings.values(TRANSACTION) == {("committed",): 1, ("read_only",): 1}
    assert readings.values(ACTIVE) == {("async",): 1}
    await still.close()
    assert readings.values(ACTIVE) == {}


def test_each_transaction_of_a_session_counts(shop: Engine, watch: Watch, readings: Readings) -> None:
    """By how it ended; one that never took a connection is none, and a savepoint is part of its transaction."""
    with Session(shop) as session:
        session.add(Customer(name="Ada"))
        session.commit()
        with session.begin_nested() as savepoint:
            session.add(Customer(name="Bob"))
            session.flush()
            savepoint.rollback()
        session.commit()
        session.add(Customer(name="Eve"))  # begins, and takes no connection
        session.rollback()
        session.scalars(select(Order)).all()
    assert readings.values(TRANSACTION) == {("committed",): 2, ("read_only",): 1}
    assert readings.values(CLOSED) == {("committed", "sync"): 1}


def test_durations_and_statements_are_measured(
    shop: Engine, watch: Watch, readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of a clock that never goes back, and the number of statements at the cursor."""
    now = 100.0
    monkeypatch.setattr("sessionwatch.record.life.perf_counter", lambda: now)
    monkeypatch.setattr("sessionwatch.record.tracker.perf_counter", lambda: now)
    monkeypatch.setattr("sessionwatch.hooks.sessions.perf_counter", lambda: now)
    monkeypatch.setattr("time.time", lambda: 0.0)  # the clock on the wall was put back
    session = Session(shop)
    now = 103.0
    session.scalars(select(Order)).all()
    session.execute(text("SELECT 1"))
    now = 105.5
    session.close()
    assert readings.sums(DURATION) == {("read_only", "sync"): 5.5}
    assert readings.sums(TRANSACTION) == {("read_only",): 2.5}
    assert readings.sums(STATEMENTS) == {("read_only", "sync"): 2}


def test_statement_for_many_rows_counts_once(shop: Engine, watch: Watch, readings: Readings) -> None:
    """An INSERT of a flush is one statement, however many batches the driver gets of it."""
    with Session(shop) as session:
        session.add_all([Customer(name=f"C{number}") for number in range(2500)])
        session.flush()
        session.execute(insert(Order), [{"status": "new"} for _ in range(2500)])
        session.commit()
    assert readings.sums(STATEMENTS) == {("committed", "sync"): 2}


# -- open sessions ------------------------------------------------------------------------------------


def test_active_sessions_are_those_that_were_not_closed(shop: Engine, watch: Watch, readings: Readings) -> None:
    """Idle ones too; whether one is closed, reset, collected, used again or closed twice."""
    idle, used, reused = Session(shop), Session(shop), Session(shop)
    used.scalars(select(Order)).all()
    reused.close()
    assert readings.values(ACTIVE) == {("sync",): 2}
    reused.scalars(select(Order)).all()
    assert readings.values(ACTIVE) == {("sync",): 3}
    reused.close()
    reused.close()
    used.reset()
    del idle
    gc.collect()
    assert readings.values(ACTIVE) == {}
    assert readings.values(OPENED) == {("sync",): 4}


def test_session_from_before_the_installation_counts_when_it_is_used(
    shop: Engine, installed: Callable[..., Watch], readings: Readings
) -> None:
    """So that opened and closed go together."""
    before, unused = Session(shop), Session(shop)
    installed()
    before.scalars(select(Order)).all()
    assert readings.values(ACTIVE) == {("sync",): 1}
    before.close()
    unused.close()
    assert readings.values(ACTIVE) == {}
    assert readings.values(OPENED) == {("sync",): 2}


def test_no_session_is_lost_between_threads(shop: Engine, watch: Watch, readings: Readings) -> None:
    """Every thread counts into the same integers, while a reader collects."""
    started = threading.Barrier(5)

    def work() -> None:
        started.wait()
        for _ in range(200):
            Session(shop).close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    while any(thread.is_alive() for thread in threads):
        readings.metrics()
    assert readings.values(CLOSED) == {("read_only", "sync"): 800}
    assert readings.values(DURATION) == {("read_only", "sync"): 800}
    assert readings.values(ACTIVE) == {}


def test_work_of_an_open_session_is_seen(shop: Engine, watch: Watch, readings: Readings) -> None:
    """A worker that never closes its session writes rows all the same, and no count ever goes back."""
    session = Session(shop)
    seen = []
    for _ in range(3):
        session.add(Customer(name="Ada"))
        session.commit()
        seen.append((readings.values(FLUSHES)[()], readings.values(ROWS)[("INSERT",)]))
    session.close()
    seen.append((readings.values(FLUSHES)[()], readings.values(ROWS)[("INSERT",)]))
    assert seen == [(1, 1), (2, 2), (3, 3), (3, 3)]


# -- what sessions do ---------------------------------------------------------------------------------


def test_rows_by_operation(shop: Engine, watch: Watch, readings: Readings) -> None:
    """Unit of work, Core and text; also where the rows were rolled back."""
    with Session(shop) as session:
        session.add_all([Customer(name="Ada"), Customer(name="Bob")])
        session.flush()
        session.execute(insert(Item), [{"name": "pen"}, {"name": "ink"}, {"name": "cup"}])
        session.execute(update(Item).values(name="gone"))
        session.execute(text("DELETE FROM items WHERE order_id IS NULL"))
        session.rollback()
    assert readings.values(ROWS) == {("INSERT",): 5, ("UPDATE",): 5, ("DELETE",): 3}


def test_rows_of_a_session_that_does_not_own_its_commit(shop: Engine, watch: Watch, readings: Readings) -> None:
    """AUTOCOMMIT, and a session that joined a transaction of somebody else's."""
    with Session(shop.execution_options(isolation_level="AUTOCOMMIT")) as session:
        session.execute(insert(Customer).values(name="Eve"))
    with shop.connect() as connection, connection.begin(), Session(connection) as joined:
        joined.execute(update(Customer).where(Customer.name == "Eve").values(name="Bob"))
        joined.execute(delete(Customer).where(Customer.name == "Bob"))
    assert readings.values(ROWS) == {("INSERT",): 1, ("UPDATE",): 1, ("DELETE",): 1}


@pytest.mark.parametrize("level", ["off", "log"])
def test_lazy_loads_by_kind(level: str, shop: Engine, installed: Callable[..., Watch], readings: Readings) -> None:
    """Counted with and without the rule n-plus-one; what was asked for on purpose is none."""
    installed(rules={"n-plus-one": level, "config": "off"})
    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        assert order.items  # one load
        assert order.items
        assert order.notes  # a deferred column
        session.refresh(order)
        session.get(Customer, 1)
        session.expire(order)
        assert order.status
        assert order.id  # came with the status
    assert readings.values(LOADS) == {("relationship",): 1, ("deferred",): 1, ("expired",): 1}


async def test_lazy_loads_under_asyncio(async_shop: AsyncEngine, watch: Watch, readings: Readings) -> None:
    """Those inside of SQLAlchemy's greenlet."""
    async with AsyncSession(async_shop) as session:
        order = (await session.scalars(select(Order))).one()
        await session.run_sync(lambda _: order.items)
        await session.refresh(order, ["items"])
    assert readings.values(LOADS) == {("relationship",): 1}


def test_models_only_where_they_were_asked_for(
    shop: Engine, installed: Callable[..., Watch], readings: Readings
) -> None:
    """By a setting; then each pair of model and attribute is a series."""
    installed(settings={"telemetry.models": True})
    with Session(shop) as session:
        order = session.scalars(select(Order)).one()
        assert order.items
        assert order.notes
    assert readings.values(LOADS) == {("items", "relationship", "Order"): 1, ("notes", "deferred", "Order"): 1}


def test_no_more_models_than_the_cap(shop: Engine, installed: Callable[..., Watch], readings: Readings) -> None:
    """10,000 models are 200 series and one for the others, and no load is lost."""
    watch = installed(settings={"telemetry.models": True})
    with Session(shop) as session:
        session.connection()  # loads are those of sessions at work
        record: Any = session.__dict__["_sessionwatch"]
        for number in range(10_000):
            watch.tracker.loaded(record, "relationship", f"Model{number}", "items")
    values = readings.values(LOADS)
    assert len(values) == 201
    assert values["other", "relationship", "other"] == 9_800
    assert sum(values.values()) == 10_000


@pytest.mark.parametrize(("setting", "cap"), [("3", 3), ("0", 0)])
def test_the_cap_is_a_setting(
    setting: str, cap: int, shop: Engine, installed: Callable[..., Watch], readings: Readings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Also from the environment."""
    monkeypatch.setenv("SESSIONWATCH_SETTINGS", f"telemetry.models=yes,telemetry.models_cap={setting}")
    watch = installed()
    with Session(shop) as session:
        session.connection()  # loads are those of sessions at work
        for number in range(10):
            watch.tracker.loaded(session.__dict__["_sessionwatch"], "expired", f"Model{number}", "name")
    assert len(readings.values(LOADS)) == cap + 1


# -- findings and our own errors ----------------------------------------------------------------------


def test_each_occurrence_of_a_finding_counts(shop: Engine, watch: Watch, readings: Readings) -> None:
    """Repeated ones too, but none that is allowed."""
    for _ in range(3):
        lose(shop)
    with sessionwatch.allow("lost-writes", reason="a dry run"):
        lose(shop)
    assert readings.values(FINDINGS) == {("telemetry", "lost-writes"): 3}


def test_findings_of_every_mode(shop: Engine, installed: Callable[..., Watch], readings: Readings) -> None:
    """The mode is an attribute; a finding that raises counts as well."""
    installed("strict")
    with pytest.raises(sessionwatch.FindingError):
        lose(shop)
    assert readings.values(FINDINGS) == {("strict", "lost-writes"): 1}
    assert readings.values(CLOSED) == {("lost", "sync"): 1}


def test_rules_that_are_on_begin_at_zero(watch: Watch, readings: Readings) -> None:
    """So that the first finding is a step that an alert can see."""
    points = readings.metrics()[FINDINGS].data.data_points
    on = {slug for slug, level in watch.config.levels.items() if level != "off"}
    assert {point.attributes["sessionwatch.rule"] for point in points} == on
    assert {point.value for point in points} == {0}


def test_every_series_is_there_before_anything_happens(watch: Watch, readings: Readings) -> None:
    """All counters and gauges, with all outcomes and kinds, at zero: the first event is a step."""
    exported = readings.metrics()
    kinds = {("sync",), ("async",)}
    assert all_series(readings, CLOSED) == {(outcome, kind) for outcome in OUTCOMES for (kind,) in kinds}
    assert all_series(readings, OPENED) == all_series(readings, ACTIVE) == kinds
    assert all_series(readings, LOADS) == {(kind,) for kind in LOAD_KINDS}
    assert all_series(readings, ROWS) == {(verb,) for verb in OPERATIONS}
    assert all_series(readings, FLUSHES) == {()}
    points = [point for metric in exported.values() for point in metric.data.data_points]
    assert {point.value for point in points if "pool.name" not in str(point.attributes)} == {0}
    born = {metric.name for metric in METRICS if metric.kind != "histogram" and POOL not in metric.attributes}
    assert born - set(exported) == {PLACES}


def test_our_own_errors_count_by_hook(watch: Watch, readings: Readings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule by its name, a sink, which may have any name, as a sink, and all else as a hook."""
    monkeypatch.setattr(watch.tracker, "reraise", False)
    assert readings.values(ERRORS) == {}
    assert {("rule lost-writes",), ("sink",), ("hook",)} <= all_series(readings, ERRORS)
    for hook in ("rule lost-writes", "sink tests.one", "sink tests.two", "Session.__init__"):
        with watch.tracker.guarded(hook):
            raise RuntimeError("ours")
    assert readings.values(ERRORS) == {("rule lost-writes",): 1, ("sink",): 2, ("hook",): 1}
    assert watch.status()["internal_errors"]["Session.__init__"] == 1


# -- the whole ----------------------------------------------------------------------------------------


def test_names_units_and_attributes_are_those_of_the_table(shop: Engine, watch: Watch, readings: Readings) -> None:
    """No metric has an attribute, a unit or a description that the table does not have; buckets are floats."""
    for work in (commit, roll_back, read, lose, leak):
        work(shop)
    with create_engine("sqlite://").connect():  # one that is new
        pass
    with Session(shop) as session:
        assert session.scalars(select(Order)).first().items  # type: ignore[union-attr]
    exported = readings.metrics()
    for metric in METRICS:
        found = exported[metric.name]
        assert (found.unit, found.description) == (metric.unit, metric.description)
        assert all(set(point.attributes) == set(metric.attributes) for point in found.data.data_points), metric.name
        assert all(type(bound) is float for bound in metric.buckets)
    assert set(exported) <= {metric.name for metric in METRICS}


def test_scope_version_and_schema(watch: Watch, readings: Readings) -> None:
    """Every metric is of the scope sessionwatch."""
    data = readings.reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    assert (scope.scope.name, scope.scope.version) == ("sessionwatch", sessionwatch.__version__)
    assert scope.schema_url.startswith("https://opentelemetry.io/schemas/")


def test_queues_are_emptied_before_anybody_collects(shop: Engine, watch: Watch, readings: Readings) -> None:
    """A program with many sessions and a reader that comes once a minute keeps few of them."""
    for _ in range(2 * MANY + 50):
        Session(shop).close()
    assert watch.status()["telemetry"]["waiting"] < 100
    assert readings.values(DURATION) == {("read_only", "sync"): 2 * MANY + 50}


def test_samples_that_another_thread_forgets_meanwhile_are_no_error(
    shop: Engine, watch: Watch, readings: Readings
) -> None:
    """An installation that ends empties the queues, perhaps after a collection has looked how long one is."""

    class Shrinking(deque[Any]):
        def __len__(self) -> int:
            return super().__len__() + 1  # one was there a moment ago

    watch.tracker.ends["sync"]["read_only"].queue = Shrinking()
    Session(shop).close()
    assert readings.values(DURATION) == {("read_only", "sync"): 1}
    assert watch.status()["internal_errors"] == {}


def test_session_that_ends_inside_the_sdk_does_not_lock_it(
    shop: Engine, watch: Watch, readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector may end sessions while this thread holds the SDK's locks: nothing is recorded then."""
    histogram = aggregation._ExplicitBucketHistogramAggregation
    collect, aggregate = histogram.collect, histogram.aggregate
    inside, ended = [False], [0]

    def collecting(self: Any, *args: Any) -> Any:
        inside[0] = True
        if not ended[0]:
            ended[0] = MANY + 50
            for _ in range(MANY + 50):
                Session(shop).close()
        inside[0] = False
        return collect(self, *args)

    def aggregating(*args: Any) -> None:
        assert not inside[0], "this would wait for ever"
        aggregate(*args)

    monkeypatch.setattr(histogram, "collect", collecting)
    monkeypatch.setattr(histogram, "aggregate", aggregating)
    Session(shop).close()
    readings.metrics()
    assert ended == [MANY + 50]
    assert readings.values(DURATION) == {("read_only", "sync"): MANY + 51}


def test_samples_belong_to_no_span(shop: Engine, watch: Watch, readings: Readings) -> None:
    """Who collects, or ends the session that empties the queue, may be inside of a sampled span of its own."""
    from opentelemetry import context, trace

    span = trace.NonRecordingSpan(trace.SpanContext(1, 1, False, trace.TraceFlags(1)))
    token = context.attach(trace.set_span_in_context(span))
    try:
        read(shop)
        metric = readings.metrics()[DURATION]
    finally:
        context.detach(token)
    assert not any(getattr(point, "exemplars", None) for point in metric.data.data_points)


def test_second_reader_sees_the_same(shop: Engine) -> None:
    """Two readers of one provider are two consumers: each is told everything."""
    from opentelemetry.sdk.metrics import MeterProvider

    readers = InMemoryMetricReader(), InMemoryMetricReader()
    provider = MeterProvider(readers, shutdown_on_exit=False)
    with sessionwatch.watching("telemetry", log=False) as watch:
        watch.telemetry.use(provider)
        read(shop)
        for reader in readers:
            assert Readings(reader, provider).values(CLOSED) == {("read_only", "sync"): 1}
    provider.shutdown()
