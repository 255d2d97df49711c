"""What does not show, or would be taken for a command, as text that does: the border of every format for people.

Names come from programs, and a program's tables, classes, routes, threads and files may be called anything.
"""

from __future__ import annotations

import re
import unicodedata

_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # control, format (bidirectional too), surrogates, separators
_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#(?:vso)?\[)")  # of GitHub Actions and Azure Pipelines, which read a job's log


def visible(text: str) -> str:
    """``text`` in one line: each character that does not show is written as Python would, ``\\x1b`` or ``\\u202e``."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_visible, text))
    return _COMMAND.sub(lambda found: (found[1] or "") + (r"\x3a" if found[0].endswith(":") else r"\x23"), text)


def visible_lines(text: str) -> str:
    """The same for a text that may have several lines."""
    return "\n".join(map(visible, text.split("\n")))


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _HIDDEN:
        return char
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
