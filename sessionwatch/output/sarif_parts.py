"""What is the same of SARIF 2.1.0 for findings and for an audit."""

from __future__ import annotations

import json
import os
from urllib.parse import quote

from .. import rules
from ..model import ConfigError

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

Json = dict[str, object]


def document(run: Json) -> str:
    """The whole file, of one run."""
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def rule(slug: str) -> Json:
    """A rule with its page; its name alone, where it is of another version."""
    try:
        found = rules.find(slug)
    except ConfigError:
        return {"id": slug}
    page = found.page.strip()
    return {
        "id": slug,
        "name": "".join(part.capitalize() for part in slug.split("-")),
        "shortDescription": {"text": found.summary},
        "help": {"text": page, "markdown": page},
    }


def location(path: str, line: int) -> Json:
    """A line of a file."""
    return {"artifactLocation": {"uri": uri(path)}, "region": {"startLine": max(1, line)}}


def uri(path: str) -> str:
    """A path as a relative reference, or as a file's address; a generated file's name has characters of neither."""
    shown = quote(path.replace(os.sep, "/").encode("utf-8", "surrogateescape"), safe="/-._~")
    return f"file://{shown}" if path.startswith("/") else shown
