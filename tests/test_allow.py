"""``allow()`` and inline comments: what they cover, what they count, and which of them were of no use."""

# ruff: noqa: F811

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import ConfigError, FindingError, allow
from sessionwatch.record.allowances import active_allowances, parse_comment
from sessionwatch.watch import suppress
from sessionwatch.watch.watch import Watch
from tests.programs.shop import (  # noqa: F401 (fixtures)
    Order,
    _our_errors_raise,
    async_file_engine,
    change,
    detached,
    leak,
    lose,
    read,
    reuse,
    shop,
    touch,
)

MISTAKES = {
    "lost-writes": lose,
    "session-leak": leak,
    "detached-touch": touch,
    "detached-access": read,
    "detached-write": change,
    "use-after-close": reuse,
}


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Strict, so that whatever is not allowed raises; the async tests make their tables by a sync engine."""
    with sessionwatch.watching(
        mode="strict", rules={"detached-touch": "off", "blocking-io": "off"}, log=False
    ) as watch:
        yield watch


@pytest.fixture(autouse=True)
def _no_allowances_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppress, "_entered", {})


def only(watch: Watch) -> sessionwatch.Finding:
    """The one allowed finding; there is none that is not allowed."""
    assert watch.findings == []
    (finding,) = watch.allowed
    return finding


# -- forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", MISTAKES)
def test_block_covers_each_rule(slug: str, shop: Engine) -> None:
    """In an allowed block a mistake of the rule raises nothing, and is kept among the allowed."""
    off: Any = {other: "off" for other in MISTAKES if other != slug}
    with sessionwatch.watching(mode="strict", rules=off, log=False) as watch:
        with allow(slug, reason="on purpose"):
            MISTAKES[slug](shop)
        watch.drain()
        finding = only(watch)
        assert (finding.rule, finding.allowed, finding.raised) == (slug, "on purpose", False)


@pytest.mark.parametrize("slug", ["lost-writes", "use-after-close"])
def test_same_without_allowance_raises(slug: str, shop: Engine, watch: Watch) -> None:
    """Outside of the block the same mistake raises."""
    with pytest.raises(FindingError):
        MISTAKES[slug](shop)
    assert watch.allowed == []


async def test_async_with(tmp_path: Path, watch: Watch) -> None:
    """``async with`` is the same."""
    engine = await async_file_engine(tmp_path)
    async with allow("lost-writes", reason="dry run"), AsyncSession(engine) as session:
        session.add(Order())
        await session.flush()
    await engine.dispose()
    assert only(watch).rule == "lost-writes"


def test_decorator_on_a_function(shop: Engine, watch: Watch) -> None:
    """A decorated function is covered at each call, keeps its name and its result."""

    @allow("lost-writes", reason="dry run")
    def dry_run(number: int) -> int:
        """Runs dry."""
        lose(shop)
        return number

    assert [dry_run(1), dry_run(2)] == [1, 2]
    assert (dry_run.__name__, dry_run.__doc__) == ("dry_run", "Runs dry.")
    assert only(watch).count == 2
    with pytest.raises(FindingError):
        lose(shop)


async def test_decorator_on_a_coroutine(tmp_path: Path, watch: Watch) -> None:
    """A decorated coroutine function stays one, and is covered across its awaits."""
    engine = await async_file_engine(tmp_path)

    @allow("lost-writes", reason="dry run")
    async def dry_run() -> str:
        await asyncio.sleep(0)
        async with AsyncSession(engine) as session:
            session.add(Order())
            await session.flush()
        return "done"

    assert asyncio.iscoroutinefunction(dry_run)
    assert await dry_run() == "done"
    await engine.dispose()
    assert only(watch).allowed == "dry run"


def test_decorator_on_a_generator(shop: Engine, watch: Watch) -> None:
    """A decorated generator function stays one; values go in, values and the result come out."""

    @allow("lost-writes", reason="dry run")
    def steps() -> Any:
        sent = yield "first"
        lose(shop)
        return sent

    generator = steps()
    assert next(generator) == "first"
    with pytest.raises(StopIteration) as stopped:
        generator.send("back")
    assert stopped.value.value == "back"
    assert only(watch).rule == "lost-writes"


def test_decorator_refuses_async_generators() -> None:
    """An async generator function can't be decorated, and the error says what to do."""
    with pytest.raises(TypeError, match=r"numbers is an async generator: put the with block inside of it"):

        @allow("lost-writes", reason="dry run")
        async def numbers() -> Any:
            yield 1


