"""Gradient steps within a ball, beyond utils.attacks: PGD from several starts, and the momentum
attacks MIM and TI-DIM.

The momentum attacks (Dong et al. 2018) start at the image and keep a running direction m:

    m_{t+1} = decay m_t + g_t / mean|g_t|,   x_{t+1} = Pi( x_t + step * direction(m_{t+1}) ),

with g_t the gradient of the cross-entropy at x_t. TI-DIM takes it at a randomly resized and padded
image (diverse inputs, Xie et al. 2019) and smooths it by a Gaussian (translation invariance, Dong
et al. 2019).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import InputError
from utils.attacks import projected_gradient
from utils.attacks.common import precise


def pgd(
    model,
    x,
    y,
    norm,
    epsilon,
    steps=40,
    step_size=None,
    restarts=1,
    seed=0,
    generator=None,
    rounded=False,
    by_loss=False,
    **settings,
) -> torch.Tensor:
    """Attack by utils.attacks.pgd from `restarts` starts: its default start, then, for the samples
    that are still robust, points uniform in the ball.

    Returns of each sample a point on which the network errs, or else the one of highest
    cross-entropy. All is drawn from `generator`, or from one with `seed`. rounded: whether the
    network errs is seen on the image rounded to 256 levels. by_loss: all samples start again, and
    the highest cross-entropy alone chooses, since of ten judgements of a random network one is
    wrong by luck.
    """
    if generator is None:
        generator = torch.Generator(x.device).manual_seed(seed)
    settings["step_size"] = step_size
    x_adv = projected_gradient.pgd(
        model, x, y, norm, epsilon, steps, generator=generator, **settings
    )
    if restarts == 1:
        return x_adv

    def judged(found, index):
        seen = projected_gradient.to_levels(x[index], found, norm, epsilon) if rounded else found
        loss, standing = _loss_and_robust(model, seen, y[index])
        return loss, standing | by_loss

    loss, robust = judged(x_adv, slice(None))
    for _ in range(restarts - 1):
        index = robust.nonzero()[:, 0]
        if len(index) == 0:
            break
        start = projected_gradient.random_start(x[index], norm, epsilon, generator)
        again = projected_gradient.pgd(
            model, x[index], y[index], norm, epsilon, steps, start=start, **settings
        )
        loss_again, robust_again = judged(again, index)
        better = (loss_again > loss[index]) | ~robust_again
        chosen = projected_gradient.per_sample(better, again)
        x_adv[index] = torch.where(chosen, again, x_adv[index])
        loss[index] = torch.where(better, loss_again, loss[index])
        robust[index] = robust_again
    return x_adv


@torch.no_grad()
def _loss_and_robust(model, x_adv, y) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the cross-entropy of each sample, and whether the network is still right."""
    logits = precise(model(x_adv))
    return F.cross_entropy(logits, y, reduction="none"), logits.argmax(1) == y


def mim(
    model, x, y, norm, epsilon, steps=40, step_size=None, decay=1.0, until_fooled=False
) -> torch.Tensor:
    """Attack by the momentum iterative method.

    step_size: in pixel units, default epsilon/4. decay: of the running direction. until_fooled: a
    sample stops at the first iterate that the network gets wrong.
    """

    def gradient(x_adv, index, _):
        return _gradient(model, x_adv, y[index])

    return _momentum(gradient, x, norm, epsilon, steps, step_size, decay, until_fooled)


def tidim(
    model,
    x,
    y,
    norm,
    epsilon,
    steps=40,
    step_size=None,
    decay=1.0,
    probability=0.5,
    enlargement=36 / 32,
    kernel=15,
    sigma=7 / 3,
    seed=0,
    index=None,
    until_fooled=False,
) -> torch.Tensor:
    """Attack by TI-DIM.

    Before each gradient each image is, with `probability`, resized to a side drawn from its own to
    `enlargement` times its own and padded with zeros to the latter, at a random place; that is what
    the network sees. The gradient is smoothed by a Gaussian of kernel x kernel pixels with standard
    deviation `sigma`, in pixels: 7/3, for the published kernel's 15 taps span 3 standard deviations
    to either side (Dong et al. 2019).

    index: (N,) integers >= 0 that name the samples, such as their places in the data set; default
    0..N-1. The draws of a sample come from (seed, its index) alone: they depend neither on the rest
    of the batch nor on the device.
    until_fooled: a sample stops at the first iterate that the network is seen to get wrong as it
    is, without a change. Raises InputError where the network does not take the enlarged images.
    """
    height, width = x.shape[2:]
    canvas = round(height * enlargement), round(width * enlargement)
    names = range(len(x)) if index is None else [int(i) for i in index]
    own = [np.random.default_rng((seed, name)).random((steps, 4)) for name in names]
    draws = np.stack(own, 1)  # (steps,N,4)
    if canvas != (height, width):
        _require_size(model, x, canvas)
    weights = _gaussian(kernel, sigma, x)

    def gradient(x_adv, index, step):
        drawn = draws[step, index.cpu().numpy()]
        diverse = drawn[:, 0] < probability
        result, errs = torch.empty_like(x_adv), torch.zeros_like(index, dtype=torch.bool)
        for chosen, changed in ((diverse, True), (~diverse, False)):
            if chosen.any():
                here = torch.from_numpy(np.flatnonzero(chosen)).to(x.device)
                change = None
                if changed:
                    change = _Enlarged(drawn[chosen, 1:], (height, width), canvas, x)
                result[here], wrong = _gradient(model, x_adv[here], y[index[here]], change)
                if not changed:
                    errs[here] = wrong
        return _smooth(result, weights), errs

    return _momentum(gradient, x, norm, epsilon, steps, step_size, decay, until_fooled)


