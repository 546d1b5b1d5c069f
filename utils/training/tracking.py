"""Show the rows of a run's log elsewhere while it trains: TensorBoard, wandb or trackio (--log).

A package is imported only where it is asked for. A row is shown once, however often a run is
resumed.
"""

import importlib
import json
import uuid
from pathlib import Path

from common.errors import InputError
from common.files import write_text
from common.json_files import read_json
from common.schema import TEXT, Each, whole
from utils import distributed

PROJECT = "namid"  # the name under which wandb and trackio list the runs
SENT = "tracked.json"  # {package: {"id", "epochs"}}: what was sent of this run
SENT_RUN = {"id": TEXT, "epochs": whole(0)}
REMEDY = "delete it; the rows are then sent again"


class Tracker:
    """Show nothing: the tracker of a run without --log, and of all processes but the first."""

    def start(self, folder: Path, options: dict, rows: list[dict]) -> None:
        """Begin with the settings of a run and its rows so far."""

    def add(self, row: dict) -> None:
        """Show a row of metrics.csv."""

    def close(self) -> None:
        """Write what is still in memory."""


class TensorBoard(Tracker):
    """Write event files to the folder `tensorboard` of the run.

    A resumed run writes them again from all its rows, since a killed one may have shown an epoch
    that it did not save.
    """

    def __init__(self):
        self.package = _imported("torch.utils.tensorboard", "tensorboard")

    def start(self, folder: Path, options: dict, rows: list[dict]) -> None:
        """Begin new event files with the settings, as text, and the rows so far."""
        folder = folder / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = self.package.SummaryWriter(str(folder))
        lines = [f"    {name}: {value}" for name, value in options.items()]
        self.writer.add_text("settings", "\n".join(lines))
        for row in rows:
            self.add(row)

    def add(self, row: dict) -> None:
        """Write a scalar for each column, at the step of the epoch."""
        for name, value in _numbers(row).items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class Online(Tracker):
    """Send the rows through wandb, or through trackio, which has the same functions.

    tracked.json in the run's folder says which run of the package it is and what was sent.
    """

    def __init__(self, name: str):
        self.name, self.package = name, _imported(name, name)

    def start(self, folder: Path, options: dict, rows: list[dict]) -> None:
        """Begin or resume the package's run, and send the rows that were not sent yet."""
        self.path = folder / SENT
        known = read_json(self.path, Each(SENT_RUN), REMEDY) if self.path.is_file() else {}
        self.known = {self.name: {"id": uuid.uuid4().hex[:8], "epochs": 0}} | known
        sent = self.known[self.name]
        where = {"project": PROJECT, "config": options, "resume": "allow"}
        if self.name == "wandb":
            where |= {"name": folder.name, "id": sent["id"], "dir": str(folder)}
        else:
            where["name"] = f"{folder.name}-{sent['id']}"
        self.package.init(**where)
        for row in rows:
            if row["epoch"] > sent["epochs"]:
                self.add(row)

    def add(self, row: dict) -> None:
        """Send a row at the step of its epoch."""
        self.package.log(_numbers(row), step=row["epoch"])
        self.known[self.name]["epochs"] = row["epoch"]
        write_text(self.path, json.dumps(self.known) + "\n")

    def close(self) -> None:
        """End the package's run."""
        self.package.finish()


def open_tracker(name: str | None) -> Tracker:
    """Return the tracker of --log. Raises InputError where its package cannot be imported."""
    if name is None or not distributed.first():
        return Tracker()
    return TensorBoard() if name == "tensorboard" else Online(name)


def _imported(module: str, package: str):
    """Import a module, which needs a package that may be missing."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken package can raise almost anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"--log {package}: cannot be imported ({reason}); run "
            f".venv/bin/python -m pip install {package}, or leave --log out"
        ) from None


def _numbers(row: dict) -> dict[str, float]:
    """Return the columns of a row that hold numbers, without the epoch."""
    return {
        name: value
        for name, value in row.items()
        if name != "epoch" and isinstance(value, int | float)
    }
