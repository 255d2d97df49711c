"""What an installation changes in SQLAlchemy, it changes back exactly."""

# ruff: noqa: F811

from __future__ import annotations

import gc
import importlib
import inspect
import logging
import sys
from typing import Any

import pytest
import wrapt
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import Engine, event, select
from sqlalchemy.event import registry
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, SessionEvents, SessionTransaction
from sqlalchemy.orm.exc import DetachedInstanceError

import sessionwatch
from sessionwatch import places, rules
from sessionwatch.hooks import installing
from sessionwatch.hooks.context import Hook
from sessionwatch.hooks.table import HOOKS
from sessionwatch.model import MODES, Level, Mode
from sessionwatch.record.key import KEY
from sessionwatch.telemetry.instruments import TOTALS, Totals
from sessionwatch.units import scope
from sessionwatch.watch import installation
from tests.programs.shop import (  # noqa: F401 (fixtures)
    Order,
    _our_errors_raise,
    async_file_engine,
    change,
    leak,
    lose,
    read,
    reuse,
    shop,
)
from tests.telemetry.readings import metrics_of

OFF: dict[str, Level] = {rule.slug: "off" for rule in rules.ALL}
EVENTS = [name for name in dir(SessionEvents) if hasattr(Session.dispatch, name) and not name.startswith("_")]


SPELLED = [hook.place.spelled() for hook in HOOKS]


def served(hook: Hook) -> set[str]:
    """The rules that handle an event which the hook makes."""
    return {rule.slug for rule in rules.ALL if any(issubclass(kind, hook.makes) for kind in rule.events)}


def needing(hook: Hook) -> set[str]:
    """The rules that handle an event which the hook makes, or that need what it replaces for another reason."""
    kinds = (*hook.makes, *getattr(hook.place, "needs", ()))
    return {rule.slug for rule in rules.ALL if any(issubclass(kind, kinds) for kind in rule.events)}


class Custom(Session):
    """A subclass that exists before the installation."""


def owners() -> dict[str, Any]:
    """Every class and module that a hook names."""
    found = {}
    for module_name, owner, _ in SPELLED:
        module = importlib.import_module(module_name)
        found[f"{module_name}.{owner}"] = getattr(module, owner) if owner else module
    return found


def listeners_of(cls: type[Session], name: str) -> list[Any]:
    """The functions that listen to an event of a class, by identity."""
    return list(getattr(cls.dispatch, name)._clslevel.get(cls, ()))


def of_sessions(listeners: dict[Any, Any]) -> dict[Any, Any]:
    """Those that listen to sessions. SQLAlchemy itself keeps an empty dictionary after a removal."""
    return {key: value for key, value in listeners.items() if value[1] in EVENTS}


