"""A node of the graph: a command of a stage script, what it reads and what it writes."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Node:
    """A command that writes `outputs`, of which the nodes after it read the first.

    purpose: in words, for the plan. needs: names of the nodes before it. attacks: those of an
    evaluation, ``()`` for other nodes. key: what a complete results file of another measurement
    has.
    """

    name: str
    purpose: str
    words: list[str]
    needs: tuple[str, ...]
    outputs: tuple[Path, ...]
    attacks: tuple[str, ...] = ()
    key: str = "values"

    @property
    def trains(self) -> bool:
        """Return whether the command trains a network or estimators."""
        return self.words[0].startswith("train_")

    @property
    def analyzes(self) -> bool:
        """Return whether the command is analyze_IB.py, which leaves a CSV file and a plot."""
        return self.words[0] == "analyze_IB.py"

    @property
    def folder(self) -> Path:
        """Return the folder of the outputs."""
        return self.outputs[0].parent

    @property
    def command(self) -> str:
        """Return the command as a shell line, for the repository's folder."""
        return shlex.join([interpreter(), *self.words])

    @property
    def diverged_note(self) -> Path:
        """Return the file that says that this training diverged."""
        return self.folder / "diverged.txt"


@dataclass(frozen=True)
class Reads:
    """What a training reads: the nodes before it, and the options that name their files."""

    needs: tuple[str, ...] = ()
    options: tuple = ()


def interpreter() -> str:
    """Return the path of this Python, relative to the repository's folder if it is in it."""
    path = Path(sys.executable)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
