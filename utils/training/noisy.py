"""Pass images through a bottleneck network with given draws of its noise."""

from typing import NamedTuple

import torch

from utils import distributed
from utils.distributed import gather


class Passed(NamedTuple):
    """Hold the outputs of a pass: logits and t of each draw, (S,N,C) and (S,N,K); mu, sigma (N,K).

    A network without a bottleneck has logits (N,C) alone.
    """

    logits: torch.Tensor
    t: torch.Tensor | None = None
    mu: torch.Tensor | None = None
    sigma: torch.Tensor | None = None

    def gathered(self) -> "Passed":
        """Return the outputs of the whole batch, of which each process passed a part."""
        if self.t is None:
            return Passed(gather(self.logits))
        logits, t = (gather(each.transpose(0, 1)).transpose(0, 1) for each in (self.logits, self.t))
        return Passed(logits, t, gather(self.mu), gather(self.sigma))


class Noisy(torch.nn.Module):
    """A network with the noise of each image fixed: images (N,3,H,W) -> `Passed`.

    noise: eps, (N,S,K), of `draw`; None for a network without a bottleneck.
    """

    def __init__(self, net: torch.nn.Module, noise: torch.Tensor | None):
        super().__init__()
        self.net, self.noise = net, noise

    def forward(self, x: torch.Tensor) -> Passed:
        """Return the outputs at t = mu + sigma eps."""
        if self.noise is None:
            return Passed(self.net(x))
        mu, sigma = self.net.encode(x)
        t = mu + sigma * self.noise.transpose(0, 1)
        return Passed(self.net.decoder(t), t, mu, sigma)


def draw(
    net: torch.nn.Module, x: torch.Tensor, samples: int, generator: torch.Generator
) -> torch.Tensor | None:
    """Draw eps (N,S,K) for this process's images x, the same as a single process would draw.

    Returns None for a network without a bottleneck.
    """
    size = net.options.get("bottleneck")
    return size and distributed.normal(x.new_empty(len(x), samples, size), generator)


def spread(x: torch.Tensor, fraction: float) -> torch.Tensor:
    """Choose a fraction of the images of a batch, evenly over it.

    Returns a mask (n,) for this process's part x of it.
    """
    lengths = distributed.sizes(len(x))
    first = sum(lengths[: distributed.rank()])
    number = torch.arange(first, first + len(x), dtype=torch.float64)
    before, after = (((number + each) * fraction + 1e-9).floor() for each in (0, 1))
    return (after > before).to(x.device)
