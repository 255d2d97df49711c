"""What SQLAlchemy's own tests caught: each of these once behaved differently under sessionwatch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import ObjectDeletedError

import sessionwatch
from sessionwatch.watch.watch import Watch
from tests.models import Book, Shelf, create

CUSTOM_INSTRUMENTATION = """
import sessionwatch
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine
from sqlalchemy.ext import instrumentation
from sqlalchemy.orm import Session, registry

class Elsewhere(instrumentation.InstrumentationManager):
    def install_state(self, class_, instance, state): instance._elsewhere = state
    def state_getter(self, class_): return lambda instance: getattr(instance, "_elsewhere")
    def manager_getter(self, class_): return lambda cls: cls.__dict__["_manager"]
    def manage(self, class_, manager): class_._manager = manager
    def unregister(self, class_, manager): del class_._manager

sessionwatch.install(rules={"detached-touch": "log"})

class Thing:
    __sa_instrumentation_manager__ = Elsewhere

things = Table("things", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))
registry().map_imperatively(Thing, things)
thing = Thing()
thing.name = "a"
assert thing.name == "a"
del thing.name
assert thing.name is None
"""

DROPPED_SESSION = """
import gc, weakref
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

gc.disable()
alive = []

def test_drops_a_session_that_still_holds_a_connection():
    session = Session(create_engine("sqlite://"))
    session.execute(text("SELECT 1"))
    session.info["cycle"] = session
    alive.append(weakref.ref(session))

def test_its_end_is_for_the_program_to_choose():
    assert alive[0]() is not None
"""


@pytest.fixture
def watch() -> Iterator[Watch]:
    with sessionwatch.watching(rules={"detached-touch": "log"}) as watch:
        yield watch


@pytest.fixture
def session(watch: Watch) -> Iterator[Session]:
    engine = create_engine("sqlite://")
    create(engine, Shelf, Book)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.mark.parametrize("name", ["lent", "archive"])
def test_a_changed_dynamic_relationship_still_reads_as_one(session: Session, name: str) -> None:
    """SQLAlchemy keeps ``True`` in the instance's dictionary there; a read must not return it."""
    shelf = Shelf()
    getattr(shelf, name).add(Book())
    assert type(getattr(shelf, name)).__name__ != "bool"


def test_an_error_while_reading_has_no_context_of_ours(session: Session) -> None:
    """The failed look-up of a value that is not loaded does not show in the error that follows."""
    shelf = Shelf()
    session.add(shelf)
    session.commit()
    session.execute(Shelf.__table__.delete())
    with pytest.raises(ObjectDeletedError) as caught:
        _ = shelf.name
    assert caught.value.__context__ is None


def test_instances_that_keep_their_state_elsewhere() -> None:
    """``sqlalchemy.ext.instrumentation`` may hide the state; sets, reads and deletes work as without us."""
    done = subprocess.run([sys.executable, "-c", CUSTOM_INSTRUMENTATION], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_uninstall_after_the_program_removed_every_listener() -> None:
    """An undo whose listener is gone already is done; the other undos follow."""
    code = (
        "import sessionwatch; from sqlalchemy.orm import Session, events; before = Session.__init__\n"
        "watch = sessionwatch.install(); events.SessionEvents._clear(); watch.uninstall()\n"
        "assert sessionwatch.watch.installation.current() is None and Session.__init__ is before"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_mode_log_leaves_garbage_to_the_program(tmp_path: Path) -> None:
    """The pytest plugin collects garbage only where a finding may fail the test: finalizers keep their moment."""
    (tmp_path / "test_it.py").write_text(DROPPED_SESSION)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--sessionwatch=log", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout


def test_listeners_of_a_flush_may_be_called_without_arguments() -> None:
    """As the tests of SQLAlchemy 2.0 call them, by the dispatcher of a session."""
    with sessionwatch.watching(log=False) as watch:
        Session().dispatch.before_flush()
    assert watch.findings == []
