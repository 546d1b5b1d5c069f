"""One process at a time in a folder."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def held(folder: Path, busy: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Inside, no other process is inside for this folder, which exists. Where one is, busy() is called, which may raise; then we
    wait. Yields the file descriptor that holds the lock: a child that inherits it keeps the folder as long as it lives."""
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
