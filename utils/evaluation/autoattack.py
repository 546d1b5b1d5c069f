"""AutoAttack part by part, so that a long batch resumes with the part in which it was stopped."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy
import torch

from common.array_files import read_archive
from common.errors import InputError
from common.writing import atomic


def unfinished(output: Path) -> Path:
    """Name the file beside a results file that holds the batch in progress."""
    return output.with_name(f".{output.name}.unfinished.npz")


RENAMED = {"stood": "robust"}  # {array in a file of an earlier commit: its name today}


class BatchFile:
    """A batch in progress: its images after the last finished part, robust counts, and passes.

    path: the file; None keeps nothing. question: text that fixes the batch and its attack; a file
    with another question is not read.
    """

    def __init__(self, path: Path | None, question: str):
        """Name the file, which need not exist."""
        self.path, self.question = path, question

    def read(self, x: torch.Tensor, parts: int) -> dict[str, numpy.ndarray] | None:
        """Read the arrays of an earlier command; None where it left none of this batch.

        A damaged file is no loss but of time: a line says so, and the batch begins again.

        x: the batch's images. parts: how many the attack has.
        """
        if not self.path or not self.path.exists():
            return None
        largest = max(4 * x.numel(), 2**20)
        try:
            found = read_archive(self.path, largest, "its batch begins again")
            found = {RENAMED.get(name, name): array for name, array in found.items()}
            if str(found.get("question")) != self.question:
                return None
            if why := _wrong_state(found, tuple(x.shape), parts):
                raise InputError(f"{self.path}: {why}; its batch begins again")
        except InputError as error:
            print(f"warning: {error}", flush=True)
            return None
        return found

    def write(self, x_adv: torch.Tensor, robust: list[int], passes: list[int]) -> None:
        """Write the batch after a part: images, robust counts, and forward and backward passes."""
        if self.path:
            images, asked = x_adv.cpu().contiguous().numpy(), self.question
            with atomic(self.path) as file:
                numpy.savez(file, question=asked, x_adv=images, robust=robust, passes=passes)

    def remove(self) -> None:
        """Remove the file, once the batch is done."""
        if self.path:
            self.path.unlink(missing_ok=True)


def _wrong_state(found: dict[str, numpy.ndarray], shape: tuple[int, ...], parts: int) -> str | None:
    """Say what is wrong with the state of a batch; None: nothing."""
    x_adv, robust, passes = (found.get(name) for name in ("x_adv", "robust", "passes"))
    if x_adv is None or robust is None or passes is None:
        return "lacks one of the arrays x_adv, robust and passes"
    if x_adv.shape != shape or x_adv.dtype != numpy.float32:
        return f"x_adv has shape {x_adv.shape} and type {x_adv.dtype}, not {shape} and float32"
    if not (numpy.isfinite(x_adv).all() and x_adv.min() >= 0 and x_adv.max() <= 1):
        return "x_adv has values outside [0,1]"
    if robust.dtype.kind != "i" or passes.dtype.kind != "i" or passes.shape != (2,):
        return "robust and passes are no whole numbers"
    if robust.ndim != 1 or len(robust) > parts or passes.min() < 0:
        return "robust and passes are not those of this attack"
    counts = [shape[0], *robust.tolist()]
    falling = all(before >= after > 0 for before, after in pairwise(counts))
    return None if falling else "robust does not fall from part to part"


class Counting(Protocol):
    """A network that counts its passes (`utils.evaluation.counting.Counted`)."""

    forwards: int
    backwards: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes)."""


def craft_in_parts(
    parts: tuple[str, ...],
    network: Counting,
    x: torch.Tensor,
    y: torch.Tensor,
    craft: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor],
    file: BatchFile,
) -> tuple[torch.Tensor, list[int]]:
    """Run each part of AutoAttack on the images that the parts before left robust.

    Args:
        parts: names of attacks. network: a `Counted` network, whose counters are set.
        x: images in [0,1], (N,3,H,W), which the network gets right. y: labels (N,).
        craft: (part, images, labels) -> adversarial images.
        file: where the state is kept after each part.

    Returns the adversarial images, and how many are robust before each part and in the end.
    """
    x_adv, robust = x.clone(), []
    if state := file.read(x, len(parts)):
        x_adv, robust = torch.from_numpy(state["x_adv"]).to(x), state["robust"].tolist()
        network.forwards, network.backwards = state["passes"].tolist()
    for part in parts[len(robust) :]:
        with torch.no_grad():
            left = (network(x_adv).argmax(1) == y).nonzero()[:, 0]
        if len(left) == 0:
            break
        x_adv[left] = craft(part, x[left], y[left])
        robust.append(len(left))
        file.write(x_adv, robust, [network.forwards, network.backwards])
    file.remove()
    passes = network.forwards
    with torch.no_grad():
        robust.append(int((network(x_adv).argmax(1) == y).sum()))
    network.forwards = passes  # this pass is none of the attack's
    return x_adv, robust
