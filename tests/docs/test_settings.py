"""The page of the settings is what the package says."""

from __future__ import annotations

from sessionwatch import config, rules
from tests import setting_table


def test_the_page_is_what_is_generated() -> None:
    """A new key, default or help changes the page: python -m tests.setting_table > docs/settings.md."""
    assert setting_table.PAGE.read_text(encoding="utf-8") == setting_table.page()


def test_the_page_has_every_key() -> None:
    """Each value that a configuration holds has a row."""
    names = set(config.load(rules.ALL, environ={}).origins)
    assert [name for name in names if f"| `{name}` |" not in setting_table.page()] == []
