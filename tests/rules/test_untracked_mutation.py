"""The rule ``untracked-mutation``: values changed in place, and commits that did not write them."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    JSON,
    Engine,
    Integer,
    PickleType,
    String,
    TypeDecorator,
    create_engine,
    event,
    select,
    text,
)
from sqlalchemy.event import registry
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.orm import Mapped, Mapper, Session, composite, mapped_column
from sqlalchemy.orm.attributes import flag_modified, set_committed_value
from sqlalchemy.pool import QueuePool

import sessionwatch
from sessionwatch import FindingError
from sessionwatch.hooks.mutation import fingerprint
from sessionwatch.output.messages import render
from sessionwatch.watch.watch import Watch
from tests.models import Base, create
from tests.rules.places import evidence_line, is_idle, labels, line, only

RULE = "untracked-mutation"


class Settings:
    """An object that is stored as a pickle."""

    def __init__(self, mail: bool) -> None:
        self.mail = mail

    @cached_property
    def word(self) -> str:
        """What a read fills in."""
        return "yes" if self.mail else "no"


class Words(TypeDecorator[list[str]]):
    """A list that is stored as text."""

    impl = String(100)
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, dialect: Any) -> str | None:
        return None if value is None else " ".join(value)

    def process_result_value(self, value: str | None, dialect: Any) -> list[str] | None:
        return None if value is None else value.split()


class Box(Base):
    """Each kind of value that can change in place."""

    __tablename__ = "mutation_boxes"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), default="box")
    data: Mapped[Any] = mapped_column(JSON())
    tracked: Mapped[dict[str, Any] | None] = mapped_column(MutableDict.as_mutable(JSON()))
    lines: Mapped[list[Any] | None] = mapped_column(MutableList.as_mutable(JSON()))
    pickled: Mapped[Any] = mapped_column(PickleType(), nullable=True)
    words: Mapped[list[str] | None] = mapped_column(Words())


@dataclass
class Size:
    """Two columns as one value."""

    width: int
    height: int


class Crate(Base):
    """A value made of two columns is no column."""

    __tablename__ = "mutation_crates"

    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[Any] = mapped_column(JSON())
    size: Mapped[Size] = composite(mapped_column("width"), mapped_column("height"))


class SpecialBox(Box):
    """A subclass in the same table."""

    special: Mapped[Any] = mapped_column(JSON(), nullable=True)


class Rack(Base):
    """A row with an array, which PostgreSQL alone has."""

    __tablename__ = "mutation_racks"

    id: Mapped[int] = mapped_column(primary_key=True)
    places: Mapped[list[int]] = mapped_column(ARRAY(Integer))


@pytest.fixture
def boxes(engine: Engine) -> Engine:
    """A sync engine with one box of each database."""
    fill(engine)
    return engine


@pytest.fixture
def memory() -> Iterator[Engine]:
    """The same in memory, with a pool that counts its connections."""
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0)
    fill(engine)
    yield engine
    engine.dispose()


@pytest.fixture
async def async_boxes(async_engine: AsyncEngine) -> AsyncEngine:
    """The same for asyncio."""
    async with async_engine.begin() as connection:
        await connection.run_sync(create, Box, Crate)
    async with AsyncSession(async_engine) as session:
        session.add(box())
        await session.commit()
    return async_engine


def fill(engine: Engine) -> None:
    create(engine, Box, Crate)
    with Session(engine) as session:
        session.add(box())
        session.commit()


def box() -> Box:
    """A box with something in every column."""
    data = {"mail": True, "deep": {"list": [1, 2]}}
    settings = Settings(mail=True)
    return Box(data=data, tracked={"mail": True}, lines=[1], pickled=settings, words=["a", "b"])


def get(session: Session) -> Box:
    """The box."""
    return session.scalars(select(Box)).one()  # query


def in_a_dict(box: Box) -> None:
    box.data["mail"] = False


def deep_in_a_list(box: Box) -> None:
    box.data["deep"]["list"].append(3)


def in_a_pickled_object(box: Box) -> None:
    box.pickled.mail = False


def in_a_decorated_list(box: Box) -> None:
    assert box.words is not None
    box.words.append("c")


def set_an_equal_one(box: Box) -> None:
    data = box.data
    data["mail"] = False
    box.data = dict(data)  # equals what SQLAlchemy believes to be stored


def set_again(box: Box) -> None:
    data = box.data
    data["mail"] = False
    box.data = data  # the same object: no change for SQLAlchemy


CHANGES: list[tuple[Callable[[Box], None], str, str]] = [
    (in_a_dict, "Box.data", "MutableDict.as_mutable(JSON)"),
    (deep_in_a_list, "Box.data", "MutableDict.as_mutable(JSON)"),
    (in_a_pickled_object, "Box.pickled", 'flag_modified(box, "pickled")'),
    (in_a_decorated_list, "Box.words", "MutableList.as_mutable(Words)"),
    (set_an_equal_one, "Box.data", "MutableDict.as_mutable(JSON)"),
    (set_again, "Box.data", "MutableDict.as_mutable(JSON)"),
]


# -- reports --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "subject", "fix"), CHANGES, ids=[change[0].__name__ for change in CHANGES])
def test_reports(log: Watch, memory: Engine, change: Callable[[Box], None], subject: str, fix: str) -> None:
    """Each kind of value is a finding at the commit, with a fix for its kind."""
    with Session(memory) as session:
        change(get(session))
        gc.collect()
        session.commit()
    assert log.findings == []  # the instance was dropped before the commit: nothing is known of it
    with Session(memory) as session:
        kept = get(session)
        change(kept)
        session.commit()  # commit
    finding = only(log, RULE)
    assert (finding.subject, finding.line) == (subject, line("commit"))
    assert fix in finding.fix


def test_reports_the_message_on_every_database(log: Watch, boxes: Engine) -> None:
    """The evidence names the commit, the query and the session, and the text is exact."""
    with Session(boxes) as session:  # session
        kept = get(session)
        kept.data["mail"] = False
        session.commit()  # nothing written
        assert kept.data["mail"] is True
    finding = only(log, RULE)
    assert labels(finding) == ["committed", "loaded", "opened"]
    path, here = finding.path, "in test_reports_the_message_on_every_database"
    label = finding.evidence[0].session
    assert evidence_line(finding, "loaded") == line("query")
    assert render(finding).splitlines() == [
        "untracked-mutation: Box.data was changed in place, and the commit wrote nothing of it",
        f"  committed  {path}:{line('nothing written')} {here}     session {label}",
        f"  loaded     {path}:{line('query')} in get",
        f"  opened     {path}:{line('session')} {here}     session {label}",
        "  fix: let SQLAlchemy notice: data = mapped_column(MutableDict.as_mutable(JSON));",
        '       or say so before the commit: flag_modified(box, "data")',
        "  more: sessionwatch explain untracked-mutation",
    ]
    assert is_idle(boxes)


def test_reports_beside_a_change_that_is_written(log: Watch, memory: Engine) -> None:
    """An UPDATE of another column does not write the value."""
    with Session(memory) as session:
        kept = get(session)
        kept.name, kept.data["mail"] = "crate", False
        session.commit()  # beside
    assert only(log, RULE).line == line("beside")


def test_reports_a_change_after_the_insert(log: Watch, memory: Engine) -> None:
    """A new object's value is written by the flush, and what changes later is not."""
    with Session(memory) as session:
        new = box()
        session.add(new)
        session.flush()
        new.data["mail"] = False
        session.commit()  # after the insert
    assert only(log, RULE).line == line("after the insert")


