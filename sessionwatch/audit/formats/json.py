"""The format ``json``: one object, which ``--since`` reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..._version import __version__
from ..result import SCHEMA, Audit, file_as_json

if TYPE_CHECKING:
    from ..changes import Changes


def render(audit: Audit, changes: Changes | None, colour: bool) -> str:
    """The whole audit. ``colour`` changes nothing."""
    whole: dict[str, object] = {
        "schema": SCHEMA,
        "tool": "sessionwatch audit",
        "version": __version__,
        "root": audit.root,
        "totals": audit.totals(),
        "by_anti_pattern": {name: dict(counts) for name, counts in audit.by_pattern().items()},
        "anti_patterns": [asdict(entry) for entry in audit.entries],
        "files": [file_as_json(audit, each) for each in audit.files],
        "sources": [asdict(each) for each in audit.sources],
        "unparsed": [asdict(each) for each in audit.unparsed],
    }
    if changes is not None:
        whole["since"] = asdict(changes)
    return json.dumps(whole, indent=1) + "\n"
