"""The text of a finding: headline, evidence, fix, each in its place."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sessionwatch import ConfigError, Finding, FindingError, explain, rules
from sessionwatch.model import Evidence, RawSite, Site, project_root
from sessionwatch.output.messages import headline, render

HERE = os.getcwd()
VIEWS = Site(os.path.join(HERE, "shop", "views.py"), 41, "ship_order")
REPO = Site(os.path.join(HERE, "shop", "repo.py"), 20, "get_order")


def finding(*evidence: Evidence, **changes: Any) -> Finding:
    """A finding of ``detached-write`` as STYLE shows it."""
    fields: dict[str, Any] = {
        "rule": "detached-write",
        "severity": "fault",
        "subject": "Order.status",
        "message": "Order.status was changed, but no session will save it",
        "site": VIEWS,
        "evidence": evidence,
        "fix": "make the change before the session closes",
    }
    return Finding(**{**fields, **changes})


def rows(text: str) -> list[str]:
    """The lines between the headline and the fix."""
    return text.split("\n")[1 : text[: text.index("\n  fix: ")].count("\n") + 1]


def test_the_form() -> None:
    """Headline, aligned evidence, fix, where to read more; details stand in a column of their own."""
    text = render(
        finding(
            Evidence("changed", VIEWS),
            Evidence("detached", REPO, session="S3", note="closed here"),
            Evidence("loaded", Site(os.path.join(HERE, "shop", "repo.py"), 8, "get_order")),
            Evidence("opened", REPO, thread="MainThread", task="checkout-worker", session="S3"),
        )
    )
    assert text == (
        "detached-write: Order.status was changed, but no session will save it\n"
        "  changed   shop/views.py:41 in ship_order\n"
        "  detached  shop/repo.py:20 in get_order     session S3 closed here\n"
        "  loaded    shop/repo.py:8 in get_order\n"
        "  opened    shop/repo.py:20 in get_order     session S3, task checkout-worker\n"
        "  fix: make the change before the session closes\n"
        "  more: sessionwatch explain detached-write"
    )


def test_missing_evidence_says_why() -> None:
    """A gap in the history is told, not hidden."""
    text = render(finding(Evidence("opened", None, session="S3", note="opened before sessionwatch was installed")))
    assert rows(text) == ["  opened  opened before sessionwatch was installed     session S3"]


def test_missing_evidence_without_a_reason() -> None:
    """Where not even the reason is known, that is said."""
    assert rows(render(finding(Evidence("opened", None)))) == ["  opened  place unknown"]


def test_a_finding_without_evidence() -> None:
    """Headline and fix stand without evidence, too."""
    assert render(finding()).split("\n")[1] == "  fix: make the change before the session closes"


@pytest.mark.parametrize(
    ("evidence", "detail"),
    [
        ({"thread": "MainThread"}, ""),
        ({"thread": "worker-3"}, "thread worker-3"),
        ({"thread": "worker-3", "task": "Task-9"}, "task Task-9"),
        ({"session": "S3", "thread": "worker-3"}, "session S3, thread worker-3"),
        ({"session": "S3", "note": "closed here"}, "session S3 closed here"),
        ({"session": "S3", "note": "by commit()"}, "session S3 by commit()"),
        ({"session": "S3", "note": "2 statements"}, "session S3, 2 statements"),
        ({"note": "expunged here"}, "expunged here"),
    ],
)
def test_details(evidence: dict[str, Any], detail: str) -> None:
    """Session, note, and the task or a thread that is not the main one."""
    (row,) = rows(render(finding(Evidence("opened", REPO, **evidence))))
    assert row == ("  opened  shop/repo.py:20 in get_order" + (f"     {detail}" if detail else ""))


def test_the_unit_stands_below_the_evidence() -> None:
    """The request or task in which it happened is told, unless the finding is about it."""
    for unit in ("POST /orders/{id}", "changed"):
        text = render(finding(Evidence("changed", VIEWS), unit=unit))
        assert rows(text) == ["  changed  shop/views.py:41 in ship_order", f"  during   {unit}"]
    about = finding(Evidence("changed", VIEWS), unit="nightly", subject="nightly")
    assert rows(render(about)) == ["  changed  shop/views.py:41 in ship_order"]


def test_a_fix_of_several_lines_is_aligned() -> None:
    """Later lines of a fix stand under its first one."""
    text = render(finding(fix="do this,\nor do that"))
    assert text.split("\n")[1:3] == ["  fix: do this,", "       or do that"]


def test_an_allowed_finding_tells_its_reason() -> None:
    """The reason of the allowance is part of the story."""
    assert "\n  allowed: dry run\n" in render(finding(allowed="dry run"))


def test_colour_changes_no_word() -> None:
    """With colour the text is the same once the escapes are taken out, and red means fault."""
    given = finding(Evidence("opened", REPO, session="S3"))
    assert re.sub(r"\033\[\d+m", "", render(given, colour=True)) == render(given)
    assert "\033" not in render(given)
    assert "\033[31m" in headline(given, colour=True)
    assert "\033[31m" not in headline(finding(severity="advice"), colour=True)


def test_paths_outside_of_the_working_directory_are_absolute(tmp_path: Path) -> None:
    """A path below the working directory is shown relative to it, any other in full."""
    place = Site(str(tmp_path / "views.py"), 3, "ship")
    assert rows(render(finding(Evidence("changed", place)))) == [f"  changed  {tmp_path}/views.py:3 in ship"]


def test_a_neighbour_of_the_working_directory_is_not_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``/srv/shop-old`` does not lie in ``/srv/shop``."""
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    place = Site(str(tmp_path / "shop-old" / "views.py"), 3, "ship")
    assert place.shown_path == str(tmp_path / "shop-old" / "views.py")