def snapshot() -> dict[str, Any]:
    """All that an installation may change: class and module dictionaries, listeners, the event registry."""
    gc.collect()
    attributes = {name: dict(vars(owner)) for name, owner in owners().items()}
    listeners = {(cls.__name__, name): listeners_of(cls, name) for cls in (Session, Custom) for name in EVENTS}
    return {
        "attributes": attributes,
        "listeners": listeners,
        "keys": {key: set(value) for key, value in registry._key_to_collection.items() if key[1] in EVENTS},
        "collections": {
            key: kept for key, value in registry._collection_to_key.items() if (kept := of_sessions(value))
        },
        "units": [list(scope._listeners), list(scope._reporters)],
        "meta path": list(sys.meta_path),
        "record factory": logging.getLogRecordFactory(),
        "bases": DetachedInstanceError.__bases__,
        "root": places._root,
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for part in before:
        assert after[part] == before[part], part
    for name, attributes in before["attributes"].items():
        for key, value in attributes.items():
            assert after["attributes"][name][key] is value, f"{name}.{key}"


def test_hooks_name_what_we_think() -> None:
    """The classes that the undo tests look at are those of the table of hooks, and there are some."""
    names = {name.rpartition(".")[2] for name in owners()}
    assert {"Session", "SessionTransaction", "AsyncSession", "Connection", "InstrumentedAttribute"} <= names
    assert {"CollectionAdapter", "DetachedInstanceError", "Mutable"} <= names
    assert len(EVENTS) > 10


@pytest.mark.parametrize("mode", MODES)
def test_uninstall_restores_everything(mode: Mode) -> None:
    """After uninstall every dictionary and every event registry is what it was, object by object."""
    before = snapshot()
    watch = sessionwatch.install(mode=mode, log=False)
    assert snapshot() != before
    watch.uninstall()
    assert_same(before, snapshot())


@pytest.mark.parametrize("mode", MODES)
def test_uninstall_after_work_restores_everything(mode: Mode, shop: Engine) -> None:
    """Work and findings in between leave nothing behind either."""
    before = snapshot()
    with sessionwatch.watching(mode=mode, log=False, rules=dict.fromkeys(OFF, "log")) as watch:
        for mistake in (lose, leak, read, change, reuse):
            mistake(shop)
    assert {finding.rule for finding in watch.findings} >= {"lost-writes", "session-leak", "detached-access"}
    assert_same(before, snapshot())


async def test_uninstall_after_asyncio_restores_everything(tmp_path: Any) -> None:
    """The same for asyncio sessions."""
    before = snapshot()
    engine: AsyncEngine = await async_file_engine(tmp_path)
    with sessionwatch.watching(mode="strict", log=False):
        async with AsyncSession(engine) as session:
            await session.scalars(select(Order))
    await engine.dispose()
    assert_same(before, snapshot())


def test_uninstall_keeps_the_programs_own_listeners(shop: Engine) -> None:
    """Listeners that the program adds while we are installed stay, ours go."""
    seen: list[str] = []

    def listener(session: Session) -> None:
        seen.append("commit")

    before = snapshot()
    watch = sessionwatch.install(log=False)
    event.listen(Session, "after_commit", listener)
    try:
        watch.uninstall()
        with Session(shop) as session, session.begin():
            session.add(Order())
        assert seen == ["commit"]
        assert listeners_of(Session, "after_commit") == [listener]
    finally:
        event.remove(Session, "after_commit", listener)
    assert_same(before, snapshot())


def test_subclass_made_while_installed_keeps_no_listener(shop: Engine) -> None:
    """A Session subclass that was made during the installation has no listener of ours afterwards."""
    with sessionwatch.watching(log=False):

        class Later(Session):
            pass

        Later(shop).close()
    assert all(not listeners_of(Later, name) for name in EVENTS)
    assert all("sessionwatch" not in getattr(value, "__module__", "") for value in vars(Later).values())


def test_sessions_alive_carry_no_leftover(shop: Engine) -> None:
    """Sessions that outlive the installation lose our record, and work on."""
    with sessionwatch.watching(mode="strict", log=False):
        session = Session(shop)
        order = session.scalars(select(Order)).one()
        assert KEY in session.__dict__
    assert KEY not in session.__dict__
    order.status = "paid"
    session.commit()
    session.close()
    with Session(shop) as session:
        assert session.scalars(select(Order.status)).one() == "paid"


def test_uninstall_twice_is_once() -> None:
    """A second uninstall does nothing, also from the module and from the end of the block."""
    before = snapshot()
    with sessionwatch.install(log=False) as watch:
        watch.uninstall()
        watch.uninstall()
        sessionwatch.uninstall()
    assert_same(before, snapshot())
    assert watch.status()["installed"] is False


def test_installs_again_after_uninstall(shop: Engine) -> None:
    """A new installation after an undo works like the first."""
    for _ in range(2):
        with sessionwatch.watching(log=False) as watch:
            lose(shop)
        assert [finding.rule for finding in watch.findings] == ["lost-writes"]


@pytest.mark.parametrize("nth", [1, 5, 20])
def test_installation_that_fails_half_way_is_undone(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Where the nth hook can't be put in, those before it are taken out again, and the error is raised."""
    before = snapshot()
    real, count = installing.patch, 0

    def failing(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            raise RuntimeError("no more patches")
        return real(*args)

    monkeypatch.setattr(installing, "patch", failing)
    with pytest.raises(RuntimeError, match="no more patches"):
        sessionwatch.install(mode="strict", log=False)
    assert_same(before, snapshot())
    monkeypatch.undo()
    with sessionwatch.watching(log=False) as watch:
        assert watch.status()["installed"] is True
    assert_same(before, snapshot())


def test_listener_that_fails_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where an event listener can't be put in, after all the patches."""
    before = snapshot()
    real, count = installing.listen, 0

    def failing(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise RuntimeError("no more listeners")
        return real(*args)

    monkeypatch.setattr(installing, "listen", failing)
    with pytest.raises(RuntimeError, match="no more listeners"):
        sessionwatch.install(log=False)
    assert_same(before, snapshot())


# -- somebody wraps over us ---------------------------------------------------------------------------


def test_wrapper_over_ours_stays_and_ours_passes_through(
    shop: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where somebody replaced our replacement, the undo leaves theirs, says so, and we do nothing from then on."""
    calls: list[str] = []
    raw = vars(Session)["_close_impl"]
    watch = sessionwatch.install(mode="strict", log=False)
    ours = Session._close_impl

    def theirs(self: Session, *args: Any, **kwargs: Any) -> None:
        calls.append("close")
        ours(self, *args, **kwargs)

    Session._close_impl = theirs  # type: ignore[method-assign]
    try:
        with caplog.at_level(logging.WARNING, "sessionwatch"):
            watch.uninstall()
        assert Session._close_impl is theirs
        warnings = [record.getMessage() for record in caplog.records]
        assert warnings == ["Session._close_impl was wrapped by somebody else; sessionwatch leaves it and does nothing"]
        lose(shop)
        assert calls == ["close"]
        assert watch.findings == []
    finally:
        Session._close_impl = raw  # type: ignore[method-assign]


def test_wrapt_over_ours_stays(shop: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The same with wrapt on a method, on a constructor and on the class of transactions."""
    places = [(Session, "__init__"), (Session, "_close_impl"), (SessionTransaction, "__init__")]
    raw = [(owner, name, vars(owner)[name]) for owner, name in places]
    calls: list[str] = []

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        calls.append(wrapped.__name__)
        return wrapped(*args, **kwargs)

    watch = sessionwatch.install(log=False)
    for owner, name in places:
        wrapt.wrap_function_wrapper(owner, name, wrapper)
    try:
        lose(shop)
        assert [finding.rule for finding in watch.findings] == ["lost-writes"]
        watch.uninstall()
        assert len(caplog.records) == len(places)
        calls.clear()
        with Session(shop) as session, session.begin():
            session.add(Order(id=7))
        with Session(shop) as session:
            assert session.get(Order, 7) is not None
        assert set(calls) == {"__init__", "_close_impl"}
        assert [finding.rule for finding in watch.findings] == ["lost-writes"]
        with sessionwatch.watching(log=False) as second:  # over theirs, which is over our silent first
            lose(shop)
        assert [finding.count for finding in second.findings] == [1]
    finally:
        for owner, name, value in raw:
            setattr(owner, name, value)


def test_wrapper_beneath_ours_comes_back(shop: Engine) -> None:
    """A patch that was there before us is what the undo restores."""
    raw = vars(Session)["_close_impl"]

    def earlier(self: Session, *args: Any, **kwargs: Any) -> None:
        raw(self, *args, **kwargs)

    Session._close_impl = earlier  # type: ignore[method-assign]
    try:
        with sessionwatch.watching(log=False):
            lose(shop)
        assert vars(Session)["_close_impl"] is earlier
    finally:
        Session._close_impl = raw  # type: ignore[method-assign]


# -- what is missing, and what is not needed ----------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "lost"),
    [
        (hook, needing(hook))
        for hook in HOOKS
        if not hook.optional
        and hook.place.spelled()[2].startswith("_")
        and not hook.place.spelled()[2].startswith("__")
    ],
    ids=lambda value: str(getattr(value, "place", "")),
)
def test_missing_private_name_turns_off_what_needs_it(
    hook: Hook, lost: set[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A private name that a SQLAlchemy is without turns off exactly the rules that need it, in one warning."""
    module_name, owner_name, name = hook.place.spelled()
    module = importlib.import_module(module_name)
    with monkeypatch.context() as patched:
        patched.delattr(getattr(module, owner_name) if owner_name else module, name)
        before = snapshot()
        with sessionwatch.watching(mode="strict", log=False) as watch:
            assert {slug for slug, level in watch.config.levels.items() if level == "off"} == lost
            status = watch.status()["rules"]
            assert all(str(hook.place) in status[slug]["from"] for slug in lost)
        assert_same(before, snapshot())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert all(slug in record.getMessage() for slug in lost)
    assert str(hook.place) in record.getMessage()


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook.place.takes], ids=lambda hook: hook.place.spelled()[2])
def test_unknown_parameters_turn_off_what_needs_them(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shop: Engine
) -> None:
    """A SQLAlchemy whose function takes something else is left alone, and works as it does."""
    owner = getattr(importlib.import_module(hook.place.spelled()[0]), hook.place.spelled()[1])
    original = vars(owner)[hook.place.spelled()[2]]

    def changed(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    signature = inspect.signature(original)
    more = inspect.Parameter("more", inspect.Parameter.KEYWORD_ONLY, default=None)
    changed.__signature__ = signature.replace(parameters=[*signature.parameters.values(), more])  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(owner, hook.place.spelled()[2], changed)
        with sessionwatch.watching(mode="strict", log=False) as watch:
            assert {slug for slug, level in watch.config.levels.items() if level == "off"} >= needing(hook)
            assert vars(owner)[hook.place.spelled()[2]] is changed
            with Session(shop) as session:
                session.add(Order(status="new"))
                session.commit()
                session.expunge_all()
    assert hook.place.spelled()[2] in caplog.records[0].getMessage()


def test_missing_name_of_a_rule_that_is_off_is_no_news(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said about a name that no enabled rule needs."""
    from sqlalchemy.orm import loading

    with monkeypatch.context() as patched:
        patched.delattr(loading, "_new_runid")
        off = {slug: OFF[slug] for hook in HOOKS if "_new_runid" in str(hook.place) for slug in needing(hook)}
        with sessionwatch.watching(log=False, rules=off) as watch:
            assert watch.config.levels["lost-writes"] == "log"
    assert caplog.records == []


def patched() -> set[str]:
    """The names that are ours now."""
    found = set()
    for module_name, owner_name, name in SPELLED:
        module = importlib.import_module(module_name)
        owner = getattr(module, owner_name) if owner_name else module
        value = vars(owner).get(name)
        getter = getattr(value, "fget", None)  # of a property; a context manager's is wrapped once more
        value = inspect.unwrap(getter) if getter is not None else getattr(value, "__func__", value)
        told = getattr(value, "pattern", None) or getattr(getattr(value, "__code__", None), "co_filename", "")
        if "sessionwatch" in told:
            found.add(f"{owner_name}.{name}")
    return found


def test_all_rules_off_installs_nothing() -> None:
    """With every rule off, SQLAlchemy is untouched even while installed."""
    before = snapshot()
    with sessionwatch.watching(log=False, rules=OFF):
        now = snapshot()
        assert now["attributes"] == before["attributes"]
        assert now["listeners"] == before["listeners"]
        assert patched() == set()


@pytest.mark.parametrize(
    "env",
    [{"SESSIONWATCH_MODE": "off"}, {"SESSIONWATCH_RULES": "all=off"}],
    ids=["mode off", "all rules off"],
)
@pytest.mark.parametrize("mode", ["log", "strict"])
def test_switched_off_from_outside(
    mode: Mode, env: dict[str, str], shop: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is hooked, and no metric says of sessions that nobody counts that there are none."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    vars(TOTALS).update(vars(Totals()))  # what earlier installations counted stays with the readers
    reader = InMemoryMetricReader()
    providers = {"meter_provider": MeterProvider([reader], shutdown_on_exit=False)}
    before = snapshot()
    with installation.install(mode=mode, log=False, providers=providers) as watch:
        assert patched() == set()
        assert snapshot()["listeners"] == before["listeners"]
        lose(shop)
        watch.status()
        watch.pause()
        watch.resume()
        assert metrics_of(reader.get_metrics_data()) == {}
        assert watch.findings == []
    assert_same(before, snapshot())


def test_one_rule_is_enough_for_metrics(shop: Engine) -> None:
    """With a rule that is on, what is counted is exported."""
    reader = InMemoryMetricReader()
    providers = {"meter_provider": MeterProvider([reader], shutdown_on_exit=False)}
    with installation.install(rules={**OFF, "lost-writes": "log"}, log=False, providers=providers):
        lose(shop)
        assert metrics_of(reader.get_metrics_data())


@pytest.mark.parametrize("slug", OFF)
def test_one_rule_installs_only_what_it_needs(slug: str) -> None:
    """With one rule on, the hooks are exactly those that name it in the table."""
    wanted = {f"{owner}.{name}" for (_, owner, name), hook in zip(SPELLED, HOOKS, strict=True) if slug in served(hook)}
    with sessionwatch.watching(log=False, rules={**OFF, slug: "log"}):
        assert patched() == wanted
    assert patched() == set()


def test_log_mode_leaves_attribute_reads_alone() -> None:
    """Development costs an attribute read nothing: only the rule detached-touch replaces it, in strict mode."""
    with sessionwatch.watching(log=False):
        assert "InstrumentedAttribute.__get__" not in patched()
    with sessionwatch.watching(mode="strict", log=False):
        assert "InstrumentedAttribute.__get__" in patched()


def test_telemetry_counts_with_all_rules_off(shop: Engine) -> None:
    """Telemetry keeps the hooks that counting needs, though every rule is off."""
    with sessionwatch.watching(mode="telemetry", rules=OFF, log=False) as watch:
        assert {"Session.__init__", "Session._close_impl"} <= patched()
        lose(shop)
        assert watch.status()["sessions"]["closed"]
    assert watch.findings == []
