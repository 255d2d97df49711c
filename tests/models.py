"""The declarative base of the tests that run in this process, and models that several of them share.

The order book is in `tests.rules.models`. What one test alone needs is mapped beside that test, on the same base, under
names of its own. ``create(engine, Shelf, Book)`` makes the tables of these classes and no others.
"""

from __future__ import annotations

from sqlalchemy import JSON, Column, Connection, Engine, ForeignKey, Integer, MetaData, String, Table
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    DynamicMapped,
    Mapped,
    WriteOnlyMapped,
    class_mapper,
    mapped_column,
    relationship,
)


class Base(DeclarativeBase):
    """The declarative base of all."""


class Row(Base):
    """A row that refers to nothing, in a metadata without a foreign key."""

    __table__ = Table("rows", MetaData(), Column("id", Integer, primary_key=True))

    id: Mapped[int]


class Book(Base):
    """A child that knows nothing of its parent, but for the foreign key."""

    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(String(50))
    shelf_id: Mapped[int | None] = mapped_column(ForeignKey("shelves.id"))


class Shelf(AsyncAttrs, Base):
    """A parent with each view of its children, another parent, and a value that tells of changes in place."""

    __tablename__ = "shelves"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(50))
    labels: Mapped[dict[str, int] | None] = mapped_column(MutableDict.as_mutable(JSON()))
    room_id: Mapped[int | None] = mapped_column(ForeignKey("shelves.id"))
    books: Mapped[list[Book]] = relationship()
    archive: WriteOnlyMapped[Book] = relationship(overlaps="books", order_by=Book.id)
    lent: DynamicMapped[Book] = relationship(overlaps="books, archive", order_by=Book.id)
    one: Mapped[Book | None] = relationship(viewonly=True, uselist=False)
    sealed: Mapped[list[Book]] = relationship(viewonly=True, lazy="raise")
    titles: AssociationProxy[list[str]] = association_proxy("books", "title")
    room: Mapped[Shelf | None] = relationship(remote_side="Shelf.id", back_populates="shelves")
    shelves: Mapped[list[Shelf]] = relationship(back_populates="room")


class Contract(Base):
    """A row with a version."""

    __tablename__ = "contracts"

    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    text: Mapped[str] = mapped_column(String(50))
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


def create(bind: Engine | Connection, *models: type[Base] | Table) -> None:
    """Make the tables of some classes and of their parents in an inheritance, and tables that have no class."""
    named = [(model,) if isinstance(model, Table) else class_mapper(model).tables for model in models]
    tables = [table for some in named for table in some if isinstance(table, Table)]
    for metadata in dict.fromkeys(table.metadata for table in tables):
        metadata.create_all(bind, [table for table in tables if table.metadata is metadata])
