"""Collect the warnings about the numbers of a table, each kind once.

A warning differs from network to network in its numbers only ("raise the loss from 1.201 to
1.277"): such warnings are one note, with the range of each number.
"""

import re
import string
from dataclasses import dataclass

NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w-])")


@dataclass(frozen=True)
class Warned:
    """A warning of a row: its text, and the network and seed that the row is of."""

    text: str
    run: str
    seed: int


@dataclass(frozen=True)
class Note:
    """A warning to show once: its mark, kind and text, and how many networks and seeds have it."""

    mark: str
    kind: str
    text: str
    networks: int
    seeds: int

    def line(self) -> str:
        """Return the line of the note below a table."""
        networks = f"{self.networks} network{'s' * (self.networks > 1)}"
        return f"[{self.mark}] {self.text} ({networks}, {self.seeds} seed{'s' * (self.seeds > 1)})"


def kind(text: str) -> str:
    """Return a warning without its numbers; a number in an attack's name stays."""
    return NUMBER.sub("#", text)


def notes(warned: list[Warned]) -> list[Note]:
    """Return a note for each kind of warning, in the order in which they come."""
    kinds: dict[str, list[Warned]] = {}
    for each in warned:
        kinds.setdefault(kind(each.text), []).append(each)
    return [
        Note(
            mark(number),
            name,
            merged([each.text for each in group]),
            len({(each.run, each.seed) for each in group}),
            len({each.seed for each in group}),
        )
        for number, (name, group) in enumerate(kinds.items())
    ]


def mark(number: int) -> str:
    """Return the letter of a note: a, b, ..., z, aa, ab, ..."""
    letters = string.ascii_lowercase
    return (mark(number // 26 - 1) if number >= 26 else "") + letters[number % 26]


def merged(texts: list[str]) -> str:
    """Return warnings of one kind as one text, with the range of each number that differs."""
    columns = iter(zip(*(NUMBER.findall(text) for text in texts)))

    def span(_):
        values = sorted(set(next(columns)), key=float)
        return values[0] if len(values) == 1 else f"{values[0]}–{values[-1]}"

    return NUMBER.sub(span, texts[0])


def marks(warned: list[Warned], below: list[Note]) -> list[str]:
    """Return the marks of a cell's warnings, whose notes are among those `below` the table."""
    kinds = {kind(each.text) for each in warned}
    return [note.mark for note in below if note.kind in kinds]


def seeds_of(warned: list[Warned]) -> dict[str, list[int]]:
    """Return the seeds that each text is of."""
    found: dict[str, list[int]] = {}
    for each in warned:
        found.setdefault(each.text, []).append(each.seed)
    return found
