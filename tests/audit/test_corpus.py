"""A corpus of small programs per anti-pattern: each wrong one is found at its mark, no right one is.

``corpus/NAME.txt`` holds the snippets of the anti-pattern NAME. ``# certain`` and ``# likely`` mark the lines.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sessionwatch.audit import patterns
from sessionwatch.audit.analyse import audit
from sessionwatch.audit.result import Entry

CORPUS = Path(__file__).parent / "corpus"
PRELUDE = (CORPUS / "prelude.txt").read_text(encoding="utf-8")
SHOP = (CORPUS / "shop.py").read_text(encoding="utf-8")
MARK = re.compile(r"# (certain|likely)$")


def snippets() -> list[tuple[str, str, str, str]]:
    """Anti-pattern, "wrong" or "right", title, text."""
    found = []
    for path in sorted(CORPUS.glob("*-*.txt")):
        for part in path.read_text(encoding="utf-8").split("=== ")[1:]:
            heading, _, text = part.partition("\n")
            kind, _, title = heading.partition(": ")
            found.append((path.stem, kind, title, text))
    return found


ALL = snippets()


def look(text: str, folder: Path) -> list[Entry]:
    """What the audit says of a snippet, beside the shop that it imports."""
    (folder / "shop.py").write_text(SHOP, encoding="utf-8")
    (folder / "program.py").write_text(PRELUDE + text, encoding="utf-8")
    found = audit(str(folder), workers=1)
    assert not found.unparsed
    return [entry for entry in found.entries if entry.path.endswith("program.py")]


def marked(text: str) -> set[tuple[int, str]]:
    lines = (PRELUDE + text).splitlines()
    return {(number, match[1]) for number, line in enumerate(lines, 1) if (match := MARK.search(line))}


@pytest.mark.parametrize(("name", "kind", "title", "text"), ALL, ids=[f"{each[0]}: {each[2]}" for each in ALL])
def test_snippet(name: str, kind: str, title: str, text: str, tmp_path: Path) -> None:
    """A wrong one is found where it is marked and nowhere else; of a right one nothing is certain."""
    entries = look(text, tmp_path)
    told = [f"{entry.line}: {entry.pattern} {entry.confidence}: {entry.message}" for entry in entries]
    found = {(entry.line, entry.confidence) for entry in entries if entry.pattern == name}
    assert found == marked(text), told
    assert bool(found) == (kind == "wrong"), told
    if kind == "right":
        assert not [entry for entry in entries if entry.confidence == "certain"], told


@pytest.mark.parametrize("name", [pattern.name for pattern in patterns.ALL])
def test_corpus_is_large_enough(name: str) -> None:
    """Each anti-pattern has at least twelve wrong and twelve right snippets."""
    kinds = [kind for pattern, kind, _, _ in ALL if pattern == name]
    assert (kinds.count("wrong") >= 12, kinds.count("right") >= 12) == (True, True), kinds
