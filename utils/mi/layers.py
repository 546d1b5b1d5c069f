"""Measure how much entropy and information the activations of a layer have.

a (N,d): the activations of N images, averaged over space where they are maps. Everything is in nats
except `activation_entropy`. None of these numbers determines the robustness of a network: weights
can be rescaled so that every logit stays and every number here moves (docs/entropic_retraining.md).

    H(a_i) = - sum_k p_k log p_k / log d,   p = a_i / sum_k a_ik            (activation entropy)
    B(c) = - mean_i log mean_j exp(-|a_i - a_j|^2 / (2c))
    B(4 s^2) <= I(X;T) <= B(s^2) <= log N,   T = a(X) + N(0, s^2 I)         (noisy layer)

The two bounds are those of Kolchinsky and Tracey 2017, for X uniform on the images.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from utils.attacks.projected_gradient import at_least_float32

RELATIVE_NOISE = 0.1  # standard deviation of the noise over the root mean square of the layer
VARIANCE = 1e-6  # added to each unit's variance, so that a constant unit has a finite entropy
BINS = 30  # of `binned_entropy`
ROWS = 1024  # rows of the matrix of distances that are computed at a time


def activation_entropy(a: torch.Tensor) -> torch.Tensor:
    """Compute the entropy of each image's activations as a distribution over units: (N,d) -> (N,).

    The values lie in [0,1]: 1 where all units are equal, 0 where a single one is active. An image
    whose activations are all >= 0 has the distribution a / sum a, another one softmax(a). A unit at
    exactly 0 adds nothing and has the gradient 0, as has an image whose largest activation is at
    most the square root of the smallest normal number (1e-19 in float32), and a layer of one unit.
    """
    a = at_least_float32(a)
    if a.shape[1] == 1:
        return torch.zeros_like(a[:, 0])
    non_negative = (a >= 0).all(1)
    shares = _share_entropy(torch.where(non_negative[:, None], a, 1))
    softmax = _softmax_entropy(torch.where(non_negative[:, None], 0, a))
    entropy = torch.where(non_negative, shares, softmax)
    return entropy / math.log(a.shape[1])


def _share_entropy(a: torch.Tensor) -> torch.Tensor:
    """Compute the entropy of a / sum a for activations >= 0: (N,d) -> (N,)."""
    largest = a.detach().amax(1, keepdim=True)
    tiny = torch.finfo(a.dtype).tiny
    dead = largest <= math.sqrt(tiny)  # 1/largest and its square, as in Adam, stay finite
    a = torch.where(dead, 1, a)
    a = torch.where(a == 0, 0, a)  # so that a unit at 0 takes no gradient through the sum either
    scaled = a / torch.where(dead, 1, largest)  # no gradient: the entropy has no scale
    p = scaled / scaled.sum(1, keepdim=True)
    silent = p <= tiny
    entropy = -torch.where(silent, 0, p * torch.where(silent, 1, p).log()).sum(1)
    return torch.where(dead[:, 0], 0, entropy)


def _softmax_entropy(a: torch.Tensor) -> torch.Tensor:
    """Compute the entropy of softmax(a): (N,d) -> (N,)."""
    log_p = F.log_softmax(a, 1)
    return -(log_p.exp() * log_p).sum(1)


def relative_noise(a: torch.Tensor) -> torch.Tensor:
    """Return the default standard deviation of the noise: 0.1 times the root mean square of a.

    It takes no gradient, and is above 0 for a layer of zeros, too.
    """
    mean_square = at_least_float32(a.detach()).double().square().mean()
    return RELATIVE_NOISE * mean_square.sqrt().clamp_min(torch.finfo(torch.float32).tiny)


def noisy_information(
    a: torch.Tensor, noise: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the bounds B(4 s^2) <= I(X;T) <= B(s^2) for the standard deviation `noise`, s > 0."""
    lower, upper = _log_sums(a, noise, None)
    most = math.log(len(a))
    return _like(most - lower.mean(), a), _like(most - upper.mean(), a)


