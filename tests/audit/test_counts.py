"""What is counted: ``session.query()`` above all, which is legacy and no anti-pattern of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionwatch.audit.analyse import audit
from tests.audit.test_corpus import PRELUDE, SHOP

KEPT = """
class Repo:
    def __init__(self, session: Session):
        self.session = session
    def all(self):
        return self.session.query(Order)
"""
DEPENDED = """
def get_db():
    with SessionLocal() as session:
        yield session
def index(db: Session = Depends(get_db)):
    return db.query(Order)
"""
COUNTED = {
    "a parameter": ("def f(session: Session):\n    return session.query(Order).all()", 1),
    "a block": ("def f():\n    with SessionLocal() as s:\n        s.query(Order).first()", 1),
    "by hand": ("def f():\n    s = Session(engine)\n    s.query(Order).count()\n    s.close()", 1),
    "two": ("def f(s: Session):\n    s.query(Order).all()\n    s.query(Item).all()", 2),
    "a chain": ("def f(s: Session):\n    s.query(Order).filter(Order.id == 1).order_by(Order.id).all()", 1),
    "a registry": ("r = scoped_session(SessionLocal)\ndef f():\n    r.query(Order).all()", 1),
    "a registry's session": ("r = scoped_session(SessionLocal)\ndef f():\n    r().query(Order).all()", 1),
    "an attribute": (KEPT, 1),
    "a dependency": (DEPENDED, 1),
    "Flask": ("from flask_sqlalchemy import SQLAlchemy\ndb = SQLAlchemy()\ndef f():\n    db.session.query(Order)", 1),
    "a module": ("with SessionLocal() as s:\n    s.query(Order).all()", 1),
    "a variable without an annotation": ("def f(session):\n    return session.query(Order).all()", 1),
    "maker.begin()": ("def f():\n    with SessionLocal.begin() as s:\n        s.query(Order).delete()", 1),
}
NOT_COUNTED = {
    "select": "def f(s: Session):\n    s.scalars(select(Order)).all()",
    "execute": "def f(s: Session):\n    s.execute(text('SELECT 1'))",
    "get": "def f(s: Session):\n    s.get(Order, 1)",
    "asyncio": "async def f(s: AsyncSession):\n    await s.scalars(select(Order))",
    "a class's own query": "class C:\n    def query(self, x):\n        return x\ndef f(c: C):\n    c.query(1)",
    "a function": "def query(x):\n    return x\nquery(Order)",
    "another client": "import bigquery\nclient = bigquery.Client()\nclient.query('SELECT 1')",
    "a parameter of another type": "def f(session: dict):\n    return session.query(1)",
    "a comment": "# session.query(Order)\ndef f(s: Session):\n    s.commit()",
    "a string": "TEXT = 'session.query(Order)'",
    "a connection": "def f():\n    with engine.connect() as c:\n        c.execute(select(Order))",
    "a model's column": "def f(o: Order):\n    return o.query",
    "an HTTP session": "import requests\nsession = requests.Session()\nsession.query('x')",
}


def queries(text: str, folder: Path) -> int:
    (folder / "shop.py").write_text(SHOP, encoding="utf-8")
    (folder / "program.py").write_text(PRELUDE + text + "\n", encoding="utf-8")
    return audit(str(folder), workers=1).totals()["legacy_queries"]


@pytest.mark.parametrize("name", COUNTED)
def test_counts_legacy_queries(name: str, tmp_path: Path) -> None:
    """Each use of ``session.query()`` is counted once, however the session is got at."""
    text, number = COUNTED[name]
    assert queries(text, tmp_path) == number


@pytest.mark.parametrize("name", NOT_COUNTED)
def test_counts_no_other_query(name: str, tmp_path: Path) -> None:
    """Nothing else that is called query is counted."""
    assert queries(NOT_COUNTED[name], tmp_path) == 0


@pytest.mark.parametrize(
    ("text", "kind", "name", "asynchronous"),
    [
        ("M = sessionmaker(engine)", "sessionmaker", "M", False),
        ("M = async_sessionmaker(async_engine)", "sessionmaker", "M", True),
        ("M = sessionmaker(class_=AsyncSession)", "sessionmaker", "M", True),
        ("E = create_engine('sqlite://')", "engine", "E", False),
        ("E = create_async_engine('sqlite://')", "engine", "E", True),
        ("R = scoped_session(SessionLocal)", "registry", "R", False),
        ("def f():\n    return SessionLocal()", "provider", "f", False),
        ("def f():\n    with SessionLocal() as s:\n        yield s", "dependency", "f", False),
        ("async def f():\n    async with AsyncSessionLocal() as s:\n        yield s", "dependency", "f", True),
        ("class C:\n    def __init__(self):\n        self.m = sessionmaker(engine)", "sessionmaker", "self.m", False),
    ],
)
def test_names_where_sessions_come_from(text: str, kind: str, name: str, asynchronous: bool, tmp_path: Path) -> None:
    """Makers, engines, registries, and functions that provide sessions, with the name they go by."""
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    (tmp_path / "program.py").write_text(PRELUDE + text + "\n", encoding="utf-8")
    sources = [each for each in audit(str(tmp_path), workers=1).sources if each.path.endswith("program.py")]
    assert [(each.kind, each.name, each.asynchronous) for each in sources] == [(kind, name, asynchronous)]
