"""Replacing files: whole, together, and without rubbish."""

import signal
import subprocess
import sys

import pytest

from pytest_slmperf.run.replacing import HalfReplacedError, replace_files

WRITER = """
import sys
from pathlib import Path
from pytest_slmperf.run.replacing import replace_files
print("ready", flush=True)
while True:
    replace_files({Path(sys.argv[1]): b"x" * 3_000_000})
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that replaces a file again and again."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "file")], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_and_removed_together(tmp_path):
    """Several files get their contents in one call, in folders that are made, and None removes one."""
    (tmp_path / "old").write_text("old")
    replace_files({tmp_path / "old": None, tmp_path / "a": b"a", tmp_path / "deep" / "b": b"b", tmp_path / "no": None})
    assert names(tmp_path) == ["a", "deep"]
    assert (tmp_path / "deep" / "b").read_bytes() == b"b"


def test_a_refused_file_leaves_all_as_they_were(tmp_path):
    """Where one of several can't be written, the error names it, and no other is changed."""
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileExistsError) as refused:
        replace_files({tmp_path / "a": b"new", tmp_path / "a" / "b": b"b"})
    assert refused.value.filename == str(tmp_path / "a" / "b")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_refusal_in_the_middle_is_told_from_one_before(tmp_path):
    """Once a target is replaced, the error says so, and names the one that was refused."""
    (tmp_path / "a").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory") as before:
        replace_files({tmp_path / "folder": b"new", tmp_path / "a": b"new"})
    assert not isinstance(before.value, HalfReplacedError)
    assert (tmp_path / "a").read_text() == "old"
    with pytest.raises(HalfReplacedError) as amid:
        replace_files({tmp_path / "a": b"new", tmp_path / "folder": b"new"})
    assert amid.value.filename == str(tmp_path / "folder")
    assert names(tmp_path) == ["a", "folder"]
    assert (tmp_path / "a").read_text() == "new"


def test_what_killed_writers_left_is_taken_away(tmp_path, writer):
    """However often a writer is killed, the next one leaves nothing but the file."""
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    for name in (".file.0badcafe.tmp", ".file.1badcafe.tmp", ".file2.0badcafe.tmp"):
        (tmp_path / name).write_text("half")
    replace_files({tmp_path / "file": b"whole"})
    assert names(tmp_path) == [".file2.0badcafe.tmp", "file"]


def test_a_living_writer_is_not_disturbed(tmp_path, writer):
    """Two that replace one file at once both succeed: what the other is writing isn't taken for left over."""
    for _ in range(50):
        replace_files({tmp_path / "file": b"y" * 100})
        assert len((tmp_path / "file").read_bytes()) in (100, 3_000_000)
    assert writer.poll() is None


def test_a_name_with_the_signs_of_a_pattern(tmp_path):
    """Names with brackets and stars are names."""
    (tmp_path / ".a.0badcafe.tmp").write_text("of another file")
    replace_files({tmp_path / "[a]*": b"x"})
    assert names(tmp_path) == [".a.0badcafe.tmp", "[a]*"]
