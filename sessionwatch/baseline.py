"""The baseline: findings that a code base is known to have, so that only new ones count.

A JSON file, sorted, one finding a line, made to be committed and reviewed. A finding is recognised by
its fingerprint, which has no line number in it: the baseline survives edits above a place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from .model import ConfigError, Finding

FIELDS = ("fingerprint", "rule", "subject", "path", "function")
DEFAULT = "sessionwatch-baseline.json"


def entry(finding: Finding) -> dict[str, Any]:
    """What the baseline keeps of a finding; its path is seen from the project's root."""
    path = finding.site.project_path if finding.site else None
    return {**{name: getattr(finding, name) for name in FIELDS}, "path": path}


def read(path: str) -> dict[str, dict[str, Any]]:
    """The entries of a baseline file by fingerprint; none if the file does not exist yet.

    Raises `sessionwatch.ConfigError` if it can't be read or is no baseline.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data: Any = json.load(file)
        return {str(item["fingerprint"]): dict(item) for item in data["findings"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"baseline {path} can't be read: {error}") from error


def absent(path: str | None) -> str | None:
    """What to say of a baseline that is configured and is not there: its name may have been mistyped."""
    if path is None or os.path.exists(path):
        return None
    return f"the baseline {path} does not exist yet: no finding is known by it"


def write(path: str, entries: Iterable[Mapping[str, Any]]) -> int:
    """Write a baseline file; returns how many findings it has.

    Raises `sessionwatch.ConfigError` if it can't be written.
    """
    unique = {item["fingerprint"]: {name: item.get(name) for name in FIELDS} for item in entries}
    order = sorted(unique.values(), key=lambda item: [str(item[name]) for name in ("rule", "path", "fingerprint")])
    lines = ",\n".join("  " + json.dumps(item) for item in order)
    text = f'{{"schema": 1, "findings": [\n{lines}\n]}}\n' if lines else '{"schema": 1, "findings": []}\n'
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"baseline {path} can't be written: {error.strerror}") from error
    return len(order)
