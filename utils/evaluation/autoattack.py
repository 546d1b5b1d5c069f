"""AutoAttack part by part, so that a long batch resumes with the part in which it was stopped."""

import contextlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy
import torch

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

    def read(self) -> dict[str, numpy.ndarray] | None:
        """Read the arrays of an earlier command; None where it left none of this batch."""
        if not self.path or not self.path.is_file():
            return None
        damaged = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
        with contextlib.suppress(*damaged), numpy.load(self.path, allow_pickle=False) as file:
            found = {RENAMED.get(name, name): file[name] for name in file.files}
            if found["question"] == self.question and "robust" in found:
                return found
        return None

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
    if state := file.read():
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