def surplus_information(
    a: torch.Tensor, y: torch.Tensor, noise: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute bounds of I(X;T|Y) = sum_y p_y I(X;T|Y=y), what T knows of x beyond its class.

    y: labels (N,). The bounds are those of `noisy_information` within each class.
    """
    lower, upper = _log_sums(a, noise, y)
    most = (y[:, None] == y[None]).sum(1).double().log()
    return _like((most - lower).mean(), a), _like((most - upper).mean(), a)


def label_information(
    a: torch.Tensor, y: torch.Tensor, noise: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimate I(T;Y) = I(X;T) - I(X;T|Y) with the lower and with the upper bound in both terms.

    A difference of bounds is an estimate, no bound. y: labels (N,).
    """
    whole, surplus = noisy_information(a, noise), surplus_information(a, y, noise)
    return whole[0] - surplus[0], whole[1] - surplus[1]


def unit_entropy(a: torch.Tensor) -> torch.Tensor:
    """Compute the mean over units of a Gaussian's entropy, 1/2 log(2 pi e (var_k + 1e-6)).

    It depends on the scale: c a has log c more.
    """
    variance = at_least_float32(a).var(0, correction=0) + VARIANCE
    return 0.5 * (math.log(2 * math.pi * math.e) + variance.log()).mean()


@torch.no_grad()
def binned_entropy(a: torch.Tensor) -> torch.Tensor:
    """Compute the mean over units of the entropy of a histogram, for plots: no gradient.

    The 30 bins are of equal width from the layer's smallest to its largest activation.
    """
    a = at_least_float32(a)
    low, high = a.aminmax()
    width = torch.where(high > low, (high - low) / BINS, 1)
    index = ((a - low) / width).long().clamp(0, BINS - 1)
    counts = torch.zeros(BINS, a.shape[1], dtype=a.dtype, device=a.device)
    counts.scatter_add_(0, index, torch.ones_like(a))
    p = counts / len(a)
    return -torch.xlogy(p, p).sum(0).mean()


def _log_sums(
    a: torch.Tensor, noise: float | torch.Tensor, y: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute log sum_j exp(-|a_i - a_j|^2 / (2c)) for c = 4 s^2 and s^2: two (N,), in float64.

    y: labels (N,), so that j runs over the images of i's class; None: over all.
    """
    if not isinstance(noise, torch.Tensor) and not noise > 0:
        raise ValueError(f"noise is {noise}; give a standard deviation above 0")
    squared = torch.as_tensor(noise, dtype=torch.float64, device=a.device) ** 2
    found: tuple[list, list] = [], []
    for rows, square in _square_distances(a):
        if y is not None:
            square = square.masked_fill(y[rows, None] != y[None], torch.inf)
        for each, c in zip(found, (4 * squared, squared)):
            each.append((-square / (2 * c)).logsumexp(1))
    return torch.cat(found[0]), torch.cat(found[1])


def _square_distances(a: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, |a_i - a_j|^2 for these rows i and all j), in float64.

    The product form has a finite gradient where two images have equal activations, as `cdist` has
    not. Its rounding is small beside the distances, since the mean is subtracted first.
    """
    a = a.double()
    a = a - a.mean(0)
    norms = a.square().sum(1)
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        square = norms[rows, None] + norms[None] - 2 * a[rows] @ a.T
        yield rows, square.clamp_min(0)


def _like(value: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Return a float64 value in the precision of `a`, float32 at least."""
    return value.to(torch.promote_types(a.dtype, torch.float32))


# What of a layer (N,d) is raised or lowered: a scalar.
QUANTITIES = {
    "activation": lambda a: activation_entropy(a).mean(),
    "information": lambda a: noisy_information(a, relative_noise(a))[0],  # the lower bound
    "unit": unit_entropy,
    "binned": binned_entropy,
}


def describe(a: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Measure a layer (N,d) with labels y (N,) by every quantity, with the default noise.

    "information" and "surplus" are the lower bounds, "label" is estimated with the lower bounds.
    """
    noise = relative_noise(a)
    found = {name: quantity(a) for name, quantity in QUANTITIES.items()}
    found["information_upper"] = noisy_information(a, noise)[1]
    found["surplus"], found["surplus_upper"] = surplus_information(a, y, noise)
    found["label"], found["label_upper"] = label_information(a, y, noise)
    return {name: value.item() for name, value in found.items()}