def test_a_program_without_a_file_has_a_path() -> None:
    """``<stdin>`` is shown as it is."""
    assert Site("<stdin>", 1, "<module>").shown_path == "<stdin>"


def test_a_removed_working_directory_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The story can be told where os.getcwd() fails."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "views.py:41" in render(finding(Evidence("changed", VIEWS)))
    monkeypatch.chdir(tmp_path)


def test_the_fingerprint_survives_edits_above_the_place() -> None:
    """Rule, subject, file and function make a finding the same; its line and its text do not."""
    moved = Site(VIEWS.path, 99, VIEWS.function)
    same = finding(site=moved, message="something else", fix="something else")
    assert same.fingerprint == finding().fingerprint
    others = [
        finding(rule="lost-writes"),
        finding(subject="Order.notes"),
        finding(site=REPO),
        finding(site=Site(VIEWS.path, 41, "other")),
    ]
    assert len({item.fingerprint for item in [finding(), *others]}) == 5
    assert re.fullmatch("[0-9a-f]{16}", finding().fingerprint)


def test_the_fingerprint_is_the_same_from_every_folder_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a project it is that of the root; the path of the finding is seen from the working directory."""
    below = tmp_path / "shop" / "deep"
    below.mkdir(parents=True)
    place = Site(str(tmp_path / "shop" / "views.py"), 41, "ship")
    monkeypatch.chdir(tmp_path)
    at_root = finding(site=place).fingerprint
    monkeypatch.chdir(below)
    assert finding(site=place).fingerprint != at_root
    with project_root(str(tmp_path)):
        found = finding(site=place)
        assert (found.fingerprint, found.path) == (at_root, place.path)
        assert place.project_path == os.path.join("shop", "views.py")
    assert (found.fingerprint, place.project_path) == (at_root, place.path)  # what was told stays


def test_a_file_outside_of_the_project_is_seen_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a configuration file of pytest's in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    with project_root(str(tmp_path / "settings")):
        assert Site(str(tmp_path / "views.py"), 41, "ship").project_path == "views.py"
        assert Site("<stdin>", 1, "<module>").project_path == "<stdin>"
        assert Site("/elsewhere/views.py", 41, "ship").project_path == "/elsewhere/views.py"


def test_what_is_told_once() -> None:
    """A fingerprint is told once a line, allowed or not; what was typed into a prompt, once a statement."""
    typed = [RawSite(compile("pass", "<stdin>", "single"), 0) for _ in range(2)]
    others = [
        finding(site=Site(VIEWS.path, 99, VIEWS.function)),
        finding(allowed="on purpose"),
        *(finding(site=place.resolve()) for place in typed),
    ]
    assert len({item.key for item in [finding(), *others]}) == 5
    assert finding(message="something else", count=7).key == finding().key
    assert finding(site=typed[0].resolve()).key == others[2].key
    assert typed[0].resolve() == typed[1].resolve()


def test_the_error_carries_the_story() -> None:
    """FindingError's text is the story it was given, and a headline without one."""
    given = finding()
    assert str(FindingError(given, render(given))) == render(given)
    assert str(FindingError(given)) == headline(given)


def test_a_log_record_takes_the_story_as_it_is() -> None:
    """A percent sign in a path or a name is not taken for a format."""
    given = finding(message="100%s of Order.status were changed")
    record = logging.LogRecord("sessionwatch", logging.WARNING, "", 0, "%s", (render(given),), None)
    assert record.getMessage() == render(given)


@pytest.mark.parametrize("rule", rules.ALL, ids=lambda rule: rule.slug)
def test_the_tone_of_a_page(rule: Any) -> None:
    """Plain words: nothing is potential, and nothing is shouted."""
    text = explain(rule.slug)
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert "potential" not in prose.lower()
    assert "!" not in prose
    assert all(len(row) <= 120 for row in text.splitlines())


def test_an_unknown_rule_has_no_page() -> None:
    """explain() refuses with the nearest name."""
    with pytest.raises(ConfigError, match="Did you mean 'session-leak'"):
        explain("sesion-leak")
