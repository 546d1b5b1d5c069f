"""The feasible transport plans of images: the nearest to a plan, and the best for a gradient.

A plan P (N,C,K,H,W) says how much of each pixel's value goes to each of the K places of its window
(`utils.attacks.windows`). Moving a unit costs c, the Euclidean distance in pixels. With epsilon the
budget in pixels, the feasible plans of an image x are

    { P >= 0,  sum_j P_ij = x_i,  <P, c> <= epsilon sum(x) }.

A pixel's part of a plan is called a row. The multiplier t >= 0 of the budget is found by Newton's
method and, where that fails, by bisection.
"""

import math
from functools import reduce

import torch
import torch.nn.functional as F

from utils.attacks.windows import Windows

_PIECE = 16 * 3 * 25 * 32 * 32  # entries of plans projected at once on a CPU: what its cache holds
_FAR = -1e4  # the value of places outside the image, below every threshold
_JOINT = 10  # evaluations in which thresholds and multiplier move together
# By how much the first step of the thresholds is lengthened: some of the places above 0 in it fall
# below.
_FIRST = 1.2


class Transport(Windows):
    """Optimise over the feasible plans of images x (N,C,H,W) >= 0.

    Args:
        epsilon: the budget in pixels.
        kernel: the height and width of a window.
        tolerance: by how much plans may miss the largest or nearest one: of the budget (at least of
            a budget of `tolerance`) as a share, in a row by its sum before that is mended.
    """

    def __init__(self, x: torch.Tensor, epsilon: float, kernel: int = 5, tolerance: float = 1e-4):
        super().__init__(x, kernel)
        self.x, self.epsilon, self.tolerance = x.contiguous(), epsilon, tolerance
        self.powers = torch.stack([torch.ones_like(self.cost), self.cost, self.cost.square()])
        self.budget = epsilon * self.x.sum((1, 2, 3)).reshape(-1, 1, 1)
        # Of the last projection; that of the next one is sought near it.
        self.multiplier = torch.zeros_like(self.budget)
        self.room: torch.Tensor | None = None

    def keep(self, stay: torch.Tensor) -> None:
        """Keep only the images for which `stay` is true."""
        kept = (self.x, self.budget, self.multiplier)
        self.x, self.budget, self.multiplier = (values[stay] for values in kept)

    def identity(self) -> torch.Tensor:
        """Return the plan that moves nothing."""
        plan = self.x.new_zeros(*self.x.shape[:2], len(self.cost), *self.x.shape[2:])
        plan[:, :, self.centre] = self.x
        return plan

    def spent(self, plan: torch.Tensor) -> torch.Tensor:
        """Compute the cost of a plan, <P, c>, (N,1,1)."""
        return (plan.flatten(3) * self.cost[:, None]).sum((1, 2, 3)).reshape(-1, 1, 1)

    def ascend(
        self, plan: torch.Tensor, G: torch.Tensor, step_size: float, evaluations: int = 60
    ) -> torch.Tensor:
        """Replace a feasible plan in place by the one nearest to plan + step_size G.

        G: an image of |G| <= 1. Returns the image of the new plan.
        """
        images = []
        for part in self._parts():
            piece, mass = plan[part].flatten(3), self.x[part].flatten(2)
            above = torch.sign(piece, out=self._room(piece))
            count, cost = self._sums(above, 2)
            piece.unflatten(2, (self.kernel, -1)).unflatten(4, G.shape[2:]).add_(
                self.pull(G[part], _FAR / step_size), alpha=step_size
            )
            # The thresholds if the places that take part stay the same.
            surplus = above.mul_(piece).sum(2) - mass - cost * self.multiplier[part]
            tau = surplus / count.clamp_min(1)
            self._project(part, piece, tau, above, evaluations)
            images.append(self.push(plan[part]))
        return torch.cat(images)

    def project(self, plan: torch.Tensor, evaluations: int = 60) -> torch.Tensor:
        """Find the feasible plan nearest to any `plan` in Euclidean distance.

        `ascend` takes a shorter way to the same.
        """
        outside = self.pull(torch.ones_like(self.x[:1, :1])).flatten(2, 3) == 0
        plan = plan.masked_fill(outside, _FAR)
        for part in self._parts():
            piece = plan[part].flatten(3)
            tau = piece[:, :, self.centre] - self.x[part].flatten(2)
            self._project(part, piece, tau, torch.empty_like(piece), evaluations)
        return plan

    def maximise(self, G: torch.Tensor, gamma: float, evaluations: int = 30) -> torch.Tensor:
        """Compute the image of the feasible plan of largest <P, G> + gamma entropy(P).

        G: an image of |G| <= 1.
        """
        pixels, plan = self.best_rows(G, gamma, evaluations)
        padded = F.pad(self.x, self.pads)
        received, first = padded.flatten(1), self.corner(pixels)
        had = self.x.flatten(1).gather(1, pixels)
        received.scatter_add_(1, first + self.places[self.centre], -had)
        # No pixel gets anything twice from one place of the windows: the sums have one order.
        for place, sent in zip(self.places, plan.unbind(1)):
            received.scatter_add_(1, first + place, sent)
        return self.inner(received.view(padded.shape))

    def best_rows(
        self, G: torch.Tensor, gamma: float, evaluations: int = 30
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the rows of that plan which send anything away.

        Returns their pixels (N,R), as numbers in the flattened image, and what they send (N,K,R).
        All other pixels keep what they have.

        For the multiplier t a row is x softmax((G - t c) / gamma). To a place of cost c it sends
        something only while t c < G there - G here + gamma log(K / precision), so that each row has
        a t beyond which it rests. Solved for are the rows where that is highest, and more of them
        should the t found be below that of any row left out.
        """
        rows, per_cost = self.x[0].numel(), torch.where(self.cost > 0, 1 / self.cost, 0)[:, None]
        slack = gamma * math.log(len(self.costs) / torch.finfo(G.dtype).eps)
        padded = F.pad(G, self.pads, value=-torch.inf)
        window, here, rests = self.windows(padded), G - slack, torch.zeros_like(G)
        for cost in set(self.costs) - {0.0}:
            at_cost = [place for place, its in enumerate(self.costs) if its == cost]
            ring = (window[:, :, *divmod(place, self.kernel)] for place in at_cost)
            rests = torch.maximum(rests, reduce(torch.maximum, ring).sub(here).div_(cost))
        rests = rests.where(self.x > 0, 0).flatten(1)
        number = math.ceil(3 * self.epsilon * rows)
        while True:
            number = min(number, rows)
            highest, pixels = rests.topk(number)
            gain = self.read(padded, pixels)
            mass = self.x.flatten(1).gather(1, pixels)[:, None]
            plan, t = self._share_out(gain, mass, gamma, per_cost, evaluations)
            if number == rows or (t >= highest[:, -1:, None]).all():
                return pixels, plan
            number *= 4

    def _share_out(
        self, gain, mass, gamma: float, per_cost, evaluations: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the least t at which mass (N,1,R) times softmax((gain - t c) / gamma) over the
        places, gain (N,K,R), keeps the budget. Returns that plan and t.

        What is still overspent in the end is given back by moving less everywhere.
        """
        # The first t: that of the plan without entropy, did each row go at once to the place which
        # pays best for its cost.
        worth, place = ((gain - gain[:, self.centre, None]) * per_cost).max(1)
        worth, order = worth.sort(1, descending=True)
        spent = (self.cost[place] * mass[:, 0]).gather(1, order).cumsum(1)
        within = (spent < self.budget[:, 0]).sum(1, keepdim=True)
        t = worth.gather(1, within.clamp_max(worth.shape[1] - 1))[:, None]
        # Off the centre c >= 1 and G is higher by 2 at most, so a row spends at most
        # x sum(c) exp((2 - t) / gamma).
        high = torch.full_like(t, 2 + gamma * max(0.0, math.log(sum(self.costs) / self.epsilon)))
        low = torch.zeros_like(t)
        for evaluation in range(evaluations):
            share = ((gain - t * self.cost[:, None]) / gamma).softmax(1)
            _, mean, square = self._sums(share, 3)
            spent = (mass * mean[:, None]).sum((1, 2), keepdim=True)
            excess = spent - self.budget
            found = self._met(t, excess, self.budget)
            if evaluation == evaluations - 1 or found.all():
                break
            low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
            slope = (mass * (square - mean.square())[:, None]).sum((1, 2), keepdim=True) / gamma
            t = torch.where(found, t, _inside(t + excess / slope, low, high))
        sent = torch.where(excess > 0, self.budget / spent, 1)
        plan = share.mul_(mass * sent)
        plan[:, self.centre] += (mass * (1 - sent))[:, 0]
        return plan, t

    def _project(
        self, part: slice, rows: torch.Tensor, tau: torch.Tensor, above: torch.Tensor, evaluations
    ) -> None:
        """Replace rows (n,C,K,H*W) in place by the nearest feasible plans.

        part: the images that these are. tau (n,C,H*W): a guess of the thresholds. above: memory of
        the size of the rows.

        The nearest plan is max(rows - t c - tau, 0), with one tau for each pixel by which it sends
        what it has, and the least t >= 0 that keeps the budget. Newton's method on all these
        equations at once, exact once the places above 0 stay the same, needs five or six
        evaluations. Should it not come to an end, t waits from then on for the thresholds, which
        for a fixed t always do, and is bisected where its own step leaves the interval known.
        """
        mass, budget, t = self.x[part].flatten(2), self.budget[part], self.multiplier[part]
        # Below it the centre alone, which costs nothing, would send too much.
        lowest = rows[:, :, self.centre] - mass
        tau, low, high, change = torch.maximum(tau, lowest), torch.zeros_like(t), None, t
        for evaluation in range(evaluations):
            if change.any():
                rows.sub_(change[..., None] * self.cost[:, None])
            torch.sub(rows, tau.unsqueeze(2), out=above).relu_()
            sent, spent = self._sums(above, 2)
            surplus, excess = sent - mass, spent.sum((1, 2), keepdim=True) - budget
            settled = surplus.abs().amax((1, 2), keepdim=True) <= self.tolerance
            unmet = ~(settled & self._met(t, excess, budget))
            if evaluation == evaluations - 1 or not unmet.any():
                break
            count, cost, square = self._sums(above.sign_(), 3)
            # 0 where nothing is to change any more. With no place above 0, tau goes far down.
            share = unmet.to(count.dtype) / count.clamp_min(1e-3)
            excess, slope, steep = _without_surplus(excess, surplus, share, cost, square)
            moved = (t + excess / slope).clamp_min(0)
            if evaluation < _JOINT:
                moved = torch.where(steep, moved, t)
            else:
                high = _resting(t, rows, lowest) if high is None else high
                low = torch.where(settled & (excess > 0), torch.maximum(low, t), low)
                high = torch.where(settled & (excess <= 0), torch.minimum(high, t), high)
                moved = _inside(torch.where(steep, moved, torch.inf), low, high)
                moved = torch.where(settled, moved, torch.minimum(t, high))
            change = torch.where(unmet, moved - t, 0)
            if evaluation == 0:
                share *= _FIRST
            surplus = torch.addcmul(surplus, cost, change, value=-1)
            tau = torch.maximum(tau.addcmul(surplus, share), lowest)
            t = t + change
        self.multiplier[part] = t
        # What is still missed goes in proportion, and what a row without a place above 0 should
        # have sent stays.
        scale = mass / sent.clamp_min(1e-30)
        total = (spent * scale).sum((1, 2), keepdim=True)
        scale *= torch.where(total > budget, budget / total, 1)
        torch.mul(above, scale.unsqueeze(2), out=rows)
        rows[:, :, self.centre] += (mass - scale * sent).clamp_min(0)

    def _met(self, t, excess, budget) -> torch.Tensor:
        """Tell where what is spent beyond the budget is near enough to 0, or below it with nothing
        held back."""
        near = excess.abs() <= self.tolerance * budget.clamp_min(self.tolerance)
        return near | ((t == 0) & (excess <= 0))

    def _sums(self, weights: torch.Tensor, number: int) -> tuple[torch.Tensor, ...]:
        """Sum 1, c and c^2 (the first `number` of them) over the places of each row by weights
        (...,K,R); each sum is (...,R)."""
        return (self.powers[:number] @ weights).unbind(-2)

    def _room(self, piece: torch.Tensor) -> torch.Tensor:
        """Lend memory for another such piece, always the same: memory never used before slows the
        projection by a few percent."""
        if self.room is None:
            self.room = torch.empty_like(piece)
        return self.room[: len(piece)]

    def _parts(self) -> list[slice]:
        """List the images whose plans are worked on at once."""
        size = images = len(self.x)
        if self.x.device.type == "cpu":
            size = max(1, _PIECE // (len(self.cost) * self.x[0].numel()))
        return [slice(first, first + size) for first in range(0, images, size)]


def _without_surplus(excess, surplus, share, cost, square) -> tuple[torch.Tensor, ...]:
    """Compute what the excess would be without surplus in any row, its slope in t, and where that
    slope is clearly above rounding."""
    mean = cost * share
    square = square.sum((1, 2), keepdim=True)
    slope = square - (mean * cost).sum((1, 2), keepdim=True)
    steep = slope > 100 * torch.finfo(slope.dtype).eps * square
    return excess - (mean * surplus).sum((1, 2), keepdim=True), slope, steep


def _resting(t: torch.Tensor, rows: torch.Tensor, lowest: torch.Tensor) -> torch.Tensor:
    """Compute a t for which nothing moves: as all else costs 1 at least, in each row the centre
    leads by what the pixel has."""
    return t + rows.amax((1, 2, 3)).reshape(-1, 1, 1) - lowest.amin((1, 2), keepdim=True)


def _inside(t: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Return t where it is within the interval, else the middle; also where t is NaN."""
    return torch.where((t >= low) & (t < high), t, (low + high) / 2)
