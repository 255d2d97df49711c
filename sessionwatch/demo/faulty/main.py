"""One morning of the order service: ``python -m faulty.main``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from .customers import greeting
from .db import SessionLocal, engine
from .models import Base, Customer, Order, OrderLine
from .orders import create_order, order_total, ship_order
from .reports import open_orders, units_sold

BAKERY = "orders@corner-bakery.example"


def prepare() -> None:
    """Fresh tables, with one customer and the order that came in yesterday."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with SessionLocal() as session:
        yesterday = Order(number="A-1000", lines=[OrderLine(product="rye flour", quantity=10, price=120)])
        session.add(Customer(email=BAKERY, name="Corner Bakery", orders=[yesterday]))
        session.commit()


def serve(request: str, handler: Callable[..., str], *arguments: str) -> None:
    """Answer one request, as a web framework does: an exception becomes a 500."""
    try:
        answer = handler(*arguments)
    except Exception as error:
        answer = f"500 {type(error).__name__}"
    print(f"{request:<26} {answer}")


def pack(number: str) -> str:
    """Run the packing worker for one order."""
    from .packing import pack_order  # needs an asyncio driver

    return asyncio.run(pack_order(os.environ["ASYNC_DATABASE_URL"], number))


def main() -> None:
    """Serve the morning's requests."""
    prepare()
    for number, product in [("A-1001", "oat flakes"), ("A-1002", "yeast"), ("A-1003", "sea salt")]:
        serve("POST /orders", create_order, number, BAKERY, product)
    serve("GET  /orders/A-1000/total", order_total, "A-1000")
    serve("GET  /customers/greeting", greeting, BAKERY)
    if "ASYNC_DATABASE_URL" in os.environ:
        serve("POST /orders/A-1000/pack", pack, "A-1000")
    serve("POST /orders/A-1000/ship", ship_order, "A-1000")
    serve("GET  /reports/open", open_orders)
    serve("GET  /reports/sold", units_sold)


if __name__ == "__main__":
    main()
