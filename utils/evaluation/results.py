"""The results file: what fixes an evaluation, a row per attack, and what follows from the rows.

The file is JSON: the values of `Identity` and `Metadata`, the rows under "attacks", and
"worst_case", "warnings" and "saved". A row's `outcomes` has a letter for each image: r robust,
w wrong without an attack, f fooled within the budget, o fooled outside of it. docs/evaluation.md
lists the other keys.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy
import torch

from common.errors import InputError
from common.files import write_text
from common.json_files import read_json
from common.schema import ANYTHING, Each
from utils.evaluation import stored
from utils.evaluation.identity import NOT_COMPARED, Identity, Metadata
from utils.evaluation.predictors import FRESH_DRAWS
from utils.evaluation.stored import MADE

SWEPT = " at "  # in the name of a row of --sweep, as in "pgd-40 at 0.1"


def empty_row(**more) -> dict:
    """Return a row before its first image.

    perturbed: images that the attack returned changed; outside: images with pixels beyond [0,1].
    """
    counts = dict.fromkeys(("forward_passes", "backward_passes", "attacked"), 0)
    rest = {"norms": [], "outside": 0, "perturbed": 0}
    return {"outcomes": "", "seconds": 0.0, **counts, **rest, **more}


def letters(right: torch.Tensor, fooled: torch.Tensor, within: torch.Tensor) -> str:
    """Return the outcome of each image as a letter, from three masks (N,)."""
    masks = {"w": ~right, "r": right & ~fooled, "f": fooled & within, "o": fooled & ~within}
    codes = torch.zeros_like(right, dtype=torch.uint8)
    for letter, mask in masks.items():
        codes[mask] = ord(letter)
    return bytes(codes.tolist()).decode()


def add_columns(row: dict, found: dict, first: bool = True) -> None:
    """Add what a batch found to the columns of a row.

    first: whether it is the first batch. A row that began before AutoAttack's parts were counted
    stays without them.
    """
    for part, fooled in found.pop("parts", {}).items():
        if first or "parts" in row:
            parts = row.setdefault("parts", {})
            parts[part] = parts.get(part, 0) + fooled
    for column, value in found.items():
        row[column] = row[column] + value if column in row else value


def other_settings(before: dict, now: dict) -> str:
    """Name the settings of an attack that differ from those of its row; "" where all agree."""
    now = json.loads(json.dumps(now))
    return ", ".join(
        f"{key} {before.get(key)} (now {now.get(key)})"
        for key in before | now
        if before.get(key) != now.get(key)
    )


class Results:
    """The rows of an evaluation, and the file they are kept in.

    Args:
        identity, metadata: of the evaluation; None where no file is written.
        path: the file; rows that it holds already are read from it. None: the rows are not kept.
        restart: the file's rows are left out, and the first write replaces it.

    Raises InputError where `path` is another file than an evaluation writes, or holds the rows of
    another evaluation.
    """

    def __init__(
        self,
        identity: Identity | None = None,
        metadata: Metadata | None = None,
        path: Path | None = None,
        restart: bool = False,
    ):
        """Read the rows of the file where there is one."""
        self.identity = asdict(identity) if identity else {}
        self.metadata = asdict(metadata) if metadata else {}
        self.path = path
        self.content = {**self.identity, **self.metadata, "attacks": {}}
        if path and path.is_file():
            self._resume(path, restart)

    @property
    def rows(self) -> dict[str, dict]:
        """Return {name: row}, rows of earlier commands and of sweeps among them."""
        return self.content["attacks"]

    @property
    def question(self) -> dict:
        """Return the values that have to agree for the evaluation to resume."""
        return {key: value for key, value in self.identity.items() if key not in NOT_COMPARED}

    def made(self) -> dict:
        """Return the metadata of a row that this command makes."""
        return {key: self.metadata.get(key) for key in MADE}

    def about(self, attacks) -> dict:
        """Describe how the images of `attacks` were made, for the file that keeps them."""
        settings = {name: self.rows[name]["settings"] for name in attacks}
        return {**self.identity, **self.metadata, "all_steps": True, "attacks": settings}

    def _resume(self, path: Path, restart: bool) -> None:
        """Read the rows of the file, and refuse a file of another evaluation."""
        what, remedy = "is no results file", "name another, or move it away"
        try:
            found = read_json(path, Each(ANYTHING), remedy, f"{what}: ")
        except InputError as error:
            raise InputError(f"--output {error}") from None
        try:
            rows = {name: empty_row() | row for name, row in stored.rows(found).items()}
        except InputError as error:
            raise InputError(f"--output {path}: {what}: {error}; {remedy}") from None
        del found["attacks"]
        if restart:
            return
        asked = json.loads(json.dumps({**self.identity, **self.metadata}))
        for key in asked | found:
            if key not in NOT_COMPARED and asked.get(key) != found.get(key):
                raise InputError(
                    f"--output {path}: holds another evaluation: {key} {found.get(key)} "
                    f"(now {asked.get(key)}); name another file, or --restart to replace it"
                )
        self.content = {**found, "attacks": rows}

    def write(self) -> None:
        """Write the file."""
        if self.path:
            write_text(self.path, json.dumps(self.content, indent=1) + "\n")

    def save(self, saved: dict) -> None:
        """Write the file with what describes the images that were saved."""
        self.content["saved"] = saved
        self.write()

    def add(self, name: str, row: dict, kind: str, any_norm: bool) -> None:
        """Work out a row's accuracies from its images, and write the file.

        any_norm: whether to count success at any norm as well.
        """
        n, robust = len(row["outcomes"]), row["outcomes"].count("r")
        correct = robust + row["outcomes"].count("o")
        row |= share(correct, n) | {"kind": kind}
        if any_norm:
            anywhere = {
                f"{key}_any_norm": value for key, value in share(robust, n).items() if key != "n"
            }
            median = float(numpy.median(row["norms"])) if row["norms"] else None
            row |= anywhere | {"median_norm": median}
        if "fresh_right" in row:
            row["accuracy_fresh"] = 100 * row["fresh_right"] / (FRESH_DRAWS * n)
        self.rows[name] = row
        self.write()

    def complete(self) -> dict[str, dict]:
        """Return the rows that hold all images, those of a sweep left out."""
        n = self.identity["n"]
        rows = {name: row for name, row in self.rows.items() if SWEPT not in name}
        return {name: row for name, row in rows.items() if len(row["outcomes"]) == n}

    def conclude(
        self, general: list[str], warned: dict[str, list[str]], of_order: dict[str, list[str]]
    ) -> None:
        """Give each row its warnings, count the worst case over all rows, and write the file.

        Args:
            general: warnings of the network, which every row of this command gets.
            warned: {row of this command: its warnings}; rows of earlier commands keep theirs.
            of_order: {row: warnings that the other rows give rise to}.
        """
        for name, row in self.rows.items():
            texts = general + warned[name] if name in warned else row.get("warnings", [])
            row["warnings"] = list(dict.fromkeys([*texts, *of_order.get(name, ())]))
        self.content["worst_case"] = self.worst_case()
        texts = [text for row in self.rows.values() for text in row["warnings"]]
        self.content["warnings"] = list(dict.fromkeys(texts))
        self.write()

    def worst_case(self) -> dict | None:
        """Count the images that are robust under every attack; None for fewer than two attacks."""
        rows = self.complete()
        if len(rows) < 2:
            return None
        images = list(zip(*(row["outcomes"] for row in rows.values())))
        correct = sum(set(outcomes) <= set("ro") for outcomes in images)
        return share(correct, len(images)) | {"attacks": list(rows)}


def share(correct: int, n: int) -> dict:
    """Return the columns that say how many of `n` images are robust, accuracy in percent."""
    return {
        "accuracy": 100 * correct / n,
        "correct": correct,
        "n": n,
        "interval": wilson(correct, n),
    }


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's interval, in percent, for a share of which `correct` of `n` were seen.

    The default z gives 95 %.
    """
    seen, spread = correct / n, z * z / n
    middle = (seen + spread / 2) / (1 + spread)
    half = z * math.sqrt(seen * (1 - seen) / n + spread / (4 * n)) / (1 + spread)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)