def test_reports_a_change_after_a_commit(log: Watch, memory: Engine) -> None:
    """Values that a commit kept, and those that it expired and were loaded again, are watched further."""
    for keep in (True, False):
        with Session(memory, expire_on_commit=keep) as session:
            kept = get(session)
            kept.data = {"mail": True}
            session.commit()
            kept.data["mail"] = False
            session.commit()  # second commit
    finding = only(log, RULE)
    assert (finding.line, finding.count) == (line("second commit"), 2)


def test_reports_once_a_change(log: Watch, memory: Engine) -> None:
    """A further commit of the same value is no news."""
    with Session(memory, expire_on_commit=False) as session:
        kept = get(session)
        kept.data["mail"] = False
        session.commit()
        session.commit()
    assert only(log, RULE).count == 1


def test_reports_an_array(log: Watch, postgres_url: Any) -> None:
    """An array's items are part of the fix."""
    engine = create_engine(postgres_url)
    create(engine, Rack)
    with Session(engine) as session:
        session.add(Rack(places=[1, 2]))
        session.commit()
        rack = session.scalars(select(Rack)).one()
        rack.places.append(3)
        session.commit()
    finding = only(log, RULE)
    assert finding.subject == "Rack.places"
    assert "places = mapped_column(MutableList.as_mutable(ARRAY(Integer)))" in finding.fix
    engine.dispose()