def test_several_rules_at_once(shop: Engine, watch: Watch) -> None:
    """One allowance may name several rules."""
    with allow("lost-writes", "use-after-close", reason="legacy"):
        lose(shop)
        reuse(shop)
    assert {finding.rule for finding in watch.allowed} == {"lost-writes", "use-after-close"}
    assert watch.unused_allowances() == []


def test_one_allowance_is_reentrant(shop: Engine, watch: Watch) -> None:
    """One object may be entered again while it is active."""
    block = allow("lost-writes", reason="dry run")
    with block, block:
        lose(shop)
    with block:
        lose(shop)
    assert only(watch).count == 2
    assert active_allowances() == ()


# -- mistakes in the allowance ------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_reason_is_required(reason: Any) -> None:
    """An empty reason is refused."""
    with pytest.raises(ConfigError, match=r"allow\('lost-writes'\) needs a reason"):
        allow("lost-writes", reason=reason)
    with pytest.raises(TypeError, match="reason"):
        allow("lost-writes")  # type: ignore[call-arg]


def test_rules_are_checked() -> None:
    """An unknown rule is refused with the nearest name; no rule at all is refused."""
    with pytest.raises(ConfigError, match=r"unknown rule 'lost-write'\. Did you mean 'lost-writes'\?"):
        allow("lost-write", reason="x")
    with pytest.raises(ConfigError, match="at least one rule"):
        allow(reason="x")
    allow("n-plus-one", reason="x")


# -- reach --------------------------------------------------------------------------------------------


def test_session_opened_inside_is_covered_for_its_life(shop: Engine, watch: Watch) -> None:
    """The allowance that was active where a session was opened covers its end outside of the block."""
    with allow("lost-writes", reason="dry run"):
        session = Session(shop)
    lose(shop, session)
    assert only(watch).allowed == "dry run"


def test_session_opened_before_is_covered_where_it_ends(shop: Engine, watch: Watch) -> None:
    """An allowance around the close is enough."""
    session = Session(shop)
    session.add(Order())
    session.flush()
    with allow("lost-writes", reason="dry run"):
        session.close()
    assert only(watch).allowed == "dry run"


def test_collected_session_is_covered_by_where_it_was_opened(shop: Engine, watch: Watch) -> None:
    """A session that the collector finds later is covered by the block that it was opened in."""
    with allow("session-leak", reason="kept by the pool"):
        session = Session(shop)
        session.scalars(select(Order)).all()
    del session
    gc.collect()
    assert only(watch).rule == "session-leak"


def test_change_is_covered_where_it_is_made(shop: Engine, watch: Watch) -> None:
    """A change to a detached instance is covered by the block in which it was made, not reported."""
    order = detached(shop)
    with allow("detached-write", reason="for display"):
        order.status = "shown"
    watch.drain()
    assert only(watch).rule == "detached-write"


def test_innermost_allowance_gives_the_reason(shop: Engine, watch: Watch) -> None:
    """Of nested allowances of one rule the innermost gives the reason, and the outer one is unused."""
    with allow("lost-writes", reason="outer"), allow("session-leak", reason="other"):  # noqa: SIM117
        with allow("lost-writes", reason="inner"):
            lose(shop)
    assert only(watch).allowed == "inner"
    assert sorted(item.reason for item in watch.unused_allowances()) == ["other", "outer"]


def test_expunged_inside_is_no_touch(shop: Engine) -> None:
    """Objects that are expunged inside ``allow("detached-touch")`` may be read ever after."""
    with sessionwatch.watching(mode="strict", log=False) as watch:
        with Session(shop) as session:
            order = session.scalars(select(Order)).one()
            with allow("detached-touch", reason="a cache"):
                session.expunge(order)
        assert order.status == "new"
        assert watch.findings == []
        assert watch.unused_allowances() == []


