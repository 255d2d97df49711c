"""The order service of ``app.py``, mended: commits before it answers, and answers from what it loaded."""

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
from sqlalchemy.orm import Session, selectinload

app = FastAPI()


def get_db() -> Iterator[Session]:
    with SessionLocal() as db:
        yield db


async def get_async_db() -> AsyncIterator[AsyncSession]:
    async with AsyncSessionLocal() as db:
        yield db


def current_user_id(x_user: Annotated[str, Header()]) -> int:
    with SessionLocal.begin() as db:
        user = db.scalars(select(User).where(User.name == x_user)).one()
        user.last_seen = datetime(2026, 1, 1)
        return user.id


@app.get("/orders/count")
def count_orders(db: Annotated[Session, Depends(get_db)]) -> int:
    return db.scalar(select(func.count()).select_from(Order)) or 0


@app.post("/orders", status_code=201)
def take_order(new: NewOrder, db: Annotated[Session, Depends(get_db)]) -> dict[str, int]:
    order = Order(customer=new.customer, owner_id=1)
    db.add(order)
    db.commit()
    return {"id": order.id}


@app.post("/async/orders", status_code=201)
async def take_order_async(new: NewOrder, db: Annotated[AsyncSession, Depends(get_async_db)]) -> dict[str, int]:
    order = Order(customer=new.customer, owner_id=1)
    db.add(order)
    await db.commit()
    return {"id": order.id}


@app.get("/orders")
def list_orders(
    user_id: Annotated[int, Depends(current_user_id)], db: Annotated[Session, Depends(get_db)]
) -> list[dict[str, str]]:
    orders = db.scalars(select(Order).where(Order.owner_id == user_id))
    return [{"customer": order.customer} for order in orders]


@app.get("/orders/{number}/articles")
def list_articles(number: int) -> list[str]:
    with SessionLocal() as db:
        order = db.get_one(Order, number, options=[selectinload(Order.lines)])
    return [line.article for line in order.lines]


@app.get("/async/orders/{number}/articles")
async def list_articles_async(number: int) -> list[str]:
    async with AsyncSessionLocal() as db:
        order = await db.get_one(Order, number, options=[selectinload(Order.lines)])
    return [line.article for line in order.lines]


@app.get("/orders/{number}", response_model=OrderOut)
def show_order(number: int) -> Order:
    with SessionLocal() as db:
        return db.get_one(Order, number, options=[selectinload(Order.lines)])
