"""Projected gradient descent (Madry et al. 2018), the attack that training and the MI stages use.

    x_0 = Pi(x + start),   x_{t+1} = Pi( x_t + step * direction(grad_x loss(h(x_t))) )

with Pi the projection on the ball around x and on the box [0,1], and direction the sign of the
gradient (Linf) or the gradient over its norm (L2). FGSM and BIM are the same iteration with other
starts and steps.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from utils import distributed

NORMS = ("linf", "l2")
LOSSES = ("ce", "kl", "margin")
# How far beyond the budget, relative and in pixel units, rounding may carry an image.
TOLERANCE = 1e-5
NOISE = 0.001  # standard deviation of the default start, x + 0.001 N(0,1), of the released code


@contextlib.contextmanager
def frozen(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Put the model in eval mode with parameters that take no gradient; on leaving, each
    submodule's mode and each parameter's flag are what they were."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def per_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Give values (N,) as many trailing axes of length 1 as `like` (N, ...) has."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def l2_norm(delta: torch.Tensor) -> torch.Tensor:
    """Compute the Euclidean norm of each sample of (N, ...), as (N,).

    Scaled by the largest entry first, so that squares neither overflow nor vanish.
    """
    flat = delta.flatten(1)
    scale = flat.abs().amax(1)
    safe = torch.where(scale > 0, scale, 1)
    return scale * (flat / safe[:, None]).square().sum(1).sqrt()


def project(delta: torch.Tensor, norm: str, epsilon: float) -> torch.Tensor:
    """Project each perturbation of (N, ...) onto the ball of radius `epsilon`."""
    if norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    length = l2_norm(delta)
    scale = torch.where(length > epsilon, epsilon / length.clamp_min(epsilon), 1)
    return delta * per_sample(scale, delta)


def steepest(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """Compute the unit step along which the loss rises fastest; 0 where the gradient is 0."""
    if norm == "linf":
        return gradient.sign()
    length = l2_norm(gradient)
    unit = gradient / per_sample(torch.where(length > 0, length, 1), gradient)
    return torch.where(per_sample(length > 0, gradient), unit, 0)


def random_start(
    x: torch.Tensor, norm: str, epsilon: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw a perturbation uniformly from the ball, for restarts.

    Linf: each pixel by itself; L2: a uniform direction and a radius whose d-th power is uniform (d
    the number of pixels and channels).
    """
    noise = torch.empty_like(x, dtype=torch.float32)
    if norm == "linf":
        return noise.uniform_(-epsilon, epsilon, generator=generator)
    noise.normal_(generator=generator)
    radius = torch.rand(x.shape[0], device=x.device, generator=generator) ** (1 / x[0].numel())
    return epsilon * per_sample(radius / l2_norm(noise), noise) * noise


def to_levels(x: torch.Tensor, x_adv: torch.Tensor, norm: str, epsilon: float) -> torch.Tensor:
    """Round adversarial images to 256 levels, as a file of uint8 holds them; x is on such levels
    already.

    What is within the budget stays there: each pixel goes to the nearest level, except that as many
    pixels as necessary go to the level nearer to x, first those that lie nearest to it.
    """
    moved = ((x_adv - x) * 255).flatten(1)
    near, toward = moved.round(), moved.trunc()
    radius = 255 * epsilon * (1 + TOLERANCE / 2)
    if norm == "linf":
        inside = moved.abs().amax(1) <= radius + 255 * TOLERANCE
        back = near.abs() > radius
    else:
        inside = moved.norm(dim=1) <= radius + 255 * TOLERANCE
        order = (moved - toward).abs().masked_fill(near == toward, torch.inf).argsort(1)
        gain = (near.square() - toward.square()).gather(1, order)
        before = gain.cumsum(1) - gain
        back = torch.zeros_like(near, dtype=torch.bool)
        back.scatter_(1, order, before < near.square().sum(1, keepdim=True) - radius**2)
    levels = torch.where(back & inside[:, None], toward, near).view_as(x)
    return ((x * 255).round() + levels) / 255


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Raise `values` to float32 where they are of half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _loss(
    name: str | Callable, logits: torch.Tensor, y: torch.Tensor, log_natural: torch.Tensor | None
) -> torch.Tensor:
    """Compute what the attack increases, summed over samples so that none depends on the others."""
    if callable(name):
        return name(logits)
    if name == "ce":
        return F.cross_entropy(at_least_float32(logits), y, reduction="sum")
    if name == "margin":
        others = logits.scatter(1, y[:, None], -torch.inf)
        return (others.amax(1) - logits.gather(1, y[:, None])[:, 0]).sum()
    assert log_natural is not None  # given for "kl"
    log_adv = F.log_softmax(at_least_float32(logits), 1)
    return F.kl_div(log_adv, log_natural, reduction="sum", log_target=True)


