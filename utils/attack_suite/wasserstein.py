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


def projected(model, x, y, epsilon, steps=40, kernel=5, step_size=0.007, evaluations=15, until_fooled=False) -> torch.Tensor:
    """The projected-gradient form. evaluations: of the multiplier in each projection, at most. until_fooled: a sample
    stops at the first image that the network gets wrong."""
    def move(transport, plan, G, _):
        return transport.project(plan.add_(G, alpha=step_size), evaluations)
    return _ascend(model, x, y, epsilon, kernel, steps, move, until_fooled)


def frank_wolfe(model, x, y, epsilon, steps=40, kernel=5, gamma=0.001, evaluations=30, until_fooled=False) -> torch.Tensor:
    """The Frank-Wolfe form. gamma: the weight of the entropy; evaluations: of the multiplier in each step, at most."""
    def move(transport, plan, G, k):
        return plan.lerp(transport.maximise(G, gamma, evaluations), 2 / (k + 2))
    return _ascend(model, x, y, epsilon, kernel, steps, move, until_fooled)


def _ascend(model, x, y, epsilon, kernel, steps: int, move: Callable, until_fooled: bool) -> torch.Tensor:
    """`steps` times move(transport, plan, G, number of the step), from the plan that moves nothing. Returned of each sample
    is the latest image on which the network was seen to err, or else the last image."""
    # On a CPU the plans of a few images at a time stay in its cache.
    pieces = [_Piece(index, Transport(x[index], epsilon, kernel))
              for index in torch.arange(len(x), device=x.device).split(4 if x.device.type == "cpu" else len(x))]
    result, fooled = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    for step in range(steps):
        index = torch.cat([piece.index for piece in pieces])
        image = torch.cat([piece.transport.push(piece.plan) for piece in pieces]).requires_grad_(True)
        logits = precise(model(image.clamp(0, 1)))
        gradient, = torch.autograd.grad(F.cross_entropy(logits, y[index], reduction="sum"), image)
        with torch.no_grad():
            errs = logits.argmax(1) != y[index]
            result[index[errs]] = image[errs].clamp(0, 1)
            fooled[index[errs]] = True
            largest = gradient.abs().amax((1, 2, 3), keepdim=True)
            gradient = gradient / torch.where(largest > 0, largest, 1)
            sizes = [len(piece.index) for piece in pieces]
            for piece, g, err in zip(pieces, gradient.split(sizes), errs.split(sizes)):
                if until_fooled and err.any():
                    piece.keep(~err)
                    g = g[~err]
                if len(g):
                    piece.plan = move(piece.transport, piece.plan, piece.transport.pull(g), step)
            pieces = [piece for piece in pieces if len(piece.index)]
        if not pieces:
            break
    for piece in pieces:
        last = ~fooled[piece.index]
        result[piece.index[last]] = piece.transport.push(piece.plan)[last].clamp(0, 1)
    return result


class _Piece:
    """Some images of a batch: their places in it, their transport and their plans."""

    def __init__(self, index: torch.Tensor, transport: "Transport"):
        self.index, self.transport, self.plan = index, transport, transport.identity()

    def keep(self, stay: torch.Tensor) -> None:
        self.index, self.plan = self.index[stay], self.plan[stay]
        self.transport.keep(stay)


