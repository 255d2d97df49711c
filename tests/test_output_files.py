"""Files: what is written to can't make a program wait or lead it astray, and nothing that is missing goes unsaid."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sessionwatch import config, rules
from sessionwatch.model import ConfigError, Finding
from sessionwatch.output import journal, safe
from sessionwatch.output.sinks import JsonLines
from sessionwatch.watch import baseline

FULL = "/dev/full"
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="needs /dev/full")


def finding(subject: str = "Order") -> Finding:
    return Finding("some-rule", "fault", subject, "it was lost", None, (), "commit")


def test_a_pipe_without_a_reader_is_an_error(tmp_path: Path) -> None:
    """A FIFO that nobody reads does not hang an installation."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="nobody reads from this pipe"):
        JsonLines(str(tmp_path / "pipe"))


def test_a_pipe_with_a_reader_gets_whole_lines(tmp_path: Path) -> None:
    """A FIFO that is read is written to."""
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    sink = None
    while sink is None:  # until the reader is there
        with contextlib.suppress(ConfigError):
            sink = JsonLines(str(tmp_path / "pipe"))
    sink(finding(), True)
    sink.close()
    reader.join()
    assert read[0].endswith("}\n")


def test_a_reader_that_stands_still_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where a pipe is full, findings are lost, the log says so once, and the program goes on."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    sink = JsonLines(str(tmp_path / "pipe"))
    for number in range(300):
        sink(finding(f"Order {number} {'x' * 1000}"), True)
    os.close(reader)
    sink.close()
    assert sink.failure is not None
    assert [record.message.partition(" can't")[0] for record in caplog.records] == [
        f"sessionwatch: output {tmp_path / 'pipe'}"
    ]


@needs_full
def test_a_full_disk_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk is no error in the program; the log has it once, and the sink knows."""
    sink = JsonLines(FULL)
    for number in range(3):
        sink(finding(str(number)), True)
    sink.close()
    assert sink.failure == "No space left on device"
    assert len(caplog.records) == 1


# -- links that somebody has put there ----------------------------------------------------------------


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links in here are another user's."""
    real = os.lstat

    def lstat(path: Any) -> Any:
        what = real(path)
        if "planted" not in str(path):
            return what
        return SimpleNamespace(st_mode=what.st_mode, st_uid=what.st_uid + 4711)

    monkeypatch.setattr(os, "lstat", lstat)


def test_a_planted_link_is_not_followed(tmp_path: Path, others: None) -> None:
    """Another user's symbolic link in a folder that others can write to is refused, also on the way to the file."""
    shared, target = tmp_path / "shared", tmp_path / "target"
    shared.mkdir()
    target.mkdir()
    shared.chmod(0o1777)
    (target / "precious").write_text("precious")
    (shared / "planted").symlink_to(target / "precious")
    (shared / "planted-folder").symlink_to(target)
    (tmp_path / "mine").symlink_to(shared / "planted")
    for path in (shared / "planted", shared / "planted-folder" / "new", tmp_path / "mine"):
        for write in (safe.text_file, JsonLines, lambda path: safe.replace_file(f"{path}x/planted", "")):
            with pytest.raises((OSError, ConfigError)):
                write(str(path))
    assert (target / "precious").read_text() == "precious"
    assert not (target / "new").exists()


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_other_links_are_followed(tmp_path: Path, mode: int) -> None:
    """Our own links are followed, wherever they are, and those in folders that only their owner can write to."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    (folder / "link").symlink_to(tmp_path / "real")
    with safe.text_file(str(folder / "link")) as stream:
        stream.write("written")
    assert (tmp_path / "real").read_text() == "written"


def test_another_users_link_in_a_private_folder_is_followed(tmp_path: Path, others: None) -> None:
    """Who owns a folder that nobody else can write to may have made a link in it."""
    (tmp_path / "planted").symlink_to(tmp_path / "real")
    tmp_path.chmod(0o755)
    safe.text_file(str(tmp_path / "planted")).close()
    assert (tmp_path / "real").exists()


def test_devices_are_written_to() -> None:
    """/dev/stderr is a chain of links to what has no path."""
    with safe.text_file("/dev/stderr") as stream:
        assert not stat.S_ISLNK(os.fstat(stream.fileno()).st_mode)
    with safe.text_file("/dev/null") as stream:
        stream.write("gone")


# -- what has no end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "."])
def test_a_baseline_is_a_regular_file(path: str) -> None:
    """A baseline that never ends, or is no file, is a mistake."""
    with pytest.raises(ConfigError, match=r"can't be read: (it is not a regular file|Is a directory)"):
        baseline.read(path)


def test_a_baseline_that_nobody_writes(tmp_path: Path) -> None:
    """A FIFO as a baseline does not hang."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="it is not a regular file"):
        baseline.read(str(tmp_path / "pipe"))


def test_a_baseline_that_goes_deep(tmp_path: Path) -> None:
    """JSON that is nested too deep is no baseline, and no traceback."""
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="can't be read"):
        baseline.read(str(tmp_path / "deep.json"))


@pytest.mark.parametrize("name", ["history.loads", "history.sessions", "history.findings"])
@pytest.mark.parametrize("value", [1e11, float("inf"), 10**30])
def test_what_is_kept_has_a_bound(name: str, value: float) -> None:
    """A setting that would ask for more memory than there is is a mistake that names the largest number."""
    with pytest.raises(ConfigError, match=re.escape("of at least 1 and at most 1000000")):
        config.load(rules.ALL, keywords={"settings": {name: value}})


# -- what a watched process could not write ------------------------------------------------------------


def test_a_process_that_can_not_write_says_so(tmp_path: Path) -> None:
    """The room for that is taken before the program starts."""
    journal.reserve(str(tmp_path))
    assert journal.failure(str(tmp_path)) is None
    size = (tmp_path / "failure").stat().st_size
    journal.note_failure(str(tmp_path), OSError(28, "No space left on device"))
    assert journal.failure(str(tmp_path)) == os.strerror(28)
    assert (tmp_path / "failure").stat().st_size == size


def test_rows_that_are_cut_off_are_left_out(tmp_path: Path) -> None:
    """The counts of a process whose disk was full are those that are whole."""
    (tmp_path / "counts-7").write_text("abcdef0123456789          3 0              5\nabcdef01234")
    assert list(journal.counts(str(tmp_path))) == [((7, "abcdef0123456789", 3, False), 5)]
