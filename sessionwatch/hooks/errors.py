"""What is raised for a finding where SQLAlchemy raises an error of its own: one that is both."""

from __future__ import annotations

from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.orm.exc import DetachedInstanceError

from ..model import Finding, FindingError
from ..record.events import DetachedRead, DetachedTouch, Event


class DetachedFindingError(FindingError, DetachedInstanceError):
    """A finding of ``detached-access`` or ``detached-touch``; SQLAlchemy's error as well."""

    def __init__(self, finding: Finding, story: str = "") -> None:
        super().__init__(finding, story)
        self.code = None  # type: ignore[assignment]  # no link to SQLAlchemy's page: the story has its own


class ImplicitFindingError(FindingError, MissingGreenlet):
    """A finding of ``implicit-io``; SQLAlchemy's error as well."""


class StatementFindingError(FindingError, StatementError):
    """The same where SQLAlchemy wraps its error, as 2.1 does."""


# By the type of the event; of all others a plain FindingError.
RAISED: dict[type[Event], type[FindingError]] = dict.fromkeys((DetachedRead, DetachedTouch), DetachedFindingError)
