"""Files that an evaluation writes: locked against other processes, and never those of others."""

import contextlib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from common.errors import InputError
from common.files import make_folder
from common.locks import locked


@contextlib.contextmanager
def sole_writer(
    paths: dict[str, Path | None], inputs: dict[str, Path | None] | None = None
) -> Iterator[None]:
    """Lock the files that a command writes, {option: path}, against other processes.

    Refuses a path that is no plain file, a file that the command reads or writes under another
    option, a folder that cannot be written, and a locked file.

    inputs: {option: path} of what the command reads.
    """
    given = {option: path for option, path in paths.items() if path}
    for option, path in given.items():
        if path.is_symlink() or (path.exists() and not path.is_file()):
            what = "a folder" if path.is_dir() else "no plain file"
            raise InputError(f"{option} {path}: is {what}; name a file")
    read = {option: path for option, path in (inputs or {}).items() if path}
    pairs = [*combinations(given.items(), 2)]
    pairs += [(one, other) for one in given.items() for other in read.items()]
    for (option, path), (other_option, other) in pairs:
        if path.resolve() == other.resolve():
            raise InputError(f"{option} {path}: is the file of {other_option}; name another")
    for option, path in given.items():
        make_folder(path.parent, f"{option}: the folder")
    with contextlib.ExitStack() as locks:
        for option, path in given.items():
            locks.enter_context(_locked(option, path))
        yield


@contextlib.contextmanager
def _locked(option: str, path: Path) -> Iterator[None]:
    """Lock one file, by a file beside it that is removed afterwards."""

    def busy():
        """Refuse the file."""
        raise InputError(
            f"{option} {path}: another process is writing it; wait for it, or name another file"
        )

    lock = path.with_name(f".{path.name}.lock")
    lock.touch()
    with locked(lock, busy):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
