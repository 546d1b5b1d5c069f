"""The Wasserstein attacks of Wu et al. 2020 (*Stronger and Faster Wasserstein Adversarial Attacks*).

A transport plan P >= 0 says how much of each pixel's value goes to each pixel of the window around it, in its own
channel. With c the Euclidean distance of two pixels, the feasible plans of an image x and a budget epsilon (pixels) are

    { P >= 0,  sum_j P_ij = x_i,  <P, c> <= epsilon sum(x) },

and the adversarial image is sum_i P_ij, cut to [0,1] for the network. Plans are tensors (N,C,K,H,W): each pixel of
each channel sends P to the K = kernel^2 places of its window, nothing to those outside the image. Both attacks move P
by G, the gradient of the cross-entropy in P divided by its largest modulus in the image:

    projected:    P <- the feasible plan nearest to P + step G;
    Frank-Wolfe:  P <- P + 2/(k+2) (P* - P),  P* = argmax over feasible plans of <P, G> + gamma entropy(P).

In either, the multiplier t >= 0 of the budget is found by Newton's method and, where that leaves the interval known, by
bisection: the same plan in a quarter of the evaluations that bisection alone takes.
"""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from utils.attack_suite.common import precise

_PER_IMAGE = (1, 2, 3, 4)


def projected(model, x, y, epsilon, steps=40, kernel=5, step_size=0.007, evaluations=15) -> torch.Tensor:
    """The projected-gradient form. evaluations: of the multiplier in each projection, at most."""
    transport = Transport(x, epsilon, kernel)

    def move(plan, G, _):
        return transport.project(plan + step_size * G, evaluations)
    return _ascend(model, x, y, transport, steps, move)


def frank_wolfe(model, x, y, epsilon, steps=40, kernel=5, gamma=0.001, evaluations=30) -> torch.Tensor:
    """The Frank-Wolfe form. gamma: the weight of the entropy; evaluations: of the multiplier in each step, at most."""
    transport = Transport(x, epsilon, kernel)

    def move(plan, G, k):
        return plan.lerp(transport.maximise(G, gamma, evaluations), 2 / (k + 2))
    return _ascend(model, x, y, transport, steps, move)


def _ascend(model, x, y, transport: "Transport", steps: int, move: Callable) -> torch.Tensor:
    """`steps` times move(plan, G, number of the step), from the plan that moves nothing. Returned of each sample is the
    latest image on which the network was seen to err, or else the last image."""
    plan = transport.identity()
    fooled, erring = torch.zeros(len(x), 1, 1, 1, dtype=torch.bool, device=x.device), x
    for step in range(steps):
        image = transport.push(plan).requires_grad_(True)
        logits = precise(model(image.clamp(0, 1)))
        gradient, = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), image)
        with torch.no_grad():
            errs = (logits.argmax(1) != y)[:, None, None, None]
            fooled, erring = fooled | errs, torch.where(errs, image.clamp(0, 1), erring)
            G = transport.pull(gradient)
            largest = G.abs().amax(_PER_IMAGE, keepdim=True)
            plan = move(plan, G / torch.where(largest > 0, largest, 1), step)
    return torch.where(fooled, erring, transport.push(plan).clamp(0, 1))


