"""Lock a folder so that one process at a time works in it."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path, busy: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Lock an existing folder inside the `with` block and yield the lock's file descriptor.

    Where another process has the lock, call busy(), which may raise, then wait. A child process
    that inherits the file descriptor keeps the lock as long as it lives.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
