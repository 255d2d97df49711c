"""What IPython and notebooks show of findings and their exceptions: the story.

Functions, for the body of each class: IPython asks a class for its own ``__repr__`` before it looks at a base.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

_story: Callable[[Any], str] = repr


def told_by(story: Callable[[Any], str]) -> None:
    """``story`` makes the text of a finding from now on; the layer of messages says so when it is imported."""
    global _story
    _story = story


def pretty(thing: Any, printer: Any, cycle: bool) -> None:
    """``_repr_pretty_`` of a finding or of its exception."""
    printer.text(_text(thing))


def as_html(thing: Any) -> str:
    """``_repr_html_`` of a finding or of its exception."""
    return f'<pre style="white-space: pre-wrap">{html.escape(_text(thing))}</pre>'


def _text(thing: Any) -> str:
    return str(thing) if isinstance(thing, BaseException) else _story(thing)