class Transport:
    """The feasible plans of images x (N,C,H,W) >= 0 for a budget of epsilon pixels and windows of kernel x kernel
    pixels (where kernel is even, with one place more below and to the right than above and to the left).
    tolerance: the share of the budget by which a plan may miss it."""

    def __init__(self, x: torch.Tensor, epsilon: float, kernel: int = 5, tolerance: float = 1e-4):
        self.x, self.epsilon, self.kernel, self.tolerance = x, epsilon, kernel, tolerance
        before, after = (kernel - 1) // 2, kernel // 2
        self.pads = (before, after, before, after)
        offsets = torch.arange(-before, after + 1, device=x.device, dtype=x.dtype)
        self.cost = torch.hypot(offsets[:, None], offsets).reshape(1, 1, -1, 1, 1)
        self.centre = before * kernel + before
        self.outside = self.pull(torch.ones_like(x[:1, :1])) == 0
        self.mass = x.unsqueeze(2)
        self.budget = epsilon * self.mass.sum(_PER_IMAGE, keepdim=True)
        self.multiplier = torch.zeros_like(self.budget)  # the last one found, near which the next one is sought

    def push(self, plan: torch.Tensor) -> torch.Tensor:
        """What each pixel receives, (N,C,H,W)."""
        images, channels, _, height, width = plan.shape
        left, right, top, bottom = self.pads
        padded = F.fold(plan.reshape(images * channels, -1, height * width),
                        (height + top + bottom, width + left + right), self.kernel)
        return padded.reshape(images, channels, *padded.shape[2:])[:, :, top:top + height, left:left + width]

    def pull(self, image: torch.Tensor) -> torch.Tensor:
        """The value of an image at each place of each pixel's window, 0 outside: the adjoint of `push`."""
        return F.unfold(F.pad(image, self.pads), self.kernel).reshape(*image.shape[:2], -1, *image.shape[2:])

    def spent(self, plan: torch.Tensor) -> torch.Tensor:
        """<P, c>, (N,1,1,1,1)."""
        return (plan * self.cost).sum(_PER_IMAGE, keepdim=True)

    def identity(self) -> torch.Tensor:
        """The plan that moves nothing."""
        return self._kept(torch.zeros_like(self.x).unsqueeze(2).repeat(1, 1, self.kernel ** 2, 1, 1), self.mass)

    def project(self, plan: torch.Tensor, evaluations: int = 15) -> torch.Tensor:
        """The feasible plan nearest to `plan` in Euclidean distance. For the multiplier t it is
        max(plan - t c - tau, 0), with one tau for each pixel by which the pixel sends what it has."""
        rows = plan.masked_fill(self.outside, -1e4)  # far below every tau
        places = (~self.outside).to(plan.dtype)
        # Nothing moves for this t: in each row the centre leads all others by all that the pixel has.
        lead = (rows - rows[:, :, self.centre:self.centre + 1] + self.mass) / self.cost.clamp_min(1)
        highest = self._kept(lead, 0).amax(_PER_IMAGE, keepdim=True)
        tau = ((rows * places).sum(2, keepdim=True) - self.mass) / places.sum(2, keepdim=True)
        before = torch.zeros_like(highest)

        def at(t):
            nonlocal tau, before
            # Rows sink by the largest c times the growth of t at most, and their thresholds with them.
            lowest, before = tau - (t - before).clamp_min(0) * self.cost.max(), t
            sunk = rows - t * self.cost
            tau, positive = self._threshold(sunk, tau, lowest)
            count, mean_cost, mean_square = self._moments(positive)
            slope = (count * (mean_square - mean_cost.square())).sum(_PER_IMAGE, keepdim=True)
            return (sunk - tau).clamp_min(0), slope
        return self._within_budget(at, highest, evaluations)

    def maximise(self, G: torch.Tensor, gamma: float, evaluations: int = 30) -> torch.Tensor:
        """The feasible plan of largest <P, G> + gamma entropy(P), for |G| <= 1. For the multiplier t it is
        x softmax((G - t c) / gamma) in each row."""
        G = G.masked_fill(self.outside, -torch.inf)
        # Off the centre c >= 1 and G is higher by 2 at most, so a row spends at most x sum(c) exp((2 - t) / gamma).
        highest = 2 + gamma * max(0.0, math.log(float(self.cost.sum()) / self.epsilon))

        def at(t):
            plan = self.mass * ((G - t * self.cost) / gamma).softmax(2)
            share = plan / torch.where(self.mass > 0, self.mass, 1)
            mean_cost = (share * self.cost).sum(2, keepdim=True)
            return plan, (plan * (self.cost - mean_cost).square()).sum(_PER_IMAGE, keepdim=True) / gamma
        return self._within_budget(at, torch.full_like(self.budget, highest), evaluations)

    def _within_budget(self, at: Callable, highest: torch.Tensor, evaluations: int) -> torch.Tensor:
        """The plan at(t)[0] for the least t in [0, highest] at which it keeps the budget; at(t)[1] is how fast it
        spends less as t grows. What is still overspent in the end is given back by moving less everywhere."""
        low, high, t = torch.zeros_like(highest), highest, torch.minimum(self.multiplier, highest)
        for _ in range(evaluations):
            plan, slope = at(t)
            excess = self.spent(plan) - self.budget
            found = (excess.abs() <= self.tolerance * self.budget) | ((t == 0) & (excess <= 0))
            if found.all():
                break
            low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
            newton = (t + excess / slope).clamp_min(0)
            inside = (newton >= low) & (newton < high)  # also false where the slope is 0
            t = torch.where(found, t, torch.where(inside, newton, (low + high) / 2))
        self.multiplier = t
        share = (self.budget / (self.budget + excess.clamp_min(0))).nan_to_num(1)
        return self._kept(plan * share, plan[:, :, self.centre:self.centre + 1] * share + self.mass * (1 - share))

    def _kept(self, plan: torch.Tensor, values: torch.Tensor | float) -> torch.Tensor:
        """The plan with `values` for what stays where it is; changes `plan`."""
        plan[:, :, self.centre:self.centre + 1] = values
        return plan

    def _moments(self, positive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Over the places of each row where `positive` is 1: their number, the mean of c and that of its square."""
        powers = torch.stack([self.cost.flatten() ** n for n in range(3)])
        count, first, second = (powers @ positive.flatten(3)).unflatten(3, positive.shape[3:]).split(1, dim=2)
        return count, first / count.clamp_min(1), second / count.clamp_min(1)

    def _threshold(self, rows: torch.Tensor, guess: torch.Tensor, lowest: torch.Tensor
                   ) -> tuple[torch.Tensor, torch.Tensor]:
        """The tau for which max(rows - tau, 0) sums to x in each row (axis 2), and where rows exceed it (1, else 0).

        The sum is convex in tau, so that Newton's method from any guess below the largest entry lands below tau and
        then rises to it in a few steps, as fewer and fewer places take part; that is several times faster than
        sorting the rows. lowest: a lower bound of tau, for rows where the guess is too high for that.
        """
        count, tau = None, guess
        while True:
            positive = (rows > tau).to(rows.dtype)
            before, count = count, positive.sum(2, keepdim=True)
            if before is not None and torch.equal(before, count):
                return tau, positive
            newton = ((positive * rows).sum(2, keepdim=True) - self.mass) / count.clamp_min(1)
            tau = torch.where(count > 0, newton, lowest) if before is None else torch.maximum(tau, newton)