def pgd(
    model: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    norm: str = "linf",
    epsilon: float = 8 / 255,
    steps: int = 10,
    step_size: float | None = None,
    loss: str | Callable = "ce",
    start: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    until_fooled: bool = False,
) -> torch.Tensor:
    """Attack images by PGD: x~ (N,3,H,W) in [0,1] with ||x~ - x|| <= epsilon, of the dtype and on
    the device of `x`.

    Args:
        x, y: images in [0,1], (N,3,H,W), and labels (N,).
        norm: "linf" or "l2".
        epsilon, step_size: in pixel units, where 1 is the whole range; default step epsilon/4.
        loss: "ce" (cross-entropy), "kl" (from the prediction for the natural image, as in TRADES),
            "margin" (the largest other logit minus that of y), or a function logits -> scalar.
        start: the first perturbation, of the shape of x, projected before the first step; default
            0.001 N(0,1) drawn from `generator`.
        until_fooled: a sample stops at the first iterate that the model gets wrong, and costs
            nothing from there on (for evaluation: it waits for the device in each step).

    The model runs in eval mode and only the input takes gradients; its modes, flags and ``.grad``
    are as before afterwards. A sample whose gradient is zero stays where it is. Half-precision
    images are attacked in float32 and rounded once at the end. Raises ValueError for an unknown
    norm or loss.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is unknown; choose one of {', '.join(NORMS)}")
    if loss not in LOSSES and not callable(loss):
        known = ", ".join(LOSSES)
        raise ValueError(f"loss {loss!r} is unknown; choose {known} or a function of the logits")
    step_size = epsilon / 4 if step_size is None else step_size
    move = partial(take_step, norm, epsilon, step_size)
    with torch.inference_mode(False), frozen(model):
        natural = at_least_float32(x.detach().clone())
        x_adv = first_iterate(natural, norm, epsilon, start, generator)
        log_natural = _log_softmax(model, natural.to(x.dtype)) if loss == "kl" else None

        def differentiate(x_adv, index):
            there = None if log_natural is None else log_natural[index]
            return _gradient_and_logits(model, loss, x.dtype, x_adv, y[index], there)

        return ascend(differentiate, move, x_adv, natural, y, steps, until_fooled).to(x.dtype)


def first_iterate(
    natural: torch.Tensor,
    norm: str,
    epsilon: float,
    start: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return the images at which `pgd` starts, within the ball and the box; see its arguments."""
    if start is None:
        delta = NOISE * distributed.normal(natural, generator)
    else:
        delta = start.detach().clone().to(natural)
    return (natural + project(delta, norm, epsilon)).clamp(0, 1)


def ascend(
    differentiate: Callable, move: Callable, x_adv, natural, y, steps: int, until_fooled: bool
) -> torch.Tensor:
    """Run the iteration of `pgd` from images `x_adv`.

    Args:
        differentiate: (images, which samples these are: an index) -> (gradient of what the attack
            increases, logits).
        move: (images, natural images, gradient) -> the next images.
        natural, y: natural images (N,3,H,W) and labels (N,).
        steps, until_fooled: as in `pgd`.
    """
    if until_fooled:
        return _first_fooling(differentiate, move, x_adv, natural, y, steps)
    for _ in range(steps):
        gradient, _ = differentiate(x_adv, slice(None))
        x_adv = move(x_adv, natural, gradient)
    return x_adv


def _gradient_and_logits(
    model, loss: str | Callable, dtype, x_adv, y, log_natural
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the gradient of the loss in images `x_adv`, which the model sees in `dtype`, and its
    logits."""
    with torch.enable_grad():
        x_adv = x_adv.requires_grad_(True)
        # A view, since hooks on a module's input, as torch.utils.flop_counter's, refuse a leaf in
        # autograd.grad.
        logits = model(x_adv.view_as(x_adv).to(dtype))
        (gradient,) = torch.autograd.grad(_loss(loss, logits, y, log_natural), x_adv)
    return gradient, logits


def take_step(
    norm: str, epsilon: float, step_size: float, x_adv, natural, gradient
) -> torch.Tensor:
    """Take a step of steepest ascent from images `x_adv`, and project on the ball around `natural`
    and on the box."""
    x_adv = x_adv.detach() + step_size * steepest(gradient, norm)
    return (natural + project(x_adv - natural, norm, epsilon)).clamp(0, 1)


@torch.no_grad()
def _log_softmax(model, x: torch.Tensor) -> torch.Tensor:
    """Compute the log-probabilities that the model gives images `x`."""
    return F.log_softmax(at_least_float32(model(x)), 1)


def _first_fooling(
    differentiate: Callable, move: Callable, x_adv, natural, y, steps: int
) -> torch.Tensor:
    """Run the iteration of `ascend`, from which a sample leaves at the first iterate that the model
    gets wrong.

    Returns of each sample that iterate, or the last one. Waits for the device in each step.
    """
    result, index = x_adv.clone(), torch.arange(len(y), device=y.device)
    for _ in range(steps):
        gradient, logits = differentiate(x_adv, index)
        robust = logits.argmax(1) == y[index]
        result[index] = x_adv = x_adv.detach()
        kept = (x_adv, gradient, natural, index)
        x_adv, gradient, natural, index = (values[robust] for values in kept)
        if len(index) == 0:
            return result
        x_adv = move(x_adv, natural, gradient)
    result[index] = x_adv
    return result


def fgsm(model, x, y, norm="linf", epsilon=8 / 255, loss="ce") -> torch.Tensor:
    """Attack by the fast gradient (sign) method, Goodfellow et al. 2015: one step of length epsilon
    from the image itself."""
    return pgd(
        model, x, y, norm, epsilon, 1, step_size=epsilon, loss=loss, start=torch.zeros_like(x)
    )


def bim(
    model,
    x,
    y,
    norm="linf",
    epsilon=8 / 255,
    steps=10,
    step_size=None,
    loss="ce",
    until_fooled=False,
) -> torch.Tensor:
    """Attack by the basic iterative method, Kurakin et al. 2017: PGD from the image itself."""
    start = torch.zeros_like(x)
    return pgd(model, x, y, norm, epsilon, steps, step_size, loss, start, until_fooled=until_fooled)
