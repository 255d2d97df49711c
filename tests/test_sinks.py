"""Where findings go: JSON Lines files, the log, a callback."""

# ruff: noqa: F811

from __future__ import annotations

import importlib.util
import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import sessionwatch
from sessionwatch import ConfigError
from sessionwatch.model import Evidence, Finding, Site
from sessionwatch.output import sinks
from tests.programs.shop import _our_errors_raise, lose, reuse, shop  # noqa: F401 (fixtures)


def finding(number: int = 1, **fields: Any) -> Finding:
    """A finding as a rule makes it."""
    site = Site(f"/shop/views{number}.py", 41, "ship")
    story = (Evidence("closed", site, "MainThread", None, "S1"), Evidence("opened", None, note="place unknown"))
    return Finding(
        "lost-writes", "fault", "Order", "1 Order object was written, but …", site, story, "commit", **fields
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- JSON Lines ---------------------------------------------------------------------------------------


def test_line_is_written_at_once(tmp_path: Path) -> None:
    """A finding is in the file as soon as it was seen, in one line of ASCII with all its fields."""
    path = tmp_path / "found.jsonl"
    sink = sinks.JsonLines(str(path))
    sink(finding(), True)
    assert path.read_bytes().isascii()
    assert path.read_bytes().count(b"\n") == 1
    (line,) = lines(path)
    assert line["message"] == "1 Order object was written, but …"
    assert (line["rule"], line["path"], line["line"], line["count"]) == ("lost-writes", "/shop/views1.py", 41, 1)
    assert line["evidence"][1]["path"] is None
    assert line["pid"] == os.getpid()
    sink.close()


def test_grown_count_is_written_once_more(tmp_path: Path) -> None:
    """A finding that was seen again is written once more at the end, with its final count; others are not."""
    path = tmp_path / "found.jsonl"
    sink = sinks.JsonLines(str(path))
    once, often = finding(1), finding(2)
    sink(once, True)
    sink(often, True)
    for _ in range(4):
        often.count += 1
        sink(often, False)
    assert len(lines(path)) == 2
    sink.close()
    sink.close()
    assert [(line["path"], line["count"]) for line in lines(path)] == [
        ("/shop/views1.py", 1),
        ("/shop/views2.py", 1),
        ("/shop/views2.py", 5),
    ]


def test_lines_of_one_function_are_written_apart(tmp_path: Path) -> None:
    """What has one fingerprint and two lines in the program is two findings, each with a count of its own."""
    path = tmp_path / "found.jsonl"
    sink = sinks.JsonLines(str(path))
    both = [finding(), finding()]
    both[1].site = Site("/shop/views1.py", 57, "ship")
    for item in both:
        sink(item, True)
    for item in (both[0], both[1], both[1]):
        item.count += 1
        sink(item, False)
    sink.close()
    assert [(line["line"], line["count"]) for line in lines(path)] == [(41, 1), (57, 1), (41, 2), (57, 3)]
    assert len({line["fingerprint"] for line in lines(path)}) == 1


def test_appends(tmp_path: Path) -> None:
    """A file that exists is appended to."""
    path = tmp_path / "found.jsonl"
    for number in (1, 2):
        sink = sinks.JsonLines(str(path))
        sink(finding(number), True)
        sink.close()
    assert [line["path"] for line in lines(path)] == ["/shop/views1.py", "/shop/views2.py"]


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    """Lines of several threads, and of two sinks on one file, do not mix."""
    path = tmp_path / "found.jsonl"
    both = [sinks.JsonLines(str(path)) for _ in range(2)]

    def write(number: int) -> None:
        for again in range(100):
            both[number % 2](finding(100 * number + again), True)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(path)) == 600


def test_nothing_after_close(tmp_path: Path) -> None:
    """A finding after the end is not written, and is no error."""
    path = tmp_path / "found.jsonl"
    sink = sinks.JsonLines(str(path))
    sink.close()
    sink(finding(), True)
    assert path.read_text() == ""


