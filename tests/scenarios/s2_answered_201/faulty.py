"""A service that answers 201 and stores nothing.

Its dependencies close their session and nobody commits; the current user comes from a session that is over;
a project's notes are read after theirs; a service swallows the error of the database, so that a name that is
taken looks like a user without a number; and the answer lacks three columns of its table.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from tests.scenarios.database import connect, connect_asyncio
from tests.scenarios.s2_answered_201.client import ask_everything, rows
from tests.scenarios.s2_answered_201.models import Base, Note, Project, User, store_first_rows

app = FastAPI()
logger = logging.getLogger(__name__)


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
    """A project as it is answered, without its insights, actions and decisions."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    owner_id: int
    notes: list[NoteOut]


def get_db(request: Request) -> Iterator[Session]:
    db = request.app.state.sessions()
    try:
        yield db
    finally:
        db.close()  # expect: lost-writes


async def get_async_db(request: Request) -> AsyncIterator[AsyncSession]:
    db = request.app.state.async_sessions()
    try:
        yield db
    finally:
        await db.close()  # expect: lost-writes


def current_user(request: Request, x_user: Annotated[str, Header()]) -> User:
    with request.app.state.sessions() as db:
        user = db.scalars(select(User).where(User.name == x_user)).one()
        user.last_seen = datetime(2026, 1, 1)
        db.commit()  # evidence: detached-access expired
        return user


@app.post("/projects/{number}/notes", status_code=201)
def take_note(number: int, new: NewNote, db: Annotated[Session, Depends(get_db)]) -> NoteOut:
    note = Note(text=new.text, project_id=number)
    db.add(note)
    db.flush()  # evidence: lost-writes written
    return NoteOut.model_validate(note)


@app.post("/async/projects/{number}/notes", status_code=201)
async def take_note_async(number: int, new: NewNote, db: Annotated[AsyncSession, Depends(get_async_db)]) -> NoteOut:
    note = Note(text=new.text, project_id=number)
    db.add(note)
    await db.flush()  # evidence: lost-writes written
    return NoteOut.model_validate(note)


@app.get("/projects")
def list_projects(user: Annotated[User, Depends(current_user)], db: Annotated[Session, Depends(get_db)]) -> list[str]:
    projects = db.scalars(select(Project).where(Project.owner_id == user.id))  # expect: detached-access
    return [project.title for project in projects]


@app.get("/projects/{number}")
def show_project(number: int, request: Request) -> ProjectOut:
    with request.app.state.sessions() as db:
        project = db.get_one(Project, number)  # evidence: detached-access loaded
    return ProjectOut.model_validate(project)  # expect: detached-access


@app.post("/users", status_code=201)
def register(new: NewUser, db: Annotated[Session, Depends(get_db)]) -> dict[str, int | None]:
    return {"id": store_user(db, new.name)}


def store_user(db: Session, name: str) -> int | None:
    try:
        user = User(name=name)
        db.add(user)
        db.flush()  # expect: swallowed-error
        return user.id
    except Exception as error:
        logger.error("no user: %s", type(error).__name__)
        return None


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
