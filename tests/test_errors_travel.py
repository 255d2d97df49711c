"""Every exception of ours can be pickled and copied, and arrives with its story and its classes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import DetachedInstanceError

import sessionwatch
from sessionwatch.data.boundaries import InstanceError
from sessionwatch.dto import ExtractError
from sessionwatch.hooks import errors
from sessionwatch.hooks.patch import become
from sessionwatch.model import ConfigError, Evidence, Finding, FindingError, SessionwatchError, Site
from tests.models import Row, create

WAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {protocol}": lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "twice": lambda error: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error)))),
}
way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


def finding() -> Finding:
    site = Site("/shop/views.py", 41, "ship_order")
    evidence = (Evidence("closed", site, "MainThread", None, "S3"),)
    made = Finding("some-rule", "fault", "Order", "it was lost", site, evidence, "commit", {"id": "S3"}, level="raise")
    made.when_grown = lambda _: None
    return made


@way
@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (FindingError, SessionwatchError),
        (InstanceError, AssertionError),
        (errors.DetachedFindingError, DetachedInstanceError),
    ],
)
def test_findings(way: Callable[[Any], Any], kind: type[FindingError], base: type[Exception]) -> None:
    """A finding's exception keeps its class, SQLAlchemy's base class, the story, the finding and its notes."""
    error = kind(finding(), "the whole story")
    error.add_note("a note")
    arrived = way(error)
    assert type(arrived) is kind
    assert isinstance(arrived, base)
    assert str(arrived) == str(error)
    assert "the whole story" in str(arrived)
    assert arrived.__notes__ == ["a note"]
    assert arrived.finding.as_json() == error.finding.as_json()
    assert arrived.finding.evidence == error.finding.evidence


@way
@pytest.mark.parametrize(
    ("made", "strict"),
    [
        (lambda: DetachedInstanceError("not bound", code="bhk3"), errors.DetachedFindingError),
        (lambda: MissingGreenlet("await_only() here"), errors.ImplicitFindingError),
        (
            lambda: StatementError("wrapped", "SELECT ?", ({"lock": open},), MissingGreenlet("await_only() here")),
            errors.StatementFindingError,
        ),
    ],
)
def test_errors_that_became_ours(
    way: Callable[[Any], Any], made: Callable[[], Exception], strict: type[FindingError]
) -> None:
    """An error of SQLAlchemy's own that became ours stays both, with its text and its own attributes."""
    error: Any = made()
    plain = type(error)
    become(error, plain, strict, finding())
    error.add_note("the story")
    arrived = way(error)
    assert type(arrived) is strict
    assert isinstance(arrived, plain)
    assert str(arrived) == str(error)
    assert arrived.__notes__ == ["the story"]
    assert arrived.finding.fingerprint == error.finding.fingerprint
    assert vars(arrived).keys() == vars(error).keys()


@way
@pytest.mark.parametrize("error", [ConfigError("unknown"), SessionwatchError("other"), ExtractError("lacks", ("a.b",))])
def test_others(way: Callable[[Any], Any], error: Exception) -> None:
    """Our other exceptions survive as well."""
    arrived = way(error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args
    assert vars(arrived) == vars(error)


def test_what_it_holds_may_not_be_portable() -> None:
    """An attribute that can't be pickled arrives as its text, and the rest as it was."""
    error: Any = FindingError(finding(), "the story")
    error.connection = lambda: None
    arrived = pickle.loads(pickle.dumps(error))
    assert "lambda" in arrived.connection
    assert str(arrived) == "the story"


@way
def test_a_real_one(way: Callable[[Any], Any]) -> None:
    """What strict mode raises for a lost write arrives whole, also while the watch is installed."""
    engine = create_engine("sqlite://")
    create(engine, Row)
    with sessionwatch.watching(mode="strict", log=False) as watch:
        session = Session(engine)
        session.add(Row())
        session.flush()
        with pytest.raises(FindingError) as caught:
            session.close()
        arrived = way(caught.value)
        assert str(arrived) == str(caught.value)
        assert len(watch.findings) == 1


@pytest.mark.parametrize("pool", ["Pool", "ProcessPoolExecutor"])
def test_pools_of_processes(tmp_path: Path, pool: str) -> None:
    """A finding that is raised in a worker reaches the caller of ``map``, who does not wait forever."""
    program = tmp_path / "job.py"
    program.write_text(
        textwrap.dedent("""
            import multiprocessing, sys
            from concurrent.futures import ProcessPoolExecutor
            import sessionwatch
            sessionwatch.install(mode="strict", log=False)
            from sqlalchemy import create_engine
            from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
            from sqlalchemy.orm.exc import DetachedInstanceError
            engine = create_engine("sqlite:///jobs.db")
            class Base(DeclarativeBase): ...
            class Row(Base):
                __tablename__ = "rows"
                id: Mapped[int] = mapped_column(primary_key=True)
            def lose(n):
                with Session(engine) as session:
                    session.add(Row())
                    session.flush()
            def touch(n):
                with Session(engine) as session, session.begin():
                    row = Row()
                    session.add(row)
                return row.id
            context = multiprocessing.get_context("fork")
            if __name__ == "__main__":
                Base.metadata.create_all(engine)
                engine.dispose()
                pool = context.Pool(1) if sys.argv[1] == "Pool" else ProcessPoolExecutor(1, mp_context=context)
                with pool:
                    for work in lose, touch:
                        try:
                            list(pool.map(work, [1]))
                        except sessionwatch.FindingError as error:
                            both = isinstance(error, DetachedInstanceError)
                            told = "job.py" in "".join([str(error), *getattr(error, "__notes__", ())])
                            print(work.__name__, error.finding.rule, both, told)
        """)
    )
    done = subprocess.run(
        [sys.executable, str(program), pool], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.splitlines() == ["lose lost-writes False True", "touch detached-access True True"], done.stderr