def test_reports_a_subclass(log: Watch, memory: Engine) -> None:
    """A subclass is watched with its own columns and those of its parent."""
    with Session(memory) as session:
        new = SpecialBox(data=[1], special=[2])
        session.add(new)
        session.flush()
        new.data.append(3)
        new.special.append(4)
        session.commit()
    assert sorted(finding.subject for finding in log.findings) == ["SpecialBox.data", "SpecialBox.special"]


def test_reports_a_mapping_of_later(log: Watch) -> None:
    """A class that is mapped after the installation is watched as well."""

    class Later(Base):
        __tablename__ = "mutation_later"

        id: Mapped[int] = mapped_column(primary_key=True)
        data: Mapped[Any] = mapped_column(JSON())

    engine = create_engine("sqlite://")
    create(engine, Later)
    with Session(engine) as session:
        later = Later(data={})
        session.add(later)
        session.flush()
        later.data["mail"] = True
        session.commit()
    assert only(log, RULE).subject == "Later.data"


async def test_reports_under_asyncio(log: Watch, async_boxes: AsyncEngine) -> None:
    """The same through AsyncSession."""
    async with AsyncSession(async_boxes) as session:
        kept = (await session.scalars(select(Box))).one()
        kept.data["mail"] = False
        await session.commit()  # async commit
    assert only(log, RULE).line == line("async commit")
    assert is_idle(async_boxes)


# -- strict mode ----------------------------------------------------------------------------------------