async def test_tasks_started_inside_are_covered_and_others_not(tmp_path: Path) -> None:
    """A task that is started in the block is covered, one that was started before is not."""
    engine = await async_file_engine(tmp_path)
    entered, left = asyncio.Event(), asyncio.Event()

    async def job(gate: asyncio.Event) -> None:
        await gate.wait()
        async with AsyncSession(engine) as session:
            session.add(Order())
            await session.flush()

    with sessionwatch.watching(rules={"detached-touch": "off"}, log=False) as watch:
        before = asyncio.create_task(job(entered))
        with allow("lost-writes", reason="dry run"):
            inside = asyncio.create_task(job(left))
            entered.set()
            await before
        left.set()
        await inside
        assert [finding.count for finding in watch.findings] == [1]
        assert [finding.count for finding in watch.allowed] == [1]
    await engine.dispose()


def test_threads_are_their_own(shop: Engine) -> None:
    """A plain thread is not covered by the block that starts it; one that runs in its context is."""
    with sessionwatch.watching(log=False) as watch, allow("lost-writes", reason="dry run"):
        bare = threading.Thread(target=lose, args=(shop,))
        bare.start()
        bare.join()
        assert [finding.count for finding in watch.findings] == [1]
        within = threading.Thread(target=contextvars.copy_context().run, args=(lose, shop))
        within.start()
        within.join()
        assert [finding.count for finding in watch.findings] == [1]
        assert [finding.count for finding in watch.allowed] == [1]


def test_exception_leaves_the_block_clean(shop: Engine, watch: Watch) -> None:
    """After an exception the allowance is gone."""
    with pytest.raises(ZeroDivisionError), allow("lost-writes", reason="dry run"):
        raise ZeroDivisionError
    with pytest.raises(FindingError):
        lose(shop)


# -- comments -----------------------------------------------------------------------------------------

COMMENTED = """
from sqlalchemy.orm import Session
from tests.programs.shop import Order

def dry_run(engine):
    session = Session(engine)
    session.add(Order())
    session.flush()
    session.close(){comment}

def quiet():
    pass{other}
"""


def run_commented(folder: Path, engine: Engine, comment: str, other: str = "") -> str:
    """Run a program with a comment on the line that its finding points to."""
    path = folder / "commented.py"
    path.write_text(COMMENTED.format(comment=comment, other=other))
    space: dict[str, Any] = {"__name__": "commented", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), space)
    space["dry_run"](engine)
    return str(path)


@pytest.mark.parametrize(
    "comment",
    [
        "  # sessionwatch: allow lost-writes -- a dry run",
        "  # sessionwatch: allow session-leak, lost-writes -- a dry run",
        "  # noqa  # sessionwatch:allow lost-writes  --  a dry run",
    ],
)
def test_comment_with_a_reason(comment: str, tmp_path: Path, shop: Engine, watch: Watch) -> None:
    """A comment on the line that the finding points to allows it."""
    run_commented(tmp_path, shop, comment)
    assert only(watch).allowed == "a dry run"
    assert watch.unused_allowances() == []


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ("  # sessionwatch: allow lost-writes", ""),
        ("  # sessionwatch: allow lost-writes --", ""),
        ("  # sessionwatch: allow session-leak -- another rule", "another rule"),
    ],
)
def test_comment_that_does_not_cover(comment: str, reason: str, tmp_path: Path, shop: Engine, watch: Watch) -> None:
    """A comment without a reason, or of another rule, is not honoured, and is listed as unused."""
    with pytest.raises(FindingError):
        run_commented(tmp_path, shop, comment)
    assert [finding.rule for finding in watch.findings] == ["lost-writes"]
    (unused,) = watch.unused_allowances()
    assert (unused.reason, unused.site and unused.site.line) == (reason, 9)


WRITE = "allows nothing; write: # sessionwatch: allow lost-writes -- the reason"


