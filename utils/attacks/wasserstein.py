"""Wasserstein attacks (Wu et al. 2020, *Stronger and Faster Wasserstein Adversarial Attacks*).

A transport plan P >= 0 says how much of each pixel's value goes to each pixel of the window around
it, in its own channel. With c the Euclidean distance of two pixels, the feasible plans of an image
x and a budget epsilon (pixels) are

    { P >= 0,  sum_j P_ij = x_i,  <P, c> <= epsilon sum(x) },

and the adversarial image is sum_i P_ij, cut to [0,1] for the network. Plans are tensors
(N,C,K,H,W): each pixel of each channel sends P to the K = kernel^2 places of its window, nothing to
those outside the image. Both attacks move P by G, the gradient of the cross-entropy in P divided by
its largest modulus in the image:

    projected:    P <- the feasible plan nearest to P + step G;
    Frank-Wolfe:  P <- P + 2/(k+2) (P* - P),  P* = argmax of <P, G> + gamma entropy(P).

`utils.attacks.transport` finds the nearest plan and P*. Frank-Wolfe needs only the image of P,
which moves by the same weights, and the few rows of P* that leave their pixel.
"""

import torch
import torch.nn.functional as F

from utils.attacks.common import cut, precise
from utils.attacks.transport import Transport


def projected(
    model, x, y, epsilon, steps=40, kernel=5, step_size=0.007, evaluations=60, until_fooled=False
) -> torch.Tensor:
    """Attack by projected gradients.

    evaluations: of a plan in each projection, at most. until_fooled: a sample stops at the first
    image that the network gets wrong.
    """
    plans = _Projected(Transport(x, epsilon, kernel), step_size, evaluations)
    return _ascend(model, x, y, plans, steps, until_fooled)


def frank_wolfe(
    model, x, y, epsilon, steps=40, kernel=5, gamma=0.001, evaluations=30, until_fooled=False
) -> torch.Tensor:
    """Attack by Frank-Wolfe steps.

    gamma: the weight of the entropy. evaluations: of the multiplier in each step, at most.
    """
    plans = _FrankWolfe(Transport(x, epsilon, kernel), gamma, evaluations)
    return _ascend(model, x, y, plans, steps, until_fooled)


def _ascend(
    model, x, y, plans: "_Projected | _FrankWolfe", steps: int, until_fooled: bool
) -> torch.Tensor:
    """Move the plans `steps` times, from the plan that moves nothing.

    Returns of each sample the latest image on which the network was seen to err, or else the last
    image.
    """
    index = torch.arange(len(x), device=x.device)
    result, fooled = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    for step in range(steps):
        image = plans.received.detach().requires_grad_(True)
        logits = precise(model(cut(image)))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y[index], reduction="sum"), image)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            errs = logits.argmax(1) != y[index]
            result[index[errs]] = image[errs].clamp(0, 1)
            fooled[index[errs]] = True
            if until_fooled and errs.any():
                index, gradient = index[~errs], gradient[~errs]
                plans.keep(~errs)
                if not len(index):
                    return result
            largest = gradient.abs().amax((1, 2, 3), keepdim=True)
            plans.move(gradient / torch.where(largest > 0, largest, 1), step)
    last = ~fooled[index]
    result[index[last]] = plans.received[last].clamp(0, 1)
    return result


class _Projected:
    """Hold the plans of the projected form, moved in place, and what they send."""

    def __init__(self, transport: Transport, step_size: float, evaluations: int):
        self.transport, self.step_size, self.evaluations = transport, step_size, evaluations
        self.plan, self.received = transport.identity(), transport.x

    def keep(self, stay: torch.Tensor) -> None:
        self.plan, self.received = self.plan[stay], self.received[stay]
        self.transport.keep(stay)

    def move(self, G: torch.Tensor, _: int) -> None:
        self.received = self.transport.ascend(self.plan, G, self.step_size, self.evaluations)


class _FrankWolfe:
    """Hold what the plans of the Frank-Wolfe form send, all that is needed of them."""

    def __init__(self, transport: Transport, gamma: float, evaluations: int):
        self.transport, self.gamma, self.evaluations = transport, gamma, evaluations
        self.received = transport.x

    def keep(self, stay: torch.Tensor) -> None:
        self.received = self.received[stay]
        self.transport.keep(stay)

    def move(self, G: torch.Tensor, step: int) -> None:
        best = self.transport.maximise(G, self.gamma, self.evaluations)
        self.received = self.received.lerp(best, 2 / (step + 2))
