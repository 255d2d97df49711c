"""``sessionwatch check``: the settings of an engine or a sessionmaker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from sqlalchemy import ForeignKey, create_engine, event
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

class Base(DeclarativeBase): ...
class Node(Base):
    __tablename__ = "nodes"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))

engine = create_engine("sqlite:///nodes.db")  # line 13
async_engine = create_async_engine("sqlite+aiosqlite:///nodes.db")
good = create_engine("sqlite://")
good_async = create_async_engine("sqlite+aiosqlite://")
for one in (good, good_async.sync_engine):
    event.listen(one, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys=ON"))
static = create_engine("sqlite:///nodes.db", poolclass=StaticPool)  # sessionwatch: allow config -- one thread
quiet = sessionmaker(good, autoflush=False)
maker = sessionmaker(good)
scoped = scoped_session(quiet)
async_maker = async_sessionmaker(good_async)
good_maker = async_sessionmaker(good_async, expire_on_commit=False)
good_scoped = async_scoped_session(good_maker, scopefunc=lambda: 1)
unbound = sessionmaker()
class state:
    session = maker
def factory(): return engine
unreachable = create_engine("sqlite:////no/such/folder/nodes.db")
"""

FOREIGN_KEYS = "SQLite does not enforce the foreign keys that the tables declare"
EXPIRES = "the async_sessionmaker expires instances on commit: reading one afterwards needs the database"
AUTOFLUSH = "autoflush is off: a query does not see what was added or changed before it"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "db.py").write_text(PROGRAM.lstrip())
    (tmp_path / "broken.py").write_text("raise KeyError('DATABASE_URL')\n")
    return tmp_path


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sessionwatch", "check", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("engine", [FOREIGN_KEYS]),
        ("async_engine", [FOREIGN_KEYS]),
        ("quiet", [AUTOFLUSH]),
        ("scoped", [AUTOFLUSH]),
        ("async_maker", [EXPIRES]),
    ],
)
def test_a_finding_is_exit_status_1(shop: Path, name: str, messages: list[str]) -> None:
    """Each kind of object is looked at, and the finding points to the line that makes it."""
    ended = check(shop, f"shop.db:{name}", "--format", "json")
    assert (ended.returncode, ended.stderr) == (1, "")
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [finding["message"] for finding in found] == messages
    assert {(finding["rule"], finding["path"]) for finding in found} == {("config", "shop/db.py")}
    line = PROGRAM.lstrip().splitlines()[found[0]["line"] - 1]
    assert line.startswith(f"{'quiet' if name == 'scoped' else name} = ")
    assert not (shop / "nodes.db").exists()


@pytest.mark.parametrize(
    "name", ["good", "good_async", "maker", "good_maker", "good_scoped", "unbound", "state.session"]
)
def test_nothing_to_report_is_exit_status_0(shop: Path, name: str) -> None:
    """One line says so."""
    ended = check(shop, f"shop.db:{name}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"shop.db:{name}: nothing to report\n", "")


def test_the_text_is_that_of_other_reports(shop: Path) -> None:
    """Headline, place, fix and the page's name."""
    ended = check(shop, "shop.db:engine")
    assert ended.returncode == 1
    assert f"   shop/db.py:12 in <module>: {FOREIGN_KEYS}\n   fix   switch it on" in ended.stdout
    assert ended.stdout.startswith("sessionwatch: 1 piece of advice\n")


def test_an_allowed_setting_is_counted_and_no_failure(shop: Path) -> None:
    """A comment on the line that makes it, with a reason."""
    ended = check(shop, "shop.db:static")
    assert (ended.returncode, ended.stdout) == (0, "sessionwatch: no findings, 2 allowed\n")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shop.db", "'shop.db' is not of the form MODULE:OBJECT, for example shop.db:SessionLocal"),
        ("shop.bd:engine", "can't import shop.bd: No module named 'shop.bd'"),
        ("shop.db:engin", "shop.db has no 'engin'. Did you mean 'engine'?"),
        ("shop.db:factory", "shop.db:factory is a function; give an engine, a sessionmaker or a scoped_session"),
        ("broken:engine", "importing broken failed: KeyError: 'DATABASE_URL'"),
        ("shop.db:unreachable", "can't connect to sqlite:////no/such/folder/nodes.db: unable to open database file"),
    ],
)
def test_a_wrong_target_is_exit_status_2(shop: Path, target: str, said: str) -> None:
    """One line on stderr that says what is wrong."""
    ended = check(shop, target)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"sessionwatch: error: {said}")
    assert ended.stderr.count("\n") == 1


def test_help_teaches(shop: Path) -> None:
    """Examples, what it looks at, the exit statuses."""
    ended = check(shop, "--help")
    assert ended.returncode == 0
    for part in ("shop.db:SessionLocal", "exit status: 0", "foreign keys", "expire_on_commit"):
        assert part in ended.stdout
