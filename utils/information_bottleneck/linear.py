"""Train a linear variational bottleneck with a Gaussian decoder, whose optimum is known.

    t = A x + sigma eps,   q(y|t) = N(B t, C),   loss = E -ln q(y|t) + beta E KL(p(t|x) || N(0,I))

On zero-mean Gaussians both expectations are quadratic forms in the covariances, so that the loss is
exact. Its minimum is h(Y) - max(I(Y;T) - beta I(X;T)).
"""

import math

import numpy
import torch

from utils.mi import gaussian_bottleneck

STEPS = 500


def loss_of(weights: dict, covariances: tuple, beta: float) -> torch.Tensor:
    """Compute the loss in nats.

    Args:
        weights: "encoder" A (m,d), "log_sigma" (m,), "decoder" B (k,m), "root" (k,k) with C = root
            root'.
        covariances: S_x, S_y, S_xy.
    """
    x, y, cross = covariances
    a, b, root = weights["encoder"], weights["decoder"], weights["root"]
    variance = (2 * weights["log_sigma"]).exp()
    mean_square = a @ x @ a.T
    through = b @ a @ cross  # E[B t y']
    error = y - through - through.T + b @ (mean_square + variance.diag()) @ b.T
    noise = root @ root.T
    log_loss = torch.logdet(2 * math.pi * noise) + torch.linalg.solve(noise, error).trace()
    rate = mean_square.trace() + (variance - 1 - 2 * weights["log_sigma"]).sum()
    return 0.5 * (log_loss + beta * rate)


def train(
    x: numpy.ndarray, y: numpy.ndarray, cross: numpy.ndarray, beta: float, dim: int, seed: int = 0
) -> dict[str, float]:
    """Train by L-BFGS in float64, and compare with the closed form.

    Returns the loss and the least possible one, I(X;T) and I(Y;T) of the trained encoder and of the
    optimal one, and the rate, in nats.
    """
    generator = torch.Generator().manual_seed(seed)
    covariances = tuple(torch.from_numpy(each) for each in (x, y, cross))
    shapes = {"encoder": (dim, len(x)), "decoder": (len(y), dim)}
    weights = {
        name: 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    weights["log_sigma"] = torch.zeros(dim, dtype=torch.float64)
    weights["root"] = torch.linalg.cholesky(covariances[1]).contiguous()
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.LBFGS(
        list(weights.values()),
        max_iter=STEPS,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = loss_of(weights, covariances, beta)
        loss.backward()
        return loss

    optimizer.step(closure)
    loss = loss_of(weights, covariances, beta).item()
    a = weights["encoder"].detach().numpy()
    noise = numpy.diag(numpy.exp(2 * weights["log_sigma"].detach().numpy()))
    found = gaussian_bottleneck.informations(x, y, cross, a, noise)
    best = gaussian_bottleneck.solve(x, y, cross, beta)
    rate = 0.5 * float(numpy.trace(a @ x @ a.T + noise) - dim - numpy.log(numpy.diag(noise)).sum())
    return {
        "beta": beta,
        "loss": loss,
        "least_loss": gaussian_bottleneck.entropy(y) - best.objective,
        "information_x": found[0],
        "optimal_x": best.information_x,
        "information_y": found[1],
        "optimal_y": best.information_y,
        "rate": rate,
    }


def example(dim: int, outputs: int, seed: int) -> tuple[numpy.ndarray, ...]:
    """Draw the covariances S_x (d,d), S_y (k,k) and S_xy (d,k) of joint Gaussians."""
    random = numpy.random.default_rng(seed)
    root = random.normal(size=(dim + outputs, dim + outputs)) / math.sqrt(dim + outputs)
    both = root @ root.T + 0.1 * numpy.eye(dim + outputs)
    return both[:dim, :dim], both[dim:, dim:], both[:dim, dim:]