def change_and_commit(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        kept = get(session)
        kept.name, kept.data["mail"] = "crate", False


async def change_and_commit_async(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        kept = (await session.scalars(select(Box))).one()
        kept.name, kept.data["mail"] = "crate", False
        await session.commit()


def test_strict_raises_before_the_commit(strict: Watch, boxes: Engine) -> None:
    """It is on in strict mode, raises before anything is committed, and leaves the pool idle."""
    with pytest.raises(FindingError, match="changed in place"):
        change_and_commit(boxes)
    assert is_idle(boxes)
    with boxes.connect() as connection:
        assert connection.execute(text("SELECT name FROM mutation_boxes")).scalar() == "box"
    only(strict, RULE)


def test_strict_leaves_the_session_usable(strict: Watch, boxes: Engine) -> None:
    """After the refused commit a rollback is all that a session needs."""
    with Session(boxes) as session:
        kept = get(session)
        kept.data["mail"] = False
        with pytest.raises(FindingError):
            session.commit()
        session.rollback()
        assert kept.data["mail"] is True
        kept.name = "crate"
        session.commit()
    assert is_idle(boxes)
    only(strict, RULE)


async def test_strict_raises_under_asyncio(strict: Watch, async_boxes: AsyncEngine) -> None:
    """The same through AsyncSession."""
    with pytest.raises(FindingError):
        await change_and_commit_async(async_boxes)
    assert is_idle(async_boxes)
    only(strict, RULE)


def test_log_mode_leaves_it_off(watch: Watch, memory: Engine) -> None:
    """Development pays nothing for it unless it is asked for."""
    change_and_commit(memory)
    assert watch.findings == []
    assert watch.config.levels[RULE] == "off"


# -- stays silent on ------------------------------------------------------------------------------------


def flagged(box: Box) -> None:
    box.data["mail"] = False
    flag_modified(box, "data")


def assigned(box: Box) -> None:
    box.data = {**box.data, "mail": False}


def assigned_and_changed(box: Box) -> None:
    box.data = {"mail": True}
    box.data["mail"] = False


def undone(box: Box) -> None:
    box.data["mail"] = False
    box.data["new"] = 1
    del box.data["mail"], box.data["new"]
    box.data["mail"] = True


def in_a_mutable_dict(box: Box) -> None:
    assert box.tracked is not None
    box.tracked["mail"] = False


def in_a_mutable_list(box: Box) -> None:
    assert box.lines is not None
    box.lines.append({"new": 2})


def only_read(box: Box) -> None:
    assert box.data["deep"]["list"] == [1, 2]
    assert box.pickled.mail
    assert box.pickled.word == "yes"


def set_as_committed(box: Box) -> None:
    set_committed_value(box, "data", {"mail": False})


def set_to_nothing(box: Box) -> None:
    box.pickled = None


SILENT = [
    flagged,
    assigned,
    assigned_and_changed,
    undone,
    in_a_mutable_dict,
    in_a_mutable_list,
    only_read,
    set_as_committed,
    set_to_nothing,
]


@pytest.mark.parametrize("change", SILENT, ids=[change.__name__ for change in SILENT])
def test_ignores(strict: Watch, boxes: Engine, change: Callable[[Box], None]) -> None:
    """What is written, or needs no writing, is no finding, in this commit and in the next one."""
    with Session(boxes, expire_on_commit=False) as session:
        kept = get(session)
        change(kept)
        session.commit()
        session.commit()
    assert strict.findings == []


@pytest.mark.parametrize("change", SILENT, ids=[change.__name__ for change in SILENT])
async def test_ignores_under_asyncio(strict: Watch, async_boxes: AsyncEngine, change: Callable[[Box], None]) -> None:
    """The same through AsyncSession."""
    async with AsyncSession(async_boxes) as session:
        change((await session.scalars(select(Box))).one())
        await session.commit()
    assert strict.findings == []
    assert is_idle(async_boxes)


def test_ignores_composites(strict: Watch, memory: Engine) -> None:
    """A composite is written by the columns that it is made of."""
    with Session(memory) as session:
        session.add(Crate(data={}, size=Size(1, 2)))
        session.commit()
        crate = session.scalars(select(Crate)).one()
        assert crate.size == Size(1, 2)
        crate.size = Size(2, 2)
        session.commit()
    assert strict.findings == []


def test_ignores_a_session_that_does_not_commit(strict: Watch, boxes: Engine) -> None:
    """Without a commit nothing was to be written."""
    with Session(boxes) as session:
        kept = get(session)
        kept.data["mail"] = False
    with Session(boxes) as session:
        kept = get(session)
        kept.data["mail"] = False
        session.rollback()
        session.commit()
    assert strict.findings == []


def test_ignores_what_was_expired_or_refreshed(strict: Watch, boxes: Engine) -> None:
    """A value that was thrown away before the commit is not missed."""
    with Session(boxes) as session:
        kept = get(session)
        kept.data["mail"] = False
        session.refresh(kept)
        session.commit()
        kept.data["mail"] = False
        session.expire(kept)
        session.commit()
    assert strict.findings == []


def test_ignores_what_was_deleted(strict: Watch, boxes: Engine) -> None:
    """A row that is gone has no value to write."""
    with Session(boxes) as session:
        kept = get(session)
        kept.data["mail"] = False
        session.delete(kept)
        session.commit()
    assert strict.findings == []


def test_ignores_what_a_listener_flags(strict: Watch, boxes: Engine) -> None:
    """A program may have its own way to notice, in a listener to the flush."""

    def flag(session: Session, context: object, instances: object) -> None:
        for instance in session.dirty:
            flag_modified(instance, "data")

    with Session(boxes) as session:
        event.listen(session, "before_flush", flag)
        kept = get(session)
        kept.name, kept.data["mail"] = "crate", False
        session.commit()
        assert kept.data["mail"] is False
    assert strict.findings == []


def test_ignores_a_savepoint(strict: Watch, boxes: Engine) -> None:
    """The end of a savepoint is not the commit: the program may still flag the value."""
    with Session(boxes) as session:
        kept = get(session)
        with session.begin_nested():
            kept.data["mail"] = False
        flag_modified(kept, "data")
        session.commit()
    assert strict.findings == []


def test_ignores_a_copy(strict: Watch, boxes: Engine) -> None:
    """An instance that no session holds is not committed."""
    with Session(boxes) as session:
        kept = get(session)
        copy = pickle.loads(pickle.dumps(kept))
        copy.data["mail"] = False
        session.expunge(kept)
        session.commit()
    assert strict.findings == []


def test_ignores_what_is_allowed(strict: Watch, memory: Engine) -> None:
    """An allowance with a reason covers the commit."""
    with sessionwatch.allow(RULE, reason="for display"):
        change_and_commit(memory)
    assert strict.findings == []
    assert [finding.rule for finding in strict.allowed] == [RULE]


# -- fingerprints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (-1, -2),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": None}),
        ({"a": {}}, {"a": []}),
        ({1, 2}, {1, 3}),
        ([[1], []], [[], [1]]),
        (bytearray(b"a"), bytearray(b"b")),
        (Settings(mail=True), Settings(mail=False)),
    ],
)
def test_fingerprints_differ(one: Any, other: Any) -> None:
    """Values that are stored differently have different fingerprints, and equal copies have the same."""
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(pickle.loads(pickle.dumps(one)))


