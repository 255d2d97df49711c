"""The service, repaired: it commits before it answers, reads inside its session, and says what went wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, selectinload, sessionmaker

from tests.scenarios.database import connect, connect_asyncio
from tests.scenarios.s2_answered_201.client import ask_everything, rows
from tests.scenarios.s2_answered_201.models import Base, Note, Project, User, store_first_rows

app = FastAPI()


class NewNote(BaseModel):
    """The body of a new note."""

    text: str


class NewUser(BaseModel):
    """The body of a registration."""

    name: str


class NoteOut(BaseModel):
    """A note as it is answered."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    text: str
    project_id: int


class ProjectOut(BaseModel):
    """A project as it is answered, with every column of its table."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    insights: str | None
    actions: str | None
    decisions: str | None
    owner_id: int
    notes: list[NoteOut]


class NameTakenError(Exception):
    """Somebody else has that name."""


def get_db(request: Request) -> Iterator[Session]:
    """A session whose handler commits, before the answer goes out: what follows the yield may run after that."""
    db = request.app.state.sessions()
    try:
        yield db
    except BaseException:
        db.rollback()
        raise
    finally:
        db.close()


async def get_async_db(request: Request) -> AsyncIterator[AsyncSession]:
    """As `get_db`, for asyncio."""
    db = request.app.state.async_sessions()
    try:
        yield db
    except BaseException:
        await db.rollback()
        raise
    finally:
        await db.close()


def current_user_id(request: Request, x_user: Annotated[str, Header()]) -> int:
    with request.app.state.sessions.begin() as db:
        user = db.scalars(select(User).where(User.name == x_user)).one()
        user.last_seen = datetime(2026, 1, 1)
        number: int = user.id
        return number


@app.post("/projects/{number}/notes", status_code=201)
def take_note(number: int, new: NewNote, db: Annotated[Session, Depends(get_db)]) -> NoteOut:
    note = Note(text=new.text, project_id=number)
    db.add(note)
    db.flush()
    answer = NoteOut.model_validate(note)
    db.commit()
    return answer


@app.post("/async/projects/{number}/notes", status_code=201)
async def take_note_async(number: int, new: NewNote, db: Annotated[AsyncSession, Depends(get_async_db)]) -> NoteOut:
    note = Note(text=new.text, project_id=number)
    db.add(note)
    await db.commit()
    return NoteOut.model_validate(note)


@app.get("/projects")
def list_projects(
    owner_id: Annotated[int, Depends(current_user_id)], db: Annotated[Session, Depends(get_db)]
) -> list[str]:
    projects = db.scalars(select(Project).where(Project.owner_id == owner_id))
    return [project.title for project in projects]


@app.get("/projects/{number}")
def show_project(number: int, request: Request) -> ProjectOut:
    with request.app.state.sessions() as db:
        project = db.get_one(Project, number, options=[selectinload(Project.notes)])
        return ProjectOut.model_validate(project)


@app.post("/users", status_code=201)
def register(new: NewUser, db: Annotated[Session, Depends(get_db)]) -> dict[str, int]:
    try:
        number = store_user(db, new.name)
    except NameTakenError as error:
        raise HTTPException(409, "that name is taken") from error
    db.commit()
    return {"id": number}


def store_user(db: Session, name: str) -> int:
    user = User(name=name)
    db.add(user)
    try:
        db.flush()
    except IntegrityError as error:
        db.rollback()
        raise NameTakenError(name) from error
    return user.id


async def main(url: str) -> dict[str, Any]:
    engine, async_engine = connect(url), connect_asyncio(url)
    app.state.sessions = sessionmaker(engine)
    app.state.async_sessions = async_sessionmaker(async_engine, expire_on_commit=False)
    try:
        await asyncio.to_thread(prepare, app.state.sessions)
        return await ask_everything(app) | {"rows": await asyncio.to_thread(rows, engine)}
    finally:
        engine.dispose()
        await async_engine.dispose()


def prepare(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        Base.metadata.create_all(session.connection())
        store_first_rows(session)


if __name__ == "__main__":
    for name, seen in asyncio.run(main(os.environ["DATABASE_URL"])).items():
        print(f"{name}: {seen}")