class Transport:
    """The feasible plans of images x (N,C,H,W) >= 0 for a budget of epsilon pixels and windows of kernel x kernel
    pixels (where kernel is even, with one place more below and to the right than above and to the left).
    tolerance: the share of the budget by which a plan may miss it."""

    def __init__(self, x: torch.Tensor, epsilon: float, kernel: int = 5, tolerance: float = 1e-4):
        self.epsilon, self.kernel, self.tolerance = epsilon, kernel, tolerance
        before, after = (kernel - 1) // 2, kernel // 2
        self.pads = (before, after, before, after)
        offsets = torch.arange(-before, after + 1, device=x.device, dtype=x.dtype)
        self.cost = torch.hypot(offsets[:, None], offsets).reshape(1, 1, -1, 1, 1)
        self.centre = before * kernel + before
        self.outside = self.pull(torch.ones_like(x[:1, :1])) == 0
        self.mass = x.contiguous().unsqueeze(2)  # laid out as the plans are, else each product of both takes twice as long
        self.budget = epsilon * self.mass.sum(_PER_IMAGE, keepdim=True)
        self.multiplier = torch.zeros_like(self.budget)  # the last one found, near which the next one is sought
        self.tau = None  # likewise the thresholds of the rows

    def keep(self, stay: torch.Tensor) -> None:
        """Go on with the images for which `stay` is true."""
        self.mass, self.budget, self.multiplier = (v[stay] for v in (self.mass, self.budget, self.multiplier))
        self.tau = None if self.tau is None else self.tau[stay]

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
        return self._kept(torch.zeros_like(self.mass).repeat(1, 1, self.kernel ** 2, 1, 1), self.mass)

    def project(self, plan: torch.Tensor, evaluations: int = 15) -> torch.Tensor:
        """The feasible plan nearest to `plan` in Euclidean distance. For the multiplier t it is
        max(plan - t c - tau, 0), with one tau for each pixel by which the pixel sends what it has."""
        rows = plan.masked_fill(self.outside, -1e4)  # far below every tau
        lowest = rows[:, :, self.centre:self.centre + 1] - self.mass  # the centre alone, which costs nothing, would send too much

        def highest():
            # Nothing moves for this t, as all others cost 1 at least: in each row the centre leads by all that the pixel has.
            return rows.amax(_PER_IMAGE, keepdim=True) - lowest.amin(_PER_IMAGE, keepdim=True)

        def at(t):
            sunk = rows - t * self.cost if (t > 0).any() else rows
            self.tau, nearest, count = self._threshold(sunk, lowest if self.tau is None else self.tau, lowest)

            def slope():
                total, square = self._costs((nearest > 0).to(rows.dtype))
                return (square - total.square() / count.clamp_min(1)).sum(_PER_IMAGE, keepdim=True)
            return nearest, self._costs(nearest)[0].sum(_PER_IMAGE, keepdim=True), slope
        return self._within_budget(at, highest, evaluations)

    def maximise(self, G: torch.Tensor, gamma: float, evaluations: int = 30) -> torch.Tensor:
        """The feasible plan of largest <P, G> + gamma entropy(P), for |G| <= 1. For the multiplier t it is
        x softmax((G - t c) / gamma) in each row."""
        G = G.masked_fill(self.outside, -torch.inf) / gamma
        # Off the centre c >= 1 and G is higher by 2 at most, so a row spends at most x sum(c) exp((2 - t) / gamma).
        bound = 2 + gamma * max(0.0, math.log(float(self.cost.sum()) / self.epsilon))

        def at(t):
            share = (G - t / gamma * self.cost).softmax(2)
            mean, square = self._costs(share)

            def slope():
                return (self.mass * (square - mean.square())).sum(_PER_IMAGE, keepdim=True) / gamma
            return share, (self.mass * mean).sum(_PER_IMAGE, keepdim=True), slope
        return self._within_budget(at, lambda: torch.full_like(self.budget, bound), evaluations, self.mass)

    def _within_budget(self, at: Callable, highest: Callable, evaluations: int, scale: torch.Tensor | None = None
                       ) -> torch.Tensor:
        """The plan for the least t in [0, highest()] at which it keeps the budget. at(t): the plan, or what becomes it when
        multiplied by `scale`; what it spends; and a function for how fast it spends less as t grows. What is still overspent in
        the end is given back by moving less everywhere."""
        t, low, high = self.multiplier, torch.zeros_like(self.budget), None
        for _ in range(evaluations):
            plan, spent, slope = at(t)
            excess = spent - self.budget
            found = (excess.abs() <= self.tolerance * self.budget) | ((t == 0) & (excess <= 0))
            if found.all():
                break
            high = highest() if high is None else high
            low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
            newton = (t + excess / slope()).clamp_min(0)
            inside = (newton >= low) & (newton < high)  # also false where the slope is 0
            t = torch.where(found, t, torch.where(inside, newton, (low + high) / 2))
        self.multiplier = t
        if scale is not None:
            plan = plan * scale
        if (excess > 0).any():
            share = (self.budget / (self.budget + excess.clamp_min(0))).nan_to_num(1)
            plan = self._kept(plan * share, plan[:, :, self.centre:self.centre + 1] * share + self.mass * (1 - share))
        return plan

    def _kept(self, plan: torch.Tensor, values: torch.Tensor | float) -> torch.Tensor:
        """The plan with `values` for what stays where it is; changes `plan`."""
        plan[:, :, self.centre:self.centre + 1] = values
        return plan

    def _costs(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums of c and of its square over the places of each row, by weight (N,C,K,H,W); (N,C,1,H,W)."""
        powers = torch.stack([self.cost.flatten(), self.cost.flatten().square()])
        return (powers @ weights.flatten(3)).unflatten(3, weights.shape[3:]).split(1, dim=2)

    def _threshold(self, rows: torch.Tensor, guess: torch.Tensor, lowest: torch.Tensor
                   ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The tau for which max(rows - tau, 0) sums to x in each row (axis 2); that difference; and how many places of a row it
        leaves above 0.

        The sum is convex in tau, so that Newton's method from any guess below the largest entry lands below tau and
        then rises to it as fewer and fewer places take part. Most rows are there after two steps and a few need eight:
        those go on by themselves. lowest: a lower bound of tau, for rows where the guess is above all entries.
        """
        def newton(rows, mass, tau, axis):
            above = (rows - tau).relu_()
            count = above.sign().sum(axis, keepdim=True)
            return above, count, tau + (above.sum(axis, keepdim=True) - mass) / count.clamp_min(1)

        above, count, landed = newton(rows, self.mass, guess, 2)
        tau = torch.where(count > 0, landed, lowest)
        unsettled = torch.ones_like(count, dtype=torch.bool)
        while unsettled.float().mean() > 0.1:
            before, settled = count, tau
            above, count, risen = newton(rows, self.mass, tau, 2)
            unsettled, tau = count != before, torch.maximum(tau, risen)
        tau = torch.where(unsettled, tau, settled)
        chosen = unsettled[:, :, 0]
        if chosen.any():
            few, mass, few_tau, few_count = (v.movedim(2, -1)[chosen] for v in (rows, self.mass, tau, count))
            while True:
                before = few_count
                few_above, few_count, risen = newton(few, mass, few_tau, 1)
                if torch.equal(before, few_count):
                    break
                few_tau = torch.maximum(few_tau, risen)
            for whole, part in ((tau, few_tau), (above, few_above), (count, few_count)):
                whole.movedim(2, -1)[chosen] = part
        return tau, above, count
