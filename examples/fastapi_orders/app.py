"""An order service that answers 201 and stores nothing; ``repaired.py`` is the same service, mended.

Start it with ``python database.py && uvicorn app:app``. Lines marked ``finds:`` are those that
sessionwatch has to point at; ``RULE: label`` marks a line that has to be among the evidence.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Annotated

from database import AsyncSessionLocal, SessionLocal
from fastapi import Depends, FastAPI, Header
from models import Order, User
from schemas import NewOrder, OrderOut
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

app = FastAPI()


def get_db() -> Iterator[Session]:
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()  # finds: lost-writes


async def get_async_db() -> AsyncIterator[AsyncSession]:
    db = AsyncSessionLocal()
    try:
        yield db
    finally:
        await db.close()  # finds: lost-writes


def current_user(x_user: Annotated[str, Header()]) -> User:
    with SessionLocal() as db:
        user = db.scalars(select(User).where(User.name == x_user)).one()
        user.last_seen = datetime(2026, 1, 1)
        db.commit()  # detached-access: expired
        return user


@app.get("/orders/count")
def count_orders(db: Annotated[Session, Depends(get_db)]) -> int:
    return db.scalar(select(func.count()).select_from(Order)) or 0


@app.post("/orders", status_code=201)
def take_order(new: NewOrder, db: Annotated[Session, Depends(get_db)]) -> dict[str, int]:
    order = Order(customer=new.customer, owner_id=1)
    db.add(order)
    db.flush()  # lost-writes: written
    return {"id": order.id}


@app.post("/async/orders", status_code=201)
async def take_order_async(new: NewOrder, db: Annotated[AsyncSession, Depends(get_async_db)]) -> dict[str, int]:
    order = Order(customer=new.customer, owner_id=1)
    db.add(order)
    await db.flush()  # lost-writes: written
    return {"id": order.id}


@app.get("/orders")
def list_orders(
    user: Annotated[User, Depends(current_user)], db: Annotated[Session, Depends(get_db)]
) -> list[dict[str, str]]:
    orders = db.scalars(select(Order).where(Order.owner_id == user.id))  # finds: detached-access
    return [{"customer": order.customer} for order in orders]


@app.get("/orders/{number}/articles")
def list_articles(number: int) -> list[str]:
    with SessionLocal() as db:
        order = db.get_one(Order, number)  # detached-access: loaded
    return [line.article for line in order.lines]  # finds: detached-access


@app.get("/async/orders/{number}/articles")
async def list_articles_async(number: int) -> list[str]:
    async with AsyncSessionLocal() as db:
        order = await db.get_one(Order, number)  # detached-access: loaded
    return [line.article for line in order.lines]  # finds: detached-access


@app.get("/orders/{number}", response_model=OrderOut)
def show_order(number: int) -> Order:
    with SessionLocal() as db:
        return db.get_one(Order, number)  # detached-access: loaded
