"""What an audit looks like, one file per format. `FORMATS` is the table that registers them."""

from __future__ import annotations

from collections.abc import Callable

from ..changes import Changes
from ..result import Audit
from . import html, json, sarif, text

FORMATS: dict[str, Callable[[Audit, Changes | None, bool], str]] = {
    "text": text.render,
    "json": json.render,
    "sarif": sarif.render,
    "html": html.render,
}
