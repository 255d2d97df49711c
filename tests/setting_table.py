"""The page of the settings: an introduction, and what ``sessionwatch config --all`` says of each key.

``python -m tests.setting_table > docs/settings.md`` writes the page; a test compares it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sessionwatch.command.settings import markdown

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"

HEAD = """\
# Settings

Made by `python -m tests.setting_table > docs/settings.md` from the package: not typed.

Each rule can be set to `off`, `log` or `raise`; some have settings of their own.

```toml
[tool.sessionwatch]
mode = "log"

[tool.sessionwatch.rules]
detached-touch = "off"

[tool.sessionwatch.settings]
use-after-close.after = "any"
```

## Which value counts

Keyword arguments of `install()` come before the environment (`SESSIONWATCH_MODE`, `SESSIONWATCH_OUTPUT`,
`SESSIONWATCH_RULES="detached-touch=log"`, …), and that before `pyproject.toml`, and that before the default. One switch
is for whoever runs the program: `SESSIONWATCH_MODE=off` counts even where the program says `install(mode=...)`.

```console
$ sessionwatch config
name  ...
mode  ...
...
```

prints the values that apply in a folder, and where each came from. A name that does not exist is refused, with the
nearest one that does. pytest has settings of its own beside these: [pytest](pytest.md#options-and-settings).

`sessionwatch check shop.db:SessionLocal` looks at the settings of an engine or a sessionmaker, which the rule
`config` is about, without running the program.

## Every key

As `sessionwatch config --all` prints them (`--format json` for tools). In `pyproject.toml`, `rules.…` stand below
`[tool.sessionwatch.rules]`, `settings.…` below `[tool.sessionwatch.settings]`, and the others below
`[tool.sessionwatch]`.

"""


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([HEAD + next(rows := markdown()), *rows, ""])


if __name__ == "__main__":
    sys.stdout.write(page())
