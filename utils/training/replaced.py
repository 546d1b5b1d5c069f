"""Set the files of a run aside until the run that replaces it has a state of its own.

The files lie in a folder inside the run's, which has its final name once all of them are in it. A
process that is killed at any point therefore leaves either the old run whole, or both.
"""

import contextlib
import os
from pathlib import Path

from common.writing import sync_folder

MOVING, REPLACED = ".replaced.part", ".replaced"


def set_aside(folder: Path, names: list[str]) -> None:
    """Move the files `names` of a folder aside."""
    moving = folder / MOVING
    moving.mkdir()
    for name in names:
        os.rename(folder / name, moving / name)
    os.rename(moving, folder / REPLACED)
    sync_folder(folder)


def give_back(folder: Path, names: list[str]) -> None:
    """Move the files that were set aside back.

    names: the files of the run that should have replaced them, which are removed.
    """
    if (folder / REPLACED).is_dir():
        for name in names:
            (folder / name).unlink(missing_ok=True)
        os.rename(folder / REPLACED, folder / MOVING)
    moving = folder / MOVING
    if moving.is_dir():
        for path in list(moving.iterdir()):
            os.rename(path, folder / path.name)
        moving.rmdir()


def is_aside(folder: Path) -> bool:
    """Return whether a run is set aside in the folder."""
    return (folder / REPLACED).is_dir() or (folder / MOVING).is_dir()


def forget(folder: Path) -> None:
    """Delete the run that was set aside."""
    with contextlib.suppress(FileNotFoundError):
        for path in list((folder / REPLACED).iterdir()):
            path.unlink()
        (folder / REPLACED).rmdir()


def recover(folder: Path, state: str, names: list[str]) -> bool:
    """Finish what a killed process began, and return whether it was to give a run back.

    state: the file by which the new run has a state of its own. names: the files of the new run.
    """
    if (folder / REPLACED).is_dir() and (folder / state).exists():
        forget(folder)
    is_back = is_aside(folder)
    give_back(folder, names)
    return is_back
