"""``docs/a-test-failed.md``: its line is what pytest prints, and its step 3 applies the certain edits."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "a-test-failed.md").read_text(encoding="utf-8")

SHOP = """
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

class Base(DeclarativeBase):
    pass

class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    items: Mapped[list["Item"]] = relationship()

class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))

engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with Session(engine) as session, session.begin():
    session.add_all([Order(items=[Item()]) for _ in range(6)])

def counts():
    with Session(engine) as session:
        orders = session.scalars(select(Order)).all()
        return [len(order.items) for order in orders]

def ship():
    with Session(engine) as session:
        session.add(Order())
        session.flush()
"""
TESTS = """
from shop import counts, ship

def test_counts():
    assert counts() == [1] * 6

def test_ship():
    ship()
"""


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """One command of the page; ``pytest`` and ``sessionwatch`` are those of this Python."""
    name, *arguments = shlex.split(command)
    argv = [sys.executable, "-m", name, *arguments] if name in ("pytest", "sessionwatch") else [name, *arguments]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SESSIONWATCH", "PYTEST", "CI"))}
    env = {**env, "PYTHONPATH": f"{ROOT}:{folder}", "COLUMNS": "200"}
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_the_page_can_be_followed(tmp_path: Path) -> None:
    """The failure's line is the page's; its commands make the certain edit, and the finding is gone."""
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    (tmp_path / "test_shop.py").write_text(TESTS, encoding="utf-8")
    assert run(tmp_path, "git init -q").returncode == 0
    failed = run(tmp_path, "pytest --sessionwatch=strict -q -p no:cacheprovider").stdout
    shown = re.search(r"^FAILED \S+ - (.*?)\.\.\.$", PAGE, re.MULTILINE)
    assert shown is not None
    assert f"FAILED test_shop.py::test_ship - {shown[1].strip()}" in failed
    block = PAGE.partition("3. **")[2].partition("```")[2].partition("\n")[2].partition("```")[0]
    for command in (line.strip().removeprefix("$ ") for line in block.splitlines() if line.strip()):
        done = run(tmp_path, command)
        assert done.returncode == 0, (command, done)
    assert "selectinload(Order.items)" in (tmp_path / "shop.py").read_text(encoding="utf-8")
    again = run(tmp_path, "pytest --sessionwatch=log -q -p no:cacheprovider").stdout
    assert "n-plus-one" not in again
    assert "A  FAULT  lost-writes" in again  # by hand
