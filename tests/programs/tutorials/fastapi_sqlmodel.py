"""The pattern of FastAPI's tutorial on SQL databases: SQLModel, a session for each request from a yield dependency."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query
from sqlalchemy import URL, Engine, create_engine
from sqlmodel import Field, Session, SQLModel, select


class Plant(SQLModel, table=True):
    """A plant of a garden."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(index=True)
    height: int | None = None


def make(url: URL) -> tuple[FastAPI, Engine]:
    """The application, and the engine that it uses."""
    engine = create_engine(url)
    Plant.metadata.tables["plant"].create(engine)
    app = FastAPI()

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    SessionDep = Annotated[Session, Depends(get_session)]  # noqa: N806 (as the tutorial names it)

    @app.post("/plants/")
    def create(plant: Plant, session: SessionDep) -> Plant:
        session.add(plant)
        session.commit()
        session.refresh(plant)
        return plant

    @app.get("/plants/")
    def read_all(
        session: SessionDep,
        offset: int = 0,
        limit: Annotated[int, Query(le=100)] = 100,
    ) -> list[Plant]:
        return list(session.exec(select(Plant).offset(offset).limit(limit)).all())

    @app.get("/plants/{key}")
    def read(key: int, session: SessionDep) -> Plant:
        plant: Plant | None = session.get(Plant, key)
        if plant is None:
            raise HTTPException(status_code=404, detail="no such plant")
        return plant

    @app.delete("/plants/{key}")
    def delete(key: int, session: SessionDep) -> dict[str, bool]:
        session.delete(read(key, session))
        session.commit()
        return {"ok": True}

    return app, engine
