"""Pass images through a bottleneck network with given draws of its noise, and attack it so."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from models.bottleneck import Bottleneck
from utils import distributed
from utils.attacks.projected_gradient import pgd
from utils.distributed import gather
from utils.training.bottleneck_losses import ce, vib


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
        if self.t is None or self.mu is None or self.sigma is None:
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
        if self.noise is None or not isinstance(self.net, Bottleneck):
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
    if not isinstance(net, Bottleneck):
        return None
    size = net.options["bottleneck"]
    return distributed.normal(x.new_empty(len(x), samples, size), generator)


def spread(x: torch.Tensor, fraction: float) -> tuple[torch.Tensor, float]:
    """Choose a fraction of the images of a batch, evenly over it.

    Returns a mask (n,) on the CPU for this process's part x of the batch, and the share of the
    whole batch that is chosen. No value of a tensor is read, so that no step waits for a device.
    """
    lengths = distributed.sizes(len(x))
    first, total = sum(lengths[: distributed.rank()]), sum(lengths)

    def chosen_before(number: int) -> int:
        return math.floor(number * fraction + 1e-9)

    numbers = range(first, first + len(x))
    mask = [chosen_before(number + 1) > chosen_before(number) for number in numbers]
    return torch.tensor(mask), chosen_before(total) / total


def attack(  # noqa: PLR0913
    net, x, y, generator, *, kind: str, samples: int, budget: tuple, beta: float
) -> torch.Tensor:
    """Maximise E_eps CE + beta R over the ball around x (N,3,H,W), at draws fixed by `generator`.

    Args:
        kind: "fgsm", "bim" or "pgd".
        samples: draws that the attack averages over.
        budget: norm, epsilon, steps and step size.
        beta: 0 for the cross-entropy alone.
    """
    noisy = Noisy(net, draw(net, x, samples, generator))

    def loss(passed: Passed):
        if beta == 0 or passed.mu is None or passed.sigma is None:
            return len(y) * ce(passed.logits, y)
        return len(y) * vib(passed.logits, y, passed.mu, passed.sigma, beta)

    norm, epsilon, steps, step_size = budget
    if kind == "fgsm":
        steps, step_size = 1, epsilon
    start = None if kind == "pgd" else torch.zeros_like(x)
    ball = (norm, epsilon, steps, step_size)
    return pgd(noisy, x, y, *ball, loss, start=start, generator=generator)


def weighted(x, y, craft: Callable | None, weight: float, fraction: float, generator) -> list:
    """Split the loss of a batch into parts: [(share of the part, its images, their labels)].

    A `fraction` of the images is attacked, with (1-a) L(x,y) + a L(x',y), a = `weight`; the others
    have L(x,y). craft: (x, y, generator) -> x'; None: no image is attacked.
    """
    if craft is None:
        return [(1.0, x, y)]
    mask, share = spread(x, fraction)
    attacked, natural = (x, y), (x[:0], y[:0])
    if share < 1:
        chosen, others = (torch.nonzero(each).flatten().to(x.device) for each in (mask, ~mask))
        attacked, natural = (x[chosen], y[chosen]), (x[others], y[others])
    x_adv = craft(*attacked, generator)
    parts = [
        (1 - share, *natural),
        (share * (1 - weight), *attacked),
        (share * weight, x_adv, attacked[1]),
    ]
    return [part for part in parts if part[0] > 0]
