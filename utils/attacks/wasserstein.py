"""The Wasserstein attacks of Wu et al. 2020 (*Stronger and Faster Wasserstein Adversarial Attacks*).

A transport plan P >= 0 says how much of each pixel's value goes to each pixel of the window around it, in its own
channel. With c the Euclidean distance of two pixels, the feasible plans of an image x and a budget epsilon (pixels) are

    { P >= 0,  sum_j P_ij = x_i,  <P, c> <= epsilon sum(x) },

and the adversarial image is sum_i P_ij, cut to [0,1] for the network. Plans are tensors (N,C,K,H,W): each pixel of
each channel sends P to the K = kernel^2 places of its window, nothing to those outside the image. A pixel's part of a plan is
called a row. Both attacks move P by G, the gradient of the cross-entropy in P divided by its largest modulus in the image:

    projected:    P <- the feasible plan nearest to P + step G;
    Frank-Wolfe:  P <- P + 2/(k+2) (P* - P),  P* = argmax over feasible plans of <P, G> + gamma entropy(P).

In either, the multiplier t >= 0 of the budget is found by Newton's method and, where that fails, by bisection. Frank-Wolfe
needs of P its image alone, which moves by the same weights, and of P* the few rows that leave their pixel.
"""
import math
from functools import reduce

import torch
import torch.nn.functional as F

from utils.attacks.common import cut, precise

_PIECE = 16 * 3 * 25 * 32 * 32  # entries of the plans projected at once on a CPU: what its cache holds
_FAR = -1e4  # the value of places outside the image, below every threshold
_JOINT = 10  # evaluations in which thresholds and multiplier move together
_FIRST = 1.2  # by how much the first step of the thresholds is lengthened: some of the places above 0 in it fall below


def projected(model, x, y, epsilon, steps=40, kernel=5, step_size=0.007, evaluations=60, until_fooled=False) -> torch.Tensor:
    """The projected-gradient form. evaluations: of a plan in each projection, at most. until_fooled: a sample
    stops at the first image that the network gets wrong."""
    return _ascend(model, x, y, _Projected(Transport(x, epsilon, kernel), step_size, evaluations), steps, until_fooled)


def frank_wolfe(model, x, y, epsilon, steps=40, kernel=5, gamma=0.001, evaluations=30, until_fooled=False) -> torch.Tensor:
    """The Frank-Wolfe form. gamma: the weight of the entropy; evaluations: of the multiplier in each step, at most."""
    return _ascend(model, x, y, _FrankWolfe(Transport(x, epsilon, kernel), gamma, evaluations), steps, until_fooled)


def _ascend(model, x, y, moved: "_Projected | _FrankWolfe", steps: int, until_fooled: bool) -> torch.Tensor:
    """`steps` times moved.move, from the plan that moves nothing. Returned of each sample is the latest image on which
    the network was seen to err, or else the last image."""
    index = torch.arange(len(x), device=x.device)
    result, fooled = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    for step in range(steps):
        image = moved.received.detach().requires_grad_(True)
        logits = precise(model(cut(image)))
        gradient, = torch.autograd.grad(F.cross_entropy(logits, y[index], reduction="sum"), image)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            errs = logits.argmax(1) != y[index]
            result[index[errs]] = image[errs].clamp(0, 1)
            fooled[index[errs]] = True
            if until_fooled and errs.any():
                index, gradient = index[~errs], gradient[~errs]
                moved.keep(~errs)
                if not len(index):
                    return result
            largest = gradient.abs().amax((1, 2, 3), keepdim=True)
            moved.move(gradient / torch.where(largest > 0, largest, 1), step)
    last = ~fooled[index]
    result[index[last]] = moved.received[last].clamp(0, 1)
    return result


class _Projected:
    """The projected form: the plans, moved in place, and what they send."""

    def __init__(self, transport: "Transport", step_size: float, evaluations: int):
        self.transport, self.step_size, self.evaluations = transport, step_size, evaluations
        self.plan, self.received = transport.identity(), transport.x

    def keep(self, stay: torch.Tensor) -> None:
        self.plan, self.received = self.plan[stay], self.received[stay]
        self.transport.keep(stay)

    def move(self, G: torch.Tensor, _: int) -> None:
        self.received = self.transport.ascend(self.plan, G, self.step_size, self.evaluations)


