"""Writing a file: the old one or the new one, one line for a full disk, and nothing left behind."""

import errno
import multiprocessing
import os
import resource
import stat
import time

import numpy
import pytest
import torch
from conftest import forked

from common.errors import InputError
from common.files import write_csv, write_file, write_text
from common.writing import atomic
from utils.plots import plt, save_figure

WRITERS = {
    "m.pth": lambda path: write_file({"state_dict": {"w": torch.ones(5000)}}, path),
    "t.json": lambda path: write_text(path, "{}\n"),
    "t.csv": lambda path: write_csv(path, [{"a": 1.0}]),
    "a.npz": lambda path: savez(path),
    "f.png": lambda path: save_figure(plt.figure(figsize=(0.2, 0.2)), path),
    "f.pdf": lambda path: save_figure(plt.figure(figsize=(0.2, 0.2)), path),
}


def savez(path):
    with atomic(path) as file:
        numpy.savez_compressed(file, a=numpy.zeros(3), b=numpy.ones(2))


def fails_with(number: int, after: int = 0):
    """Replace os.write: fail from the call `after` on."""
    true, calls = os.write, iter(range(10**9))

    def write(handle, *data):
        if next(calls) >= after:
            raise OSError(number, os.strerror(number))
        return true(handle, *data)

    return write


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("call", ["write", "later write", "fsync"])
def test_a_full_disk_is_named_and_the_old_file_stays(name, call, tmp_path, monkeypatch):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fails_with(errno.ENOSPC))
    else:
        after = 0 if call == "write" or name.startswith("t.") else 1
        monkeypatch.setattr(os, "write", fails_with(errno.ENOSPC, after))
    with pytest.raises(InputError) as caught:
        WRITERS[name](path)
    monkeypatch.undo()
    said = str(caught.value)
    assert said.startswith(f"{path}: cannot be written (No space left on device); free some space")
    assert "\n" not in said
    assert path.read_bytes() == before and os.listdir(tmp_path) == [name]


def test_a_limit_of_the_system_is_a_full_disk(tmp_path):
    """ulimit -f: the real error of a real write, in the middle of a file."""

    def limited(folder):
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with pytest.raises(InputError, match=r"m\.pth: cannot be written \(File too large\)"):
            WRITERS["m.pth"](folder / "m.pth")
        os._exit(0 if not os.listdir(folder) else 1)

    process = forked(limited, tmp_path)
    process.join()
    assert process.exitcode == 0


def test_no_link_is_followed(tmp_path):
    """Neither one at the place of the file, which is replaced, nor an old name of the new file."""
    (tmp_path / "other").write_text("mine")
    os.symlink("other", tmp_path / "r.json")
    os.symlink("other", tmp_path / ".r.json.part")
    os.mkfifo(tmp_path / ".r.json.0123456789ab.part")
    write_text(tmp_path / "r.json", "{}")
    assert (tmp_path / "other").read_text() == "mine"
    assert (tmp_path / "r.json").read_text() == "{}" and not (tmp_path / "r.json").is_symlink()


def test_the_new_file_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "r.json", "{}")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "r.json")}
    assert len(modes) == 1


def test_file_and_folder_are_synced(tmp_path, monkeypatch):
    """The file before it is renamed, the folder after."""
    calls, true = [], os.fsync

    def fsync(handle):
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        calls.append((is_folder, (tmp_path / "r.json").exists()))
        true(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "r.json", "{}")
    assert calls == [(False, False), (True, True)]


@pytest.mark.parametrize(
    "place, said",
    [("missing/r.json", "No such file"), ("folder", "Is a directory"), ("f/r", "Not a directory")],
)
def test_a_place_that_cannot_be_written_is_named(place, said, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "f").touch()
    with pytest.raises(InputError, match=f"{place}: cannot be written \\({said}"):
        write_text(tmp_path / place, "text")
    assert sorted(os.listdir(tmp_path)) == ["f", "folder"]


def test_what_a_kill_left_is_removed_and_what_another_writes_is_not(tmp_path):
    """A name is free again once nobody has its lock."""

    def stays(path, ready):
        with atomic(path) as file:
            file.write(b"half")
            ready.set()
            time.sleep(60)

    path, ready = tmp_path / "r.json", multiprocessing.Event()
    process = forked(stays, path, ready)
    assert ready.wait(30)
    write_text(path, "{}")
    assert len(os.listdir(tmp_path)) == 2  # the other's is left alone
    process.kill()
    process.join()
    write_text(path, "{}")
    assert os.listdir(tmp_path) == ["r.json"]


def test_an_error_of_the_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), atomic(tmp_path / "r.json"):
        raise KeyError
    assert not os.listdir(tmp_path)


def test_a_name_that_is_not_utf_8_is_written(tmp_path):
    write_text(tmp_path / "t", "run \udcff")
    assert (tmp_path / "t").read_text() == "run \\udcff"
