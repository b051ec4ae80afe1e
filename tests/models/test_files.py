"""Files are complete or absent, and errors of writing have the whole path and say what to do."""

import errno
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastmmd.models import files
from fastmmd.models.files import errors_named, require_writable, write_atomically


def write(path, content="new"):
    with write_atomically(path) as file:
        file.write(content)


@contextmanager
def files_limited(size):
    """Files that grow beyond `size` bytes fail to, as on a full disk: the write itself fails, without a file name."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_root():
    """Rights are those of a user whom permissions bind."""
    if not hasattr(os, "geteuid"):
        pytest.skip("permissions are those of POSIX")
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def dead():
    """The number of a process that lives no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_drafts_of_killed_processes_are_removed(tmp_path, dead):
    host = socket.gethostname()
    (tmp_path / f".a.txt.{host}.{dead}").write_text("half")
    kept = {f".a.txt.{host}.{os.getppid()}", f".a.txt.elsewhere.{dead}", f".a.txt.{host}.old", f"a.txt.{host}.{dead}"}
    for name in kept:
        (tmp_path / name).write_text("")
    write(tmp_path / "a.txt")
    assert {file.name for file in tmp_path.iterdir()} == {*kept, "a.txt"}
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("where", ["replace", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_error_without_a_name_gets_the_whole_path(tmp_path, monkeypatch, where, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.txt"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(files.os if where == "replace" else files, where, fail, raising=False)
        with pytest.raises(OSError, match=f"{os.strerror(number)}; .*choose another.*: '{path}'$") as caught:
            write(path.relative_to(tmp_path))
    assert caught.value.errno == number
    assert type(caught.value) is type(OSError(number, ""))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_of_other_files_are_not_changed(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"No such file or directory: 'absent'$"),
        write_atomically(tmp_path / "a"),
    ):
        Path("absent").read_text()
    with pytest.raises(OSError, match=r"^about a picture$"), write_atomically(tmp_path / "a"):
        raise OSError("about a picture")
    with pytest.raises(PermissionError, match=r"denied: 'other'$"), errors_named(tmp_path):
        raise PermissionError(errno.EACCES, "denied", "other")
    with pytest.raises(PermissionError, match=r"denied: '/'$"), errors_named(tmp_path):  # data may lie above the output
        raise PermissionError(errno.EACCES, "denied", "/")


def test_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a"):
        for fails in (write, lambda path: require_writable(path.parent)):
            with pytest.raises(OSError, match="a file stands where a folder is needed") as caught:
                fails(path)
            assert str(tmp_path / "file") in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=f"a folder stands where a file is needed: .*: '{tmp_path / 'folder'}'"):
        write(tmp_path / "folder")
    assert len(list(tmp_path.iterdir())) == 2


def test_full_disk(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files_limited(1000), pytest.raises(OSError, match=f"File too large; free space there, .*: '{path}'$"):
        write(path, "x" * 5000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("below", ["", "new"])
def test_folder_without_permission(tmp_path, below):
    tmp_path.chmod(0o555)
    with no_root():
        for fails in (require_writable, lambda folder: write(folder / "a.txt")):
            with pytest.raises(PermissionError, match="Permission denied; make it writable for this user, ") as caught:
                fails(tmp_path / below)
            assert str(tmp_path / below) in str(caught.value)
