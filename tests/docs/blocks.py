"""Every fenced block of the README and of docs/, and how it is run. A comment on the line above may say that:

``<!-- save: shop.py -->``            written to that file of the page's folder; Python in it is compiled
``<!-- into: shop.py -->``            the functions in it replace those of the same name in that file
``<!-- part of: examples/x.py -->``   found in that file, word for word; its own tests run it
``<!-- run by: tests/x.py::test -->`` that test, or that script, runs it
``<!-- illustration: why -->``        not run

Without a comment, Python is run as a program that goes on from block to block of its page, the commands of a console
are run and their output compared, and TOML and INI are read as our configuration. Other languages need a comment, but
for ``text`` (no code).
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:^ *<!-- (?P<how>[a-z ]+): (?P<what>[^\n]*?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
HOW = ("save", "into", "part of", "run by", "illustration")
RUN = ("python", "console", "toml", "ini")


@dataclass(frozen=True)
class Block:
    """One fenced block: its line, its language, its text, and what the comment above it says."""

    line: int
    language: str
    text: str
    how: str = ""
    what: str = ""


def blocks(page: str) -> list[Block]:
    """The blocks of a page's text, in order."""
    found = []
    for match in FENCE.finditer(page):
        line = page.count("\n", 0, match.start("language")) + 1
        text = dedent(match["text"])
        found.append(Block(line, match["language"], text, match["how"] or "", match["what"] or ""))
    return found


def unexplained(block: Block) -> str:
    """What is missing for a block to be run or named as what it is; empty where nothing is."""
    if block.how and block.how not in HOW:
        return f"line {block.line}: {block.how!r} is none of {', '.join(HOW)}"
    if not block.how and block.language not in (*RUN, "text"):
        return f"line {block.line}: a block of {block.language or 'no language'} that nothing runs"
    if block.how == "run by" and not _there(block.what):
        return f"line {block.line}: there is no {block.what}"
    if block.how == "part of" and not _part(block):
        return f"line {block.line}: it is not in {block.what} word for word"
    return ""


def _there(test: str) -> bool:
    """Whether a test, written as pytest does, or a script exists."""
    name, _, function = test.partition("::")
    return (ROOT / name).is_file() and (not function or f"def {function}(" in (ROOT / name).read_text(encoding="utf-8"))


def _part(block: Block) -> bool:
    """Whether each piece of a block (between lines of ``...``) stands in its file, indentation apart."""
    file = _plain((ROOT / block.what).read_text(encoding="utf-8"))
    return all(_plain(piece) in file for piece in re.split(r"^ *\.\.\.$", block.text, flags=re.MULTILINE))


def _plain(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console, each with the output that is shown below it."""
    parts = re.split(r"^\$ (.*(?:\\\n.*)*)\n", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def as_shown(shown: str, output: str) -> bool:
    """Whether output is what a page shows: ``...`` stands for any lines, or for the rest of its line."""
    pattern = ""
    for line in shown.rstrip("\n").splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part.rstrip()) for part in line.split("...")) + r"[ \t]*\n"
    return re.fullmatch(pattern, output.rstrip("\n") + "\n") is not None


def into(source: str, functions: str) -> str:
    """A module's source with those functions in place of its own."""
    for new in ast.parse(functions).body:
        assert isinstance(new, ast.FunctionDef | ast.AsyncFunctionDef)
        old = next(node for node in ast.parse(source).body if getattr(node, "name", "") == new.name)
        lines = source.splitlines(keepends=True)
        replacement = ast.get_source_segment(functions, new)
        source = "".join([*lines[: old.lineno - 1], f"{replacement}\n", *lines[old.end_lineno :]])
    return source
