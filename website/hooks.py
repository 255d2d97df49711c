"""What the site has beside docs/: a page for each rule, and the files of the repository that belong to it.

MkDocs calls these functions (``hooks`` in mkdocs.yml). Nothing is written into docs/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from sessionwatch import rules

ROOT = Path(__file__).parent.parent
# Files outside docs/, by their address on the site. A link to one of them from any page is turned to that address.
BESIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "measuring.md",
    "dashboards/sessionwatch.json": "files/sessionwatch.json",
    "dashboards/sessionwatch-utf8.json": "files/sessionwatch-utf8.json",
    "dashboards/alerts.yaml": "files/alerts.yaml",
    "dashboards/alerts-utf8.yaml": "files/alerts-utf8.yaml",
    "dashboards/alerts_test.yaml": "files/alerts_test.yaml",
    "dashboards/README.md": "alerts.md",
}
BESIDE |= {
    name: f"files/{name}"
    for path in sorted((ROOT / "examples").rglob("*.*"))
    if path.suffix in (".py", ".ipynb") and (name := path.relative_to(ROOT).as_posix())
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def on_config(config: Any) -> Any:
    """The navigation, with the rules."""
    next(item for item in config.nav if "Rules" in item)["Rules"] += [f"rules/{rule.slug}.md" for rule in rules.ALL]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The rules' pages as ``sessionwatch explain`` prints them, and the files of `BESIDE`."""
    for rule in rules.ALL:
        files.append(File.generated(config, f"rules/{rule.slug}.md", content=rules.explain(rule.slug)))
    for name, address in BESIDE.items():
        files.append(File.generated(config, address, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the site has them; in the tables of the rules each rule links to its page."""
    address = page.file.src_uri
    source = next((name for name, there in BESIDE.items() if there == address), f"docs/{address}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        there = BESIDE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        return posixpath.relpath(there, posixpath.dirname(address) or ".") if there else link[1]

    if address == "rules.md":
        markdown = re.sub(r"^\| `([a-z-]+)` ", r"| [`\1`](rules/\1.md) ", markdown, flags=re.MULTILINE)
    return LINK.sub(moved, markdown)
