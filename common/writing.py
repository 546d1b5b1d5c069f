"""Write every file of the product: beside its path, then renamed over it.

A reader finds the old file or the new one, never a part of one. A killed process or a full disk
leaves the old file whole. Nothing here imports torch.
"""

import contextlib
import csv
import errno
import fcntl
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from common.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # file systems that cannot sync a folder


class Part(io.RawIOBase):
    """Hold a file that is being written, and remember the first write that failed.

    torch.save and zipfile replace that error by their own, which names no file.
    """

    def __init__(self, handle: int):
        """Take the descriptor of a file opened for writing."""
        self.handle = handle
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset, and return the new position in bytes."""
        return os.lseek(self.handle, offset, whence)

    def write(self, data) -> int:
        """Write all bytes of `data`, and return their number."""
        left = memoryview(data).cast("B")
        number = len(left)
        try:
            while left:
                left = left[os.write(self.handle, left) :]
        except OSError as error:
            self.error = self.error or error
            raise
        return number


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[IO[bytes]]:
    """Yield a new file that replaces `path` at the end of the `with` block.

    The new file has a name of its own in the folder of `path` and follows no link. File and folder
    are synced to the disk. Where the block or a write fails, the new file is removed and the old
    one stays.

    Raises InputError that names `path` where it cannot be written, as on a full disk.
    """
    path = Path(path)
    file: Part | None = None
    beside: Path | None = None
    try:
        beside, handle = _create(path)
        file = Part(handle)
        yield cast(IO[bytes], file)
        if file.error:
            raise file.error
        os.fsync(handle)
        os.replace(beside, path)
        beside = None
        sync_folder(path.parent)
    except BaseException as error:
        found = file.error if file and file.error else error
        if isinstance(found, OSError):
            raise unwritable(path, found) from None
        raise
    finally:
        if beside:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        if file:
            with contextlib.suppress(OSError):
                os.close(file.handle)


def unwritable(path: Path | str, error: OSError) -> InputError:
    """Return the InputError for a file that cannot be written."""
    right = "free some space" if error.errno in FULL else "make it writable, or name another place"
    why = error.strerror or str(error)
    return InputError(f"{path}: cannot be written ({why}); {right}; the file of before stays")


def _create(path: Path) -> tuple[Path, int]:
    """Create a file of a new name beside `path`, locked; return its path and descriptor.

    The lock tells a file in use from one that a killed process left, which is removed.
    """
    _remove_left(path)
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else another process took it for one that was left
            return beside, handle
        os.close(handle)


def _remove_left(path: Path) -> None:
    """Remove the files that killed processes left while they wrote `path`."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.part")
    for each in os.listdir(path.parent):
        if not name.fullmatch(each):
            continue
        with contextlib.suppress(OSError):  # in use, gone, or not ours
            handle = os.open(path.parent / each, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    os.unlink(path.parent / each)
            finally:
                os.close(handle)


def second_name(path: Path, other: Path) -> None:
    """Give the file `path`, where there is one, the name `other` as well, in the same folder.

    A file of that name is replaced. A file system without hard links renames `path` instead.
    """
    if not path.exists() or (other.exists() and path.samefile(other)):
        return
    beside = other.with_name(f".{other.name}.{secrets.token_hex(6)}.part")
    try:
        try:
            os.link(path, beside)
        except PermissionError:  # what such a file system says
            beside = path
        os.replace(beside, other)
    except OSError as error:
        raise unwritable(other, error) from None


def sync_folder(folder: Path) -> None:
    """Sync a folder to the disk, so that a renamed file has its new name after a power loss."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(handle)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8. Names that are not UTF-8 are written with backslashes."""
    with atomic(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def write_csv(path: Path | str, rows: list[dict]) -> None:
    """Write a CSV file with one column for each name that occurs in any row.

    A cell is empty where its row lacks the name or has None. Floats have 6 significant digits.
    """
    text = io.StringIO()
    table = csv.DictWriter(
        text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
    )
    table.writeheader()
    table.writerows(
        {
            name: f"{value:.6g}" if isinstance(value, float) else value
            for name, value in row.items()
            if value is not None
        }
        for row in rows
    )
    write_text(path, text.getvalue())


def make_folder(path: Path, option: str) -> None:
    """Create the folder `path` and test that files can be written in it.

    Raises InputError that names `option` where they cannot.
    """
    probe = path / f".write-test.{secrets.token_hex(6)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{option} {path}: cannot be written ({error.strerror}); name a writable folder"
        ) from None