@pytest.mark.parametrize(
    ("comment", "note"),
    [
        ("  # sessionwatch: allow lost-writes", WRITE),
        ("  # sessionwatch: allow lost_writes -- a dry run", WRITE),
        ("  # sessionwatch: allow[lost-writes] -- a dry run", WRITE),
        ("  # sessionwatch: ignore", WRITE),
        (
            "  # sessionwatch: allow lost-write -- a dry run",
            "allows nothing; unknown rule 'lost-write'. Did you mean 'lost-writes'?",
        ),
    ],
)
def test_comment_with_a_mistake(comment: str, note: str, tmp_path: Path, shop: Engine, watch: Watch) -> None:
    """The story of the finding at a comment that can't be understood says what is wrong with that."""
    with pytest.raises(FindingError) as caught:
        run_commented(tmp_path, shop, comment)
    shown = next(line for line in str(caught.value).splitlines() if line.startswith("  comment "))
    assert "commented.py:9 in dry_run" in shown
    assert shown.endswith(note)


@pytest.mark.parametrize("comment", ["", "  # sessionwatch found this", "  # sessionwatch: allow session-leak -- fine"])
def test_other_comments_are_no_mistake(comment: str, tmp_path: Path, shop: Engine, watch: Watch) -> None:
    """Neither a comment about us nor one that allows another rule is told."""
    with pytest.raises(FindingError) as caught:
        run_commented(tmp_path, shop, comment)
    assert "  comment " not in str(caught.value)


def test_comment_elsewhere_is_listed(tmp_path: Path, shop: Engine, watch: Watch) -> None:
    """A comment in a file that ran, on a line without a finding, is listed with its place and reason."""
    used = "  # sessionwatch: allow lost-writes -- a dry run"
    path = run_commented(tmp_path, shop, used, "  # sessionwatch: allow lost-writes -- long gone")
    (unused,) = watch.unused_allowances()
    assert str(unused) == f"{path}:12: allow lost-writes -- long gone"


@pytest.mark.parametrize(
    "line",
    [
        "x()",
        "# sessionwatch",
        "# sessionwatch: disallow lost-writes -- x",
        "s = 'sessionwatch: allow lost-writes -- x'",
    ],
)
def test_other_comments_are_none(line: str) -> None:
    """What is not our comment is not taken for it."""
    assert parse_comment(line) is None


# -- counting -----------------------------------------------------------------------------------------


def test_allowed_findings_are_counted(shop: Engine, watch: Watch) -> None:
    """Status counts allowed findings apart from the others; subscribers see them with their reason."""
    seen: list[tuple[str | None, bool]] = []
    undo = watch.subscribe(lambda finding, first: seen.append((finding.allowed, first)))
    for _ in range(3):
        with allow("lost-writes", reason="dry run"):
            lose(shop)
    undo()
    undo()
    with allow("lost-writes", reason="dry run"):
        lose(shop)
    assert seen == [("dry run", True), ("dry run", False), ("dry run", False)]
    status = watch.status()
    assert (status["allowed"], status["findings"]) == (4, {})


def test_allowed_and_not_allowed_are_two(shop: Engine) -> None:
    """The same place with and without an allowance is counted apart, and on_finding hears of one only."""
    heard: list[sessionwatch.Finding] = []
    with sessionwatch.watching(log=False, on_finding=heard.append) as watch:
        for reason in ("dry run", None, "dry run"):
            if reason:
                with allow("lost-writes", reason=reason):
                    lose(shop)
            else:
                lose(shop)
    assert [finding.count for finding in watch.findings] == [1]
    assert [finding.count for finding in watch.allowed] == [2]
    assert heard == watch.findings


def test_unused_block_is_reported_once(shop: Engine, watch: Watch) -> None:
    """A block that matched nothing is listed once, however often it was entered; one that matched once is not."""
    for number in range(3):
        with allow("lost-writes", reason="never needed"):
            pass
        with allow("lost-writes", reason="needed once"):
            if number == 1:
                lose(shop)
    (unused,) = watch.unused_allowances()
    assert str(unused).startswith("tests/test_allow.py:") or "test_allow.py:" in str(unused)
    assert str(unused).endswith("allow lost-writes -- never needed")


def test_allowances_in_a_loop_do_not_fill_memory() -> None:
    """What is remembered of allowances is bounded by the places that make them."""
    with sessionwatch.watching(log=False):
        for _ in range(1000):
            with allow("lost-writes", reason="in a loop"):
                pass
    assert len(suppress._entered) == 1