def test_relative_path_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its working directory does not move the file."""
    monkeypatch.chdir(tmp_path)
    sink = sinks.JsonLines("found.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sink(finding(), True)
    sink.close()
    assert len(lines(tmp_path / "found.jsonl")) == 1


@pytest.mark.parametrize("path", ["no/such/folder/found.jsonl", "."])
def test_unwritable(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that can't be opened is a ConfigError with its name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"output {path} can't be written"):
        sinks.JsonLines(path)


def test_file_is_not_inherited(tmp_path: Path) -> None:
    """The descriptor is closed in programs that this one starts."""
    sink = sinks.JsonLines(str(tmp_path / "found.jsonl"))
    assert sink._file is not None
    assert os.get_inheritable(sink._file.number()) is False
    assert stat.S_ISREG(os.fstat(sink._file.number()).st_mode)
    sink.close()


def test_output_of_an_installation(shop: Engine, tmp_path: Path) -> None:
    """``output=`` writes findings first and final counts at uninstall, allowed ones with their reason."""
    path = tmp_path / "found.jsonl"
    with sessionwatch.watching(output=path, log=False):
        for _ in range(3):
            lose(shop)
        with sessionwatch.allow("use-after-close", reason="legacy"):
            reuse(shop)
        assert [line["count"] for line in lines(path)] == [1, 1]
    assert [(line["rule"], line["count"], line["allowed"]) for line in lines(path)] == [
        ("lost-writes", 1, None),
        ("use-after-close", 1, "legacy"),
        ("lost-writes", 3, None),
    ]


def test_disk_that_is_full(shop: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A write that fails is our own error: logged once, the program goes on."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    monkeypatch.delenv("SESSIONWATCH_TESTING")
    with sessionwatch.watching(output="/dev/full", log=False) as watch:
        lose(shop)
        lose(shop)
    assert [found.count for found in watch.findings] == [2]
    assert "No space left" in caplog.text
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_lines_follow_the_schema(shop: Engine, tmp_path: Path) -> None:
    """What is written is valid by the JSON Schema of the package."""
    jsonschema = pytest.importorskip("jsonschema")
    spec = importlib.util.find_spec("sessionwatch")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "schema.json").read_text())
    path = tmp_path / "found.jsonl"
    with sessionwatch.watching(output=path, log=False):
        lose(shop)
        reuse(shop)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for line in lines(path):
        validator.validate(line)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**line, "count": "many"})


# -- log ----------------------------------------------------------------------------------------------


def test_log_record(caplog: pytest.LogCaptureFixture) -> None:
    """One record with the story and the finding, ERROR for a fault; none for repetitions and allowed ones."""
    first = finding()
    sinks.log(first, True)
    sinks.log(first, False)
    sinks.log(finding(allowed="on purpose"), True)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("sessionwatch", logging.ERROR)
    assert record.args[0].finding is first  # type: ignore[index,union-attr]
    assert record.getMessage().startswith("lost-writes: 1 Order object was written")


def test_log_false_logs_nothing(shop: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """``log=False`` keeps findings out of the log."""
    with sessionwatch.watching(log=False) as watch:
        lose(shop)
    assert watch.findings
    assert caplog.records == []


def test_percent_signs_survive(caplog: pytest.LogCaptureFixture) -> None:
    """A story with a percent sign in it is no format."""
    strange = finding()
    strange.message = "100 %s of %(all)d"
    sinks.log(strange, True)
    assert "100 %s of %(all)d" in caplog.text


def test_path_that_is_not_utf8(tmp_path: Path) -> None:
    """A file name with bytes that are no text is written all the same."""
    path = tmp_path / "found.jsonl"
    strange = finding()
    strange.site = Site(os.fsdecode(b"/shop/\xff.py"), 1, "f")
    sink = sinks.JsonLines(str(path))
    sink(strange, True)
    sink.close()
    assert lines(path)[0]["path"] == "/shop/\udcff.py"
