"""Every link between our Markdown files leads somewhere, also where they are read without the site."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.links import anchors, broken

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_links_of_a_page_lead_somewhere(path: Path) -> None:
    """The file is there, and so is the heading."""
    assert broken(path) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    """A missing file and a missing heading; not what stands in a code block, and no address with a scheme."""
    (tmp_path / "b.md").write_text("# What `it` costs\n", encoding="utf-8")
    page = tmp_path / "a.md"
    text = "[1](b.md#what-it-costs) [2](b.md#what) [3](c.md) [4](#a) [5](https://x.org)\n# A\n```\n[6](d.md)\n```\n"
    page.write_text(text, encoding="utf-8")
    assert broken(page) == ["b.md#what", "c.md"]
    assert anchors("## A b, c-d!\n```\n# no\n```\n") == {"a-b-c-d"}