class _FrankWolfe:
    """The Frank-Wolfe form: what the plans send, all that is needed of them."""

    def __init__(self, transport: "Transport", gamma: float, evaluations: int):
        self.transport, self.gamma, self.evaluations = transport, gamma, evaluations
        self.received = transport.x

    def keep(self, stay: torch.Tensor) -> None:
        self.received = self.received[stay]
        self.transport.keep(stay)

    def move(self, G: torch.Tensor, step: int) -> None:
        self.received = self.received.lerp(self.transport.maximise(G, self.gamma, self.evaluations), 2 / (step + 2))


class Transport:
    """The feasible plans of images x (N,C,H,W) >= 0 for a budget of epsilon pixels and windows of kernel x kernel
    pixels (where kernel is even, with one place more below and to the right than above and to the left).
    tolerance: by how much plans may miss the largest or nearest one: of the budget (at least of a budget of `tolerance`) as a
    share, in a row by its sum before that is mended."""

    def __init__(self, x: torch.Tensor, epsilon: float, kernel: int = 5, tolerance: float = 1e-4):
        self.x, self.epsilon, self.kernel, self.tolerance = x.contiguous(), epsilon, kernel, tolerance
        before, after = (kernel - 1) // 2, kernel // 2
        self.pads = (before, after, before, after)
        self.centre = before * kernel + before
        self.costs = [math.hypot(row, column) for row in range(-before, after + 1) for column in range(-before, after + 1)]
        # How far behind the window's corner each place is in a flattened padded image.
        self.places = [row * (x.shape[3] + kernel - 1) + column for row in range(kernel) for column in range(kernel)]
        self.cost = torch.tensor(self.costs, device=x.device, dtype=x.dtype)
        self.powers = torch.stack([torch.ones_like(self.cost), self.cost, self.cost.square()])
        self.budget = epsilon * self.x.sum((1, 2, 3)).reshape(-1, 1, 1)
        self.multiplier = torch.zeros_like(self.budget)  # of the last projection, near which that of the next one is sought
        self.room = None

    def keep(self, stay: torch.Tensor) -> None:
        """Go on with the images for which `stay` is true."""
        self.x, self.budget, self.multiplier = (v[stay] for v in (self.x, self.budget, self.multiplier))

    def identity(self) -> torch.Tensor:
        """The plan that moves nothing."""
        plan = self.x.new_zeros(*self.x.shape[:2], len(self.cost), *self.x.shape[2:])
        plan[:, :, self.centre] = self.x
        return plan

    def spent(self, plan: torch.Tensor) -> torch.Tensor:
        """<P, c>, (N,1,1)."""
        return (plan.flatten(3) * self.cost[:, None]).sum((1, 2, 3)).reshape(-1, 1, 1)

    def pull(self, image: torch.Tensor, outside: float = 0.0) -> torch.Tensor:
        """The value of an image at each place of each pixel's window, `outside` where there is none; (N,C,kernel,kernel,H,W), a
        view that repeats the values of one padded image. With outside = 0 the adjoint of `push`."""
        return self._windows(F.pad(image, self.pads, value=outside))

    def push(self, plan: torch.Tensor) -> torch.Tensor:
        """What each pixel receives, (N,C,H,W)."""
        height, width = plan.shape[3:]
        left, right, top, bottom = self.pads
        across = plan.new_zeros(*plan.shape[:2], self.kernel, height, width + left + right)
        padded = plan.new_zeros(*plan.shape[:2], height + top + bottom, width + left + right)
        by_column = plan.unflatten(2, (self.kernel, self.kernel)).unbind(3)
        for column, sent in enumerate(by_column):
            across[..., column:column + width] += sent
        for row, sent in enumerate(across.unbind(2)):
            padded[:, :, row:row + height] += sent
        return padded[:, :, top:top + height, left:left + width]

    def ascend(self, plan: torch.Tensor, G: torch.Tensor, step_size: float, evaluations: int = 60) -> torch.Tensor:
        """In place: the feasible plan nearest to plan + step_size G, for a feasible plan and an image G of |G| <= 1. Returns
        its image."""
        images = []
        for part in self._parts():
            piece, mass = plan[part].flatten(3), self.x[part].flatten(2)
            above = torch.sign(piece, out=self._room(piece))
            count, cost = self._sums(above, 2)
            piece.unflatten(2, (self.kernel, -1)).unflatten(4, G.shape[2:]).add_(
                self.pull(G[part], _FAR / step_size), alpha=step_size)
            # The thresholds if the places that take part stay the same.
            tau = (above.mul_(piece).sum(2) - mass - cost * self.multiplier[part]) / count.clamp_min(1)
            self._project(part, piece, tau, above, evaluations)
            images.append(self.push(plan[part]))
        return torch.cat(images)

    def project(self, plan: torch.Tensor, evaluations: int = 60) -> torch.Tensor:
        """The feasible plan nearest to any `plan` in Euclidean distance; what `ascend` takes a shorter way to."""
        outside = self.pull(torch.ones_like(self.x[:1, :1])).flatten(2, 3) == 0
        plan = plan.masked_fill(outside, _FAR)
        for part in self._parts():
            piece = plan[part].flatten(3)
            self._project(part, piece, piece[:, :, self.centre] - self.x[part].flatten(2), torch.empty_like(piece), evaluations)
        return plan

    def maximise(self, G: torch.Tensor, gamma: float, evaluations: int = 30) -> torch.Tensor:
        """The image of the feasible plan of largest <P, G> + gamma entropy(P), for an image G of |G| <= 1."""
        pixels, plan = self.best_rows(G, gamma, evaluations)
        padded = F.pad(self.x, self.pads)
        received, first = padded.flatten(1), self._corner(pixels)
        received.scatter_add_(1, first + self.places[self.centre], -self.x.flatten(1).gather(1, pixels))
        for place, sent in zip(self.places, plan.unbind(1)):  # none gets anything twice here: the sums have one order
            received.scatter_add_(1, first + place, sent)
        left, _, top, _ = self.pads
        return received.view(padded.shape)[:, :, top:top + self.x.shape[2], left:left + self.x.shape[3]]

    def best_rows(self, G: torch.Tensor, gamma: float, evaluations: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of that plan which send anything away: their pixels (N,R), as numbers in the flattened image, and what
        they send (N,K,R). All other pixels keep what they have.

        For the multiplier t a row is x softmax((G - t c) / gamma). To a place of cost c it sends something only while
        t c < G there - G here + gamma log(K / precision), so that each row has a t beyond which it rests. Solved for are the
        rows where that is highest, and more of them should the t found be below that of any row left out.
        """
        rows, per_cost = self.x[0].numel(), torch.where(self.cost > 0, 1 / self.cost, 0)[:, None]
        slack = gamma * math.log(len(self.costs) / torch.finfo(G.dtype).eps)
        padded = F.pad(G, self.pads, value=-torch.inf)
        window, here, rests = self._windows(padded), G - slack, torch.zeros_like(G)
        for cost in set(self.costs) - {0.0}:
            ring = (window[:, :, *divmod(place, self.kernel)] for place, of_place in enumerate(self.costs) if of_place == cost)
            rests = torch.maximum(rests, reduce(torch.maximum, ring).sub(here).div_(cost))
        rests = rests.where(self.x > 0, 0).flatten(1)
        places = torch.tensor(self.places, device=G.device)[:, None]
        number = math.ceil(3 * self.epsilon * rows)
        while True:
            number = min(number, rows)
            highest, pixels = rests.topk(number)
            gain = padded.flatten(1).gather(1, (self._corner(pixels)[:, None] + places).flatten(1)).unflatten(1, (-1, number))
            plan, t = self._share_out(gain, self.x.flatten(1).gather(1, pixels)[:, None], gamma, per_cost, evaluations)
            if number == rows or (t >= highest[:, -1:, None]).all():
                return pixels, plan
            number *= 4

    def _share_out(self, gain, mass, gamma: float, per_cost, evaluations: int) -> tuple[torch.Tensor, torch.Tensor]:
        """mass (N,1,R) times softmax((gain - t c) / gamma) over the places, gain (N,K,R), for the least t at which that keeps the
        budget, and t; what is still overspent in the end is given back by moving less everywhere."""
        # The first t: that of the plan without entropy, did each row go at once to the place which pays best for its cost.
        worth, place = ((gain - gain[:, self.centre, None]) * per_cost).max(1)
        worth, order = worth.sort(1, descending=True)
        spent = (self.cost[place] * mass[:, 0]).gather(1, order).cumsum(1)
        within = (spent < self.budget[:, 0]).sum(1, keepdim=True)
        t = worth.gather(1, within.clamp_max(worth.shape[1] - 1))[:, None]
        # Off the centre c >= 1 and G is higher by 2 at most, so a row spends at most x sum(c) exp((2 - t) / gamma).
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

    def _project(self, part: slice, rows: torch.Tensor, tau: torch.Tensor, above: torch.Tensor, evaluations: int) -> None:
        """In place: the feasible plans nearest to rows (n,C,K,H*W), those of the images in `part`. tau (n,C,H*W): a guess of
        the thresholds; above: room of the size of the rows.

        The nearest plan is max(rows - t c - tau, 0), with one tau for each pixel by which it sends what it has, and the least
        t >= 0 that keeps the budget. Newton's method on all these equations at once, exact once the places above 0 stay the
        same, needs five or six evaluations. Should it not come to an end, t waits from then on for the thresholds, which for a
        fixed t always do, and is bisected where its own step leaves the interval known.
        """
        mass, budget, t = self.x[part].flatten(2), self.budget[part], self.multiplier[part]
        lowest = rows[:, :, self.centre] - mass  # below it the centre alone, which costs nothing, would send too much
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
            mean = cost * share
            square = square.sum((1, 2), keepdim=True)
            slope = square - (mean * cost).sum((1, 2), keepdim=True)
            steep = slope > 100 * torch.finfo(slope.dtype).eps * square
            excess = excess - (mean * surplus).sum((1, 2), keepdim=True)  # what it would be without surplus
            moved = (t + excess / slope).clamp_min(0)
            if evaluation < _JOINT:
                moved = torch.where(steep, moved, t)
            else:
                if high is None:
                    # Nothing moves for this t, as all else costs 1 at least: in each row the centre leads by what the pixel has.
                    high = t + rows.amax((1, 2, 3)).reshape(-1, 1, 1) - lowest.amin((1, 2), keepdim=True)
                low = torch.where(settled & (excess > 0), torch.maximum(low, t), low)
                high = torch.where(settled & (excess <= 0), torch.minimum(high, t), high)
                moved = torch.where(settled, _inside(torch.where(steep, moved, torch.inf), low, high), torch.minimum(t, high))
            change = torch.where(unmet, moved - t, 0)
            if evaluation == 0:
                share *= _FIRST
            tau = torch.maximum(tau.addcmul(torch.addcmul(surplus, cost, change, value=-1), share), lowest)
            t = t + change
        self.multiplier[part] = t
        # What is still missed goes in proportion, and what a row without a place above 0 should have sent stays.
        scale = mass / sent.clamp_min(1e-30)
        total = (spent * scale).sum((1, 2), keepdim=True)
        scale *= torch.where(total > budget, budget / total, 1)
        torch.mul(above, scale.unsqueeze(2), out=rows)
        rows[:, :, self.centre] += (mass - scale * sent).clamp_min(0)

    def _met(self, t, excess, budget) -> torch.Tensor:
        """Whether what is spent beyond the budget is near enough to 0, or below it with nothing held back."""
        return (excess.abs() <= self.tolerance * budget.clamp_min(self.tolerance)) | ((t == 0) & (excess <= 0))

    def _sums(self, weights: torch.Tensor, number: int) -> tuple[torch.Tensor, ...]:
        """The first `number` of the sums of 1, c and c^2 over the places of each row, by weight (...,K,R); each (...,R)."""
        return (self.powers[:number] @ weights).unbind(-2)

    def _room(self, piece: torch.Tensor) -> torch.Tensor:
        """Memory for another such piece, always the same: memory never used before slows the projection by a few percent."""
        if self.room is None:
            self.room = torch.empty_like(piece)
        return self.room[:len(piece)]

    def _parts(self) -> list[slice]:
        """The images whose plans are worked on at once."""
        images = len(self.x)
        size = max(1, _PIECE // (len(self.cost) * self.x[0].numel())) if self.x.device.type == "cpu" else images
        return [slice(first, first + size) for first in range(0, images, size)]

    def _windows(self, padded: torch.Tensor) -> torch.Tensor:
        """Each pixel's window in a padded image."""
        images, channels, height, width = padded.shape
        planes, channel, row, column = padded.stride()
        return padded.as_strided((images, channels, self.kernel, self.kernel, height - self.kernel + 1, width - self.kernel + 1),
                                 (planes, channel, row, column, row, column))

    def _corner(self, pixels: torch.Tensor) -> torch.Tensor:
        """Where the windows of pixels, given by their numbers in the flattened image, begin in the flattened padded image."""
        height, width = self.x.shape[2:]
        lines, wider = pixels // width, self.kernel - 1
        return pixels + lines * wider + lines // height * wider * (width + wider)


def _inside(t: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """t where it is within the interval, else the middle; also where t is NaN."""
    return torch.where((t >= low) & (t < high), t, (low + high) / 2)
