"""What a report says of the run that it is about."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata


def about(command: str) -> dict[str, object]:
    """The command and the versions, for `Report.about`. ``command`` without arguments: they may hold passwords."""
    facts = [f"Python {platform.python_version()}"]
    with contextlib.suppress(metadata.PackageNotFoundError):  # one of another environment, for a command on the path
        facts.append(f"SQLAlchemy {metadata.version('sqlalchemy')}")
    return {"command": command, "facts": facts}
