"""Count the images that pass through a network."""

import torch

from utils.attacks.projected_gradient import at_least_float32
from utils.devices import Compute


class Counted(torch.nn.Module):
    """A network that counts the images that pass through it, forwards and backwards.

    It runs in the precision of `compute`; its logits are float32 at least.
    """

    def __init__(self, network: torch.nn.Module, compute: Compute):
        """Start both counters at 0."""
        super().__init__()
        self.network, self.compute = network, compute
        self.forwards = self.backwards = 0

    def forward(
        self, x: torch.Tensor, tap: str | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (N, classes) of images (N,3,H,W) in [0,1], and count the images; with a
        `tap`, return (logits, that output), as `models.targets.Target` does."""
        self.forwards += len(x)
        with self.compute.autocast():
            if tap is None:
                logits = output = at_least_float32(self.network(x))
            else:
                logits, output = map(at_least_float32, self.network(x, tap=tap))
        if output.requires_grad:  # logits depend on it: its gradient comes once
            output.register_hook(self._count)
        return logits if tap is None else (logits, output)

    def _count(self, gradient: torch.Tensor) -> None:
        """Count the images of a backward pass."""
        self.backwards += len(gradient)