def _momentum(
    gradient: Callable, x, norm, epsilon, steps, step_size, decay, until_fooled
) -> torch.Tensor:
    """Run the iteration above.

    gradient: (x_adv, which samples these are, step) -> g, which of them the network gets wrong.
    """
    step_size = epsilon / 4 if step_size is None else step_size
    result, index = x.clone(), torch.arange(len(x), device=x.device)
    natural, x_adv, direction = x, x, torch.zeros_like(x)
    for step in range(steps):
        g, errs = gradient(x_adv, index, step)
        if until_fooled and errs.any():
            result[index[errs]] = x_adv[errs]
            natural, x_adv, direction, g, index = (
                v[~errs] for v in (natural, x_adv, direction, g, index)
            )
            if len(index) == 0:
                break
        scale = g.abs().mean((1, 2, 3), keepdim=True)
        unit = torch.where(scale > 0, g / torch.where(scale > 0, scale, 1), 0)
        direction = decay * direction + unit
        delta = x_adv + step_size * projected_gradient.steepest(direction, norm) - natural
        x_adv = (natural + projected_gradient.project(delta, norm, epsilon)).clamp(0, 1)
    result[index] = x_adv
    return result


def _gradient(model, x, y, change: Callable | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the gradient of each sample's cross-entropy in its image, through `change` where
    there is one; and whether the network gets what it saw wrong."""
    x = x.detach().requires_grad_(True)
    logits = precise(model(x if change is None else change(x)))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    return gradient, logits.detach().argmax(1) != y


def _gaussian(kernel: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """Compute the weights (kernel,) of a Gaussian of standard deviation `sigma`, which sum to 1."""
    away = torch.arange(kernel, device=like.device) - (kernel - 1) / 2
    weights = torch.exp(-0.5 * (away / sigma) ** 2)
    return (weights / weights.sum()).to(like.dtype)


def _smooth(image: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Convolve each channel of (N,C,H,W) with weights in both directions, zero outside the
    image."""
    channels, size = image.shape[1], len(weights)
    before, after = (size - 1) // 2, size // 2
    image = F.pad(image, (before, after, before, after))
    image = F.conv2d(image, weights.expand(channels, 1, 1, size), groups=channels)
    return F.conv2d(image, weights[:, None].expand(channels, 1, size, 1), groups=channels)


class _Enlarged:
    """Resize images and place them on a canvas of zeros, each with its own size and place.

    For each channel two matrix products, whose backward pass is as reproducible as they are (that
    of grid_sample is not on CUDA).
    """

    def __init__(
        self, draws: np.ndarray, size: tuple[int, int], canvas: tuple[int, int], like: torch.Tensor
    ):
        """Take draws (N,3) uniform in [0,1): size, vertical place, horizontal place."""
        grow, vertical, horizontal = torch.from_numpy(draws).to(like.device).unbind(1)
        rows = self._axis(grow, vertical, size[0], canvas[0])
        columns = self._axis(grow, horizontal, size[1], canvas[1])
        self.rows, self.columns = (axis.to(like.dtype)[:, None] for axis in (rows, columns))

    @staticmethod
    def _axis(grow: torch.Tensor, place: torch.Tensor, side: int, canvas: int) -> torch.Tensor:
        """Write bilinear interpolation along one axis as matrices (N,canvas,side)."""
        length = side + (grow * (canvas - side + 1)).floor()
        first = (place * (canvas - length + 1)).floor()
        at = torch.arange(canvas, device=grow.device) - first[:, None]
        inside = (at >= 0) & (at < length[:, None])
        source = ((at + 0.5) * side / length[:, None] - 0.5).clamp(0, side - 1)
        hat = 1 - (source[:, :, None] - torch.arange(side, device=grow.device)).abs()
        return hat.clamp_min(0) * inside[:, :, None]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.rows @ x @ self.columns.transpose(2, 3)


def _require_size(model, x, canvas) -> None:
    """Raise InputError unless the network takes images of the size `canvas`."""
    try:
        with torch.no_grad():
            model(x.new_zeros(1, x.shape[1], *canvas))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError):
        size = " and ".join(f"{height}x{width}" for height, width in (x.shape[2:], canvas))
        raise InputError(
            f"--attacks: tidim shows the network images of {size} (diverse inputs), and this one "
            "refuses the latter; leave tidim out"
        ) from None
