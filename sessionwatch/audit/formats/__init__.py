"""What an audit looks like, one file per format. `FORMATS` is the table that registers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import html, json, sarif, text

if TYPE_CHECKING:
    from ..changes import Changes
    from ..result import Audit

FORMATS: dict[str, Callable[[Audit, Changes | None, bool], str]] = {
    "text": text.render,
    "json": json.render,
    "sarif": sarif.render,
    "html": html.render,
}
