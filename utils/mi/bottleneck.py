"""Bound the information that a Gaussian representation p(t|x) = N(mu(x), diag sigma(x)^2) keeps.

    rate      R(x) = KL(p(t|x) || N(0, I)),  E R = I(X;T) + KL(p(t) || N(0, I))
    lower     mean_i [ln p(t_i|x_i) - ln mean_j p(t_i|x_j)],            at most ln N
    upper     the same with the mean over j != i

with t_i drawn from p(t|x_i). On average over the draws I(X;T) lies between the last two (Poole et
al. 2019). The rate exceeds I(X;T) by KL(p(t) || N(0, I)). All in nats.
"""

import math

import torch

ENTRIES = 2**24  # of the largest tensor (rows, N, K) that `brackets` makes at once


def rate(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Compute R = 1/2 sum_k (mu_k^2 + sigma_k^2 - 1 - ln sigma_k^2) of each sample, (N,), in nats.

    mu, sigma: (N,K).
    """
    return 0.5 * (mu.square() + sigma.square() - 1 - 2 * sigma.log()).sum(1)


def log_density(t: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Compute ln N(t; mu, diag sigma^2), summed over the last axis."""
    z = (t - mu) / sigma
    return -(0.5 * z.square() + sigma.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


@torch.no_grad()
def brackets(mu: torch.Tensor, sigma: torch.Tensor, t: torch.Tensor) -> tuple[float, float]:
    """Compute the lower and the upper bracket of I(X;T), in nats, from N >= 2 encoders.

    Args:
        mu, sigma: the encoders' (N,K).
        t: a draw of each, (N,K).
    """
    mu, sigma, t = mu.double(), sigma.double(), t.double()
    n = len(t)
    rows = max(1, ENTRIES // mu.numel())
    lower, upper = 0.0, 0.0
    for first in range(0, n, rows):
        some = t[first : first + rows]
        scores = log_density(some[:, None], mu, sigma)  # ln p(t_i|x_j), (rows, N)
        own = torch.arange(first, first + len(some), device=t.device)[:, None]
        positive = scores.gather(1, own)[:, 0]
        lower += (positive - scores.logsumexp(1) + math.log(n)).sum().item()
        others = scores.scatter(1, own, -torch.inf).logsumexp(1) - math.log(n - 1)
        upper += (positive - others).sum().item()
    return lower / n, upper / n


@torch.no_grad()
def label_brackets(
    mu: torch.Tensor, sigma: torch.Tensor, t: torch.Tensor, y: torch.Tensor
) -> tuple[float, float]:
    """Compute a lower and an upper bracket of I(Y;T), in nats, from N encoders.

    p(t) and p(t|y) are the mixtures of all encoders and of those of the label, which include t's
    own encoder where they are to be large and leave it out where they are to be small. Arguments as
    in `brackets`; y: labels (N,), of which each occurs twice or more.
    """
    mu, sigma, t = mu.double(), sigma.double(), t.double()
    n, lower, upper = len(t), 0.0, 0.0
    rows = max(1, ENTRIES // mu.numel())
    for first in range(0, n, rows):
        some = t[first : first + rows]
        scores = log_density(some[:, None], mu, sigma)
        own = torch.arange(first, first + len(some), device=t.device)[:, None]
        others = scores.scatter(1, own, -torch.inf)
        same = y[first : first + len(some), None] == y
        count = same.sum(1).double()
        for_label = scores.masked_fill(~same, -torch.inf).logsumexp(1) - count.log()
        rest = others.masked_fill(~same, -torch.inf).logsumexp(1) - (count - 1).log()
        lower += (rest - scores.logsumexp(1) + math.log(n)).sum().item()
        upper += (for_label - others.logsumexp(1) + math.log(n - 1)).sum().item()
    return lower / n, upper / n


def label_information(labels: torch.Tensor, cross_entropy: float, classes: int) -> float:
    """Compute the lower bound H(Y) - CE of I(Y;T), in nats, with H(Y) that of the labels (N,)."""
    share = torch.bincount(labels, minlength=classes).double() / len(labels)
    return torch.special.entr(share).sum().item() - cross_entropy
