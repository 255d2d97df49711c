"""SQLModel in plain functions: what leaves the session has been loaded in it, and is plain data."""

from sqlalchemy import Engine
from sqlmodel import Session, select

from .models import Hero, Team


def hire(engine: Engine, name: str, team: str) -> None:
    with Session(engine) as session:
        session.add(Hero(name=name, team=Team(name=team)))
        session.commit()


def card(engine: Engine, name: str) -> str:
    with Session(engine) as session:
        hero = session.exec(select(Hero).where(Hero.name == name)).one()
        return f"{hero.name} of {hero.team.name}"
