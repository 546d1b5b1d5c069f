"""Open what is read: regular files alone, and none that is larger than the memory there is."""

import os
import stat
from typing import BinaryIO

from common import memory
from common.errors import InputError


def open_regular(
    path, right: str, largest: int | None = None, otherwise: str = "is not a file"
) -> BinaryIO:
    """Open a regular file to read its bytes.

    A FIFO, which would wait for a writer for ever, is refused, as are a folder and a device.

    Args:
        path: the file, as the message names it.
        right: what would be right, the end of the message.
        largest: the most bytes that are read; None: the memory there is.
        otherwise: what the message says of what is no regular file.

    Raises InputError where the file is missing, none of these, unreadable or too large.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # returns at once for a FIFO, too
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        raise InputError(f"{path}: {otherwise}; {right}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {right}") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise InputError(f"{path}: {otherwise}; {right}")
    most = memory.total() if largest is None else largest
    if status.st_size > most:
        os.close(handle)
        raise InputError(
            f"{path}: has {status.st_size} bytes, and at most {most} can be read; {right}"
        )
    return os.fdopen(handle, "rb")
