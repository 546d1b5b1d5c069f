"""What attacks share: logits in full precision, images in range, other libraries contained."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator

import torch


def precise(logits: torch.Tensor) -> torch.Tensor:
    """Raise logits to float32 at least: losses and margins of a network in half precision would
    otherwise be rounded again."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def cut(images: torch.Tensor) -> torch.Tensor:
    """Cut images to [0,1], with a gradient at the pixels that are just 0 or 1, where torch.clamp of
    PyTorch 2.15 has none."""
    return images.where(images >= 0, 0).where(images <= 1, 1)


def in_float32(model, x: torch.Tensor) -> Callable:
    """Wrap the model as a function from float32 images to float32 logits; the model itself sees
    images of the dtype of x."""
    return lambda images: model(images.to(x.dtype)).float()


@contextlib.contextmanager
def contained(seed: int, logger: str | None = None) -> Iterator[None]:
    """Begin the global random state at `seed`, and leave it, the trace function and the logger as
    they were.

    Warnings and the logger are silent: whether an evaluation is sound is judged outside.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    trace, silenced = sys.gettrace(), logging.getLogger(logger) if logger else None
    was_disabled = silenced is not None and silenced.disabled
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        if silenced:
            silenced.disabled = True
        try:
            yield
        finally:
            sys.settrace(trace)
            if silenced:
                silenced.disabled = was_disabled
