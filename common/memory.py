"""Compare sizes with the memory that there is. Nothing here imports torch."""

import contextlib
import os
import resource
from pathlib import Path

BYTES = 4  # of a float32
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def total() -> int:
    """Return the bytes of memory that a process may have: the computer's, or a limit below it."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in LIMITS:  # of a container
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    found += [limit] if limit != resource.RLIM_INFINITY else []
    return min(found)


def lack(numbers: float) -> str:
    """Say that so many float32 numbers do not fit into the memory; "" where they do."""
    needed, there = BYTES * numbers, total()
    if needed <= there:
        return ""
    return f"needs {needed / 2**30:.3g} GiB of memory or more, and {there / 2**30:.3g} are here"
