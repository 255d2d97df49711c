"""As right.py, but the text is made when the session has ended: the team is not loaded, and nothing can load it."""

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
    return f"{hero.team.name}: {name}"  # after the session