def test_order_of_keys_is_no_change() -> None:
    """A dictionary is what it holds."""
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_what_cannot_be_told_has_no_fingerprint() -> None:
    """A value that contains itself is left alone."""
    endless: list[Any] = []
    endless.append(endless)
    assert fingerprint(endless) is None


# -- undo -----------------------------------------------------------------------------------------------


def listeners() -> dict[Any, Any]:
    """Every listener to mappers and instances that SQLAlchemy knows of."""
    names = {"load", "refresh", "after_insert", "after_update", "mapper_configured"}
    return {key: set(value) for key, value in registry._key_to_collection.items() if key[1] in names and value}


def test_undo_is_exact(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After uninstall the mappings have the listeners that they had."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    gc.collect()
    before = listeners()
    counts = [len(list(Box.__mapper__.dispatch.after_insert)), len(list(Mapper.dispatch.mapper_configured._clslevel))]
    with sessionwatch.watching("strict", log=False):
        change_quietly(memory)
        assert len(list(Box.__mapper__.dispatch.after_insert)) == counts[0] + 1
    gc.collect()
    assert listeners() == before
    assert counts == [
        len(list(Box.__mapper__.dispatch.after_insert)),
        len(list(Mapper.dispatch.mapper_configured._clslevel)),
    ]


def change_quietly(engine: Engine) -> None:
    with Session(engine) as session:
        get(session).name = "crate"
        session.commit()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Installed in mode ``log`` with this rule, which is off there by default."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    sessionwatch.uninstall()
    rules = {RULE: "log", "config": "off"}  # SQLite engines made in tests are plain
    with sessionwatch.watching("log", rules=rules, log=False) as installed:
        yield installed
