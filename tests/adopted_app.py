"""A generated application of the usual shape: models, a base repository, services; many findings, as old code has them.

60 models, 500 functions that use a session each, every fourth of them with a fault that a test meets.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

MODELS, SERVICES, EACH = 60, 20, 25  # 20 modules with 25 functions

DB = """
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, sessionmaker

class Base(DeclarativeBase):
    pass

engine = create_engine("sqlite:///app.db", pool_size=50)
SessionLocal = sessionmaker(engine, expire_on_commit=False)
"""
BASE = """
from app.db import SessionLocal

def remember(model):
    with SessionLocal() as session:
        session.add(model())
        session.flush()
"""
MODEL = """
class Model{n}(Base):
    __tablename__ = "model_{n}"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("model_{n}.id"))
    children: Mapped[list["Model{n}"]] = relationship()
"""
RIGHT = """
def step_{n}():
    with SessionLocal.begin() as session:
        session.add({model}())
"""
FAULTS = (
    """
def step_{n}():
    with SessionLocal() as session:
        session.add({model}())
        session.flush()
""",
    """
def step_{n}():
    session = SessionLocal()
    return session.scalar(select({model}.id).limit(1))
""",
    """
def step_{n}():
    remember({model})
""",
)
TESTS = """
import importlib
import pytest
from app import models
from app.db import Base, engine

@pytest.fixture(scope="session", autouse=True)
def tables():
    Base.metadata.create_all(engine)

@pytest.mark.parametrize("number", range({all}))
def test_step(number):
    module = importlib.import_module(f"app.services.service_{{number // {each}}}")
    getattr(module, f"step_{{number}}")()
"""
CONFIG = """
[pytest]
pythonpath = .
sessionwatch = strict
sessionwatch_baseline = sessionwatch-baseline.json
"""


def write(root: Path) -> None:
    """Write the application and its tests below a folder."""
    header = "from sqlalchemy import ForeignKey\nfrom sqlalchemy.orm import Mapped, mapped_column, relationship\n"
    models = "".join(MODEL.format(n=number) for number in range(MODELS))
    files = {
        "app/__init__.py": "",
        "app/db.py": DB,
        "app/models.py": f"{header}from app.db import Base\n{models}",
        "app/repositories/__init__.py": "",
        "app/repositories/base.py": BASE,
        "app/services/__init__.py": "",
        "tests/test_app.py": TESTS.format(all=SERVICES * EACH, each=EACH),
        "pytest.ini": CONFIG,
    }
    for service in range(SERVICES):
        files[f"app/services/service_{service}.py"] = _service(service)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")


def _service(service: int) -> str:
    imports = ["from sqlalchemy import select", "from app.db import SessionLocal", "from app.models import *"]
    parts = ["\n".join([*imports, "from app.repositories.base import remember", ""])]
    for number in range(service * EACH, (service + 1) * EACH):
        body = FAULTS[number // 4 % len(FAULTS)] if number % 4 == 0 else RIGHT
        parts.append(body.format(n=number, model=f"Model{number % MODELS}"))
    return "\n".join(parts)


def add_a_bug(root: Path) -> None:
    """A new module that calls a helper which others call already, and which loses what it is given."""
    text = (
        "from app.models import Model0\nfrom app.repositories.base import remember\ndef pay():\n    remember(Model0)\n"
    )
    (root / "app" / "services" / "payments.py").write_text(text, encoding="utf-8")
    test = "from app.services.payments import pay\n\ndef test_pay():\n    pay()\n"
    (root / "tests" / "test_payments.py").write_text(test, encoding="utf-8")
