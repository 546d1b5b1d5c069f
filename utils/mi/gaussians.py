"""The bounds where mutual information is known: on correlated Gaussians.

Componentwise correlated Gaussians x, y in R^d with correlation rho have

    I(x; y) = -d/2 log(1 - rho^2) nats,

and their log density ratio, the critic at which every bound of `utils.mi.bounds` is greatest, is a
quadratic form: an inner product <g(x), f(y)> as the bounds take it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import torch
import torch.nn.functional as F
from matplotlib.ticker import NullLocator
from torch import nn

from utils.devices import mix
from utils.mi import bounds
from utils.mi.names import BOUNDS
from utils.plots import COLOURS, STYLES, save_figure

CRITICS = ("optimal", "trained")
UNITS, HIDDEN, LEARNING_RATE = 32, 64, 1e-3  # of the trained critic


def correlation(mi: float, dim: int) -> float:
    """Compute the correlation of each of `dim` components at which x and y share `mi` nats."""
    return math.sqrt(-math.expm1(-2 * mi / dim))


def draw(
    n: int, dim: int, rho: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw n pairs x, y (n, dim), float64."""
    x, noise = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho * rho) * noise


def optimal_critic(
    x: torch.Tensor, y: torch.Tensor, rho: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode y as local (N, d + 2, 1) and x as global (N, d + 2, 1), so that inner products are the
    log density ratios

        log p(x, y) / (p(x) p(y))
            = -d/2 log(1 - rho^2) + [ rho <x, y> - rho^2 (|x|^2 + |y|^2) / 2 ] / (1 - rho^2).
    """
    rest, one = 1 - rho * rho, torch.ones_like(x[:, :1])
    square_x, square_y = (each.square().sum(1, keepdim=True) for each in (x, y))
    half = rho * rho / (2 * rest)
    constant = -x.shape[1] / 2 * math.log(rest) - half * square_y
    global_ = torch.cat([x, square_x, one], 1)
    local = torch.cat([rho / rest * y, -half * one, constant], 1)
    return local.unsqueeze(2), global_.unsqueeze(2)


def train_critic(bound: str, n: int, dim: int, rho: float, steps: int, seed: int) -> Callable:
    """Train a critic (x, y) -> (local, global) of two small networks by `steps` Adam steps to
    maximise the bound, each on `n` fresh pairs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g, f = _encoder(dim), _encoder(dim)

    def critic(x, y):
        return f(y.float()).unsqueeze(2), g(x.float()).unsqueeze(2)

    optimizer = torch.optim.Adam([*g.parameters(), *f.parameters()], LEARNING_RATE)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = -bounds.per_sample(bound, *critic(*draw(n, dim, rho, generator))).mean()
        loss.backward()
        optimizer.step()
    return critic


def _encoder(dim: int) -> nn.Sequential:
    """Build a network from R^dim to UNITS units."""
    first, second, last = (
        nn.Linear(dim, HIDDEN),
        nn.Linear(HIDDEN, HIDDEN),
        nn.Linear(HIDDEN, UNITS),
    )
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


@torch.no_grad()
def estimates(
    bound: str, critic: Callable, n: int, dim: int, rho: float, repetitions: int, seed: int
) -> torch.Tensor:
    """Compute the bound on each of `repetitions` fresh batches of n pairs, (repetitions,)
    float64."""
    generator, values = torch.Generator().manual_seed(seed), []
    for _ in range(repetitions):
        pairs = draw(n, dim, rho, generator)
        values.append(bounds.per_sample(bound, *critic(*pairs)).mean().double())
    return torch.stack(values)


def limit(bound: str, mi: float, dim: int, nodes: int = 100) -> float:
    """Compute the greatest value that a critic, the same for every N, gives the bound as N grows:
    the mutual information, except for ``fd``, whose measure is twice the Jensen-Shannon divergence
    between p(x, y) and p(x) p(y), at most 2 log 2.

    With A and B chi-squared of d degrees of freedom, the log ratio r under p(x, y) is distributed
    as I + rho/2 (A - B), and an expectation under p(x) p(y) is one of exp(-r) times as much: twice
    the divergence is 2 log 2 - E[softplus(-r) + exp(-r) softplus(r)], by Gauss-Laguerre quadrature
    of `nodes` points in A and in B.
    """
    if bound != "fd":
        return mi
    k = numpy.arange(nodes)
    # The recurrence of the Laguerre polynomials (Golub and Welsch 1969).
    beside = numpy.sqrt(k[1:] * (k[1:] + dim / 2 - 1))
    recurrence = numpy.diag(2 * k + dim / 2) + numpy.diag(beside, 1) + numpy.diag(beside, -1)
    values, vectors = numpy.linalg.eigh(recurrence)
    weights = torch.from_numpy(vectors[0] ** 2)
    points = torch.from_numpy(values)
    r = mi + correlation(mi, dim) * (points[:, None] - points)  # the points are of A/2 and B/2
    # exp(-r) softplus(r) nears 1 for small r, where exp(-r) by itself overflows
    other = torch.where(r < -30, 1, (-r.clamp_min(-30)).exp() * F.softplus(r.clamp_min(-30)))
    return 2 * math.log(2) - (weights @ (F.softplus(-r) + other) @ weights).item()


@dataclass
class Study:
    """Compare every bound with the known mutual information `mi` (nats) of Gaussians in `dim`
    dimensions, from batches of N `samples`, with the optimal critic and with one trained for
    `steps`; `repetitions` fresh batches of each."""

    dim: int
    mi: tuple[float, ...]
    samples: tuple[int, ...]
    repetitions: int
    steps: int
    seed: int

    def __len__(self) -> int:
        return len(CRITICS) * len(BOUNDS) * len(self.samples) * len(self.mi)

    def rows(self) -> Iterator[dict]:
        """Compute a row for each critic, bound, N and mutual information: mean, bias = mean - mi,
        standard deviation sd over the repetitions, standard error of the mean, and the bound's
        `limit`."""
        cases = product(enumerate(CRITICS), BOUNDS, self.samples, enumerate(self.mi))
        for (c, critic_name), bound, n, (i, mi) in cases:
            rho = correlation(mi, self.dim)
            if critic_name == "optimal":
                critic: Callable = partial(optimal_critic, rho=rho)
            else:
                seed = mix(self.seed, 0, n, i)
                critic = train_critic(bound, n, self.dim, rho, self.steps, seed)
            seed = mix(self.seed, 1, c, n, i)  # the same batches for every bound
            values = estimates(bound, critic, n, self.dim, rho, self.repetitions, seed)
            mean, sd = values.mean().item(), values.std().item()
            yield {
                "critic": critic_name,
                "bound": bound,
                "n": n,
                "mi": mi,
                "limit": limit(bound, mi, self.dim),
                "mean": mean,
                "bias": mean - mi,
                "sd": sd,
                "standard_error": sd / math.sqrt(self.repetitions),
                "repetitions": self.repetitions,
            }


def plot_study(rows: list[dict], path: Path, title: str) -> None:
    """Plot bias and standard deviation of each bound against the true mutual information, a line
    for each N, to a PNG file.

    rows: of `Study.rows`, with one critic.
    """
    bounds = [bound for bound in BOUNDS if any(row["bound"] == bound for row in rows)]
    figure, axes = plt.subplots(
        2,
        len(bounds),
        figsize=(3.3 * len(bounds), 6.4),
        squeeze=False,
        sharex=True,
        sharey="row",
        layout="constrained",
    )
    for column, bound in enumerate(bounds):
        of_bound = [row for row in rows if row["bound"] == bound]
        for i, n in enumerate(sorted({row["n"] for row in of_bound})):
            line = [row for row in of_bound if row["n"] == n]
            for axis, name in zip(axes[:, column], ("bias", "sd")):
                axis.plot(
                    [row["mi"] for row in line],
                    [row[name] for row in line],
                    label=f"N = {n}",
                    color=COLOURS[i % 7],
                    linestyle=STYLES[i % 7],
                    marker="osD^v<>"[i % 7],
                    markersize=4,
                )
        limits = sorted({(row["mi"], row["limit"]) for row in of_bound})
        axes[0, column].plot(
            [mi for mi, _ in limits],
            [most - mi for mi, most in limits],
            color="0.5",
            linewidth=3,
            alpha=0.5,
            label="best critic, N to infinity",
            zorder=0,
        )
        axes[0, column].set_title(bound)
        axes[1, column].set_xlabel("true mutual information (nats)")
    axes[0, 0].set(ylabel="bias: mean - true (nats)")
    axes[0, 0].set_yscale("symlog", linthresh=1)
    axes[1, 0].set(ylabel="standard deviation (nats)", yscale="log")
    ticks = sorted({row["mi"] for row in rows})
    axes[0, 0].set_xscale("log")
    axes[0, 0].set_xticks(ticks, [f"{mi:g}" for mi in ticks])
    axes[0, 0].xaxis.set_minor_locator(NullLocator())
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)
