"""What handlers do in these tests: write in a session of their own, and look at their unit."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from sessionwatch.units.scope import Unit, current_unit
from sessionwatch.watch.watch import Watch
from tests.rules.models import Tag


class Seen:
    """The units that handlers were in, and how their names and ends looked at the time."""

    def __init__(self) -> None:
        self.units: list[Unit | None] = []
        self.names: list[str | None] = []

    def look(self) -> None:
        unit = current_unit()
        self.units.append(unit)
        self.names.append(unit.name if unit is not None else None)

    @property
    def same(self) -> bool:
        """Whether it was one unit each time."""
        return None not in self.units and len({id(unit) for unit in self.units}) == 1

    @property
    def ended(self) -> list[bool]:
        return [unit.ended for unit in self.units if unit is not None]


def write(engine: Engine, name: str = "written") -> None:
    with Session(engine) as session:
        session.add(Tag(name=name))
        session.commit()


async def write_async(engine: AsyncEngine, name: str = "written") -> None:
    async with AsyncSession(engine) as session:
        session.add(Tag(name=name))
        await session.commit()


def found(watch: Watch) -> list[tuple[str, str | None]]:
    """Rule and unit of each finding."""
    return [(finding.rule, finding.unit) for finding in watch.findings]
