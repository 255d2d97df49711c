"""The page of the field test is the rendering of its results, and every finding on it was judged."""

from __future__ import annotations

from tests.field import page


def test_the_page_is_the_rendering_of_the_results() -> None:
    """Nobody types a figure into it."""
    assert page.PAGE.read_text(encoding="utf-8") == page.text()


def test_every_finding_was_judged() -> None:
    """A finding without a verdict would count for nobody."""
    verdicts = page.verdicts()
    missing = [
        (name, page.key(finding))
        for name, one in page.results().items()
        for finding in one["findings"]
        if page.key(finding) not in verdicts.get(name, {})
    ]
    assert missing == []


def test_nothing_changed_in_log_mode() -> None:
    """No outcome of somebody else's test is another one in log mode, and nothing of ours failed."""
    for one in page.results().values():
        assert one["changed"]["log"] == []
        assert set(one["internal_errors"].values()) == {0}
