"""The pattern of SQLAlchemy's asyncio tutorial in Starlette: an ``async_sessionmaker``, a session for each request."""

from __future__ import annotations

from sqlalchemy import URL, ForeignKey, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.backends import enforce_foreign_keys


class Base(DeclarativeBase):
    """The declarative base of the garden."""


class Bed(Base):
    __tablename__ = "beds"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    seeds: Mapped[list[Seed]] = relationship(back_populates="bed", cascade="all, delete-orphan")


class Seed(Base):
    __tablename__ = "seeds"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    bed_id: Mapped[int] = mapped_column(ForeignKey("beds.id"))
    bed: Mapped[Bed] = relationship(back_populates="seeds")


def make(url: URL) -> tuple[Starlette, AsyncEngine]:
    """The application, and the engine that it uses."""
    engine = create_async_engine(url)
    enforce_foreign_keys(engine.sync_engine)
    new_session = async_sessionmaker(engine, expire_on_commit=False)

    async def create(request: Request) -> JSONResponse:
        given = await request.json()
        async with new_session() as session, session.begin():
            bed = Bed(name=given["name"], seeds=[Seed(name=name) for name in given["seeds"]])
            session.add(bed)
            await session.flush()
            return JSONResponse({"id": bed.id})

    async def read_all(request: Request) -> JSONResponse:
        async with new_session() as session:
            beds = (await session.scalars(select(Bed).options(selectinload(Bed.seeds)))).all()
            return JSONResponse([{"name": bed.name, "seeds": [seed.name for seed in bed.seeds]} for bed in beds])

    async def rename(request: Request) -> JSONResponse:
        async with new_session() as session:
            bed = (await session.scalars(select(Bed).where(Bed.id == request.path_params["key"]))).one()
            bed.name = bed.name.title()
            await session.commit()
            return JSONResponse({"name": bed.name})

    routes = [
        Route("/beds", create, methods=["POST"]),
        Route("/beds", read_all),
        Route("/beds/{key:int}", rename, methods=["PUT"]),
    ]
    return Starlette(routes=routes), engine
