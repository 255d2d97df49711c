"""The recording of a test run's sessions, for the formats that show it; xdist's workers write to one file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

import pytest

_INPUT = "sessionwatch_recording"


class Recorded:
    """Where it is written: ``path`` is None where no report that was asked for shows it."""

    def __init__(self, config: pytest.Config, formats: Iterable[str]) -> None:
        from ..output.formats import RECORDED

        self._folder: str | None = None
        self.path: str | None = getattr(config, "workerinput", {}).get(_INPUT)
        if self.path is None and not RECORDED.isdisjoint(formats):
            self._folder = tempfile.mkdtemp(prefix="sessionwatch-")
            self.path = os.path.join(self._folder, "recording.jsonl")

    def tell(self, node: Any) -> None:
        """Let a worker know."""
        if self.path is not None:
            node.workerinput[_INPUT] = self.path

    def lines(self) -> list[dict[str, object]] | None:
        """What was recorded."""
        from ..output import records

        return records.lines(self.path) if self.path is not None and os.path.exists(self.path) else None

    def remove(self) -> None:
        """The run is over."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
