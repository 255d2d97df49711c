"""Engines and session factories; ``python database.py`` makes the tables and the first rows.

``DATABASE_URL`` says where (default: ``orders.db`` in this folder).
"""

from __future__ import annotations

import os

from models import Base, Line, Order, User
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}

url = make_url(os.environ.get("DATABASE_URL", "sqlite:///orders.db"))
engine = create_engine(url)
async_engine = create_async_engine(url.set(drivername=ASYNC_DRIVERS[url.get_backend_name()]))
SessionLocal = sessionmaker(engine)
AsyncSessionLocal = async_sessionmaker(async_engine, expire_on_commit=False)

if url.get_backend_name() == "sqlite":

    @event.listens_for(engine, "connect")
    @event.listens_for(async_engine.sync_engine, "connect")
    def enforce_foreign_keys(connection, record):
        connection.execute("PRAGMA foreign_keys=ON")


def first_rows(db: Session) -> None:
    ada = User(name="ada")
    order = Order(customer="Vega Shipping", owner=ada, lines=[Line(article="rope", quantity=3)])
    db.add_all([ada, order])
    db.commit()


if __name__ == "__main__":
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with SessionLocal() as session:
        first_rows(session)
