"""The sizes and variants of the steps that are timed, and the images made up for them."""

from dataclasses import dataclass

import torch

LOADER_BATCHES = 49  # an epoch of 50,000 images in batches of 1024
CLASSES, SEED = 10, 1
EPOCH, INDEX = 2, 1  # of the random numbers


@dataclass(frozen=True)
class Sizes:
    """The sizes that determine the arithmetic.

    arch: the architecture. width: channels of its first stage; None: its own. size: the side of
    the images in pixels. batch: images in a batch. n_units: units of the estimators.
    """

    arch: str
    width: int | None
    size: int
    batch: int
    n_units: int


@dataclass(frozen=True)
class Variant:
    """What changes the result only up to rounding.

    precision: "fp32" or "bf16", of the networks in training. channels_last: the memory layout.
    compile: whether networks are compiled.
    """

    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False


def made_up(sizes: Sizes, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random images, uint8 (N,3,H,W), and labels (N,): LOADER_BATCHES batches."""
    shape = (LOADER_BATCHES * sizes.batch, 3, sizes.size, sizes.size)
    return (
        torch.randint(256, shape, dtype=torch.uint8, device=device),
        torch.randint(CLASSES, shape[:1], device=device),
    )
