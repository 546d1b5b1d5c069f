"""What the tests of transport share: images, plans by enumeration and linear programming, linear networks."""

import numpy as np
import torch
from scipy.optimize import linprog

H, W = 4, 5
C = 2
SIZE = 5


def images(n=3, seed=0, most=0.3):
    return most * torch.rand(
        n, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def places(kernel):
    """All (channel, source, target, entry of the plan (C,K,H,W), cost) of a window, by enumeration."""
    before = (kernel - 1) // 2
    found = []
    for c, r, s in np.ndindex(C, H, W):
        for k, (dr, ds) in enumerate(
            (a - before, b - before) for a in range(kernel) for b in range(kernel)
        ):
            if 0 <= r + dr < H and 0 <= s + ds < W:
                found.append((c, (r, s), (r + dr, s + ds), (c, k, r, s), np.hypot(dr, ds)))
    return found


def best_plan(value, x, epsilon, kernel=SIZE):
    """max <value, P> over the feasible plans of one image x (C,H,W), by linear programming; value (C,K,H,W)."""
    entries = places(kernel)
    rows = np.zeros((C * H * W, len(entries)))
    for j, (c, source, _, _, _) in enumerate(entries):
        rows[(c * H + source[0]) * W + source[1], j] = 1
    solved = linprog(
        [-float(value[entry]) for *_, entry, _ in entries],
        A_ub=[[cost for *_, cost in entries]],
        b_ub=[epsilon * float(x.sum())],
        A_eq=rows,
        b_eq=x.flatten().numpy(),
    )
    assert solved.status == 0
    return -solved.fun


def inside(kernel=SIZE):
    """Which entries of a plan lie in the image, (C,K,H,W)."""
    found = torch.zeros(C, kernel**2, H, W, dtype=torch.bool)
    for *_, entry, _ in places(kernel):
        found[entry] = True
    return found


def pulled(transport, image):
    return transport.pull(image).flatten(2, 3)


def feasible(transport, plan, within=1e-9):
    assert (plan >= 0).all() and (plan[:, ~inside(transport.kernel)] == 0).all()
    torch.testing.assert_close(plan.sum(2), transport.x, rtol=0, atol=within)
    assert (transport.spent(plan) <= transport.budget + within).all()
    torch.testing.assert_close(
        transport.push(plan).sum((1, 2, 3)), transport.x.sum((1, 2, 3)), rtol=1e-9, atol=0
    )


def best(transport, G, gamma, evaluations=100):
    """The whole plan of which `best_rows` gives the rows that send something; its image is what `maximise` gives."""
    pixels, rows = transport.best_rows(G, gamma, evaluations)
    plan = transport.identity()
    by_place = plan.movedim(2, 1)
    by_place = (
        by_place.flatten(2).scatter(2, pixels[:, None].expand_as(rows), rows).view(by_place.shape)
    )
    plan = by_place.movedim(1, 2)
    torch.testing.assert_close(transport.maximise(G, gamma, evaluations), transport.push(plan))
    return plan


class Linear(torch.nn.Module):
    """Label 0 leads by threshold - <slope, x>."""

    def __init__(self, slope, threshold):
        super().__init__()
        self.slope, self.threshold = slope, threshold

    def forward(self, x):
        score = (x * self.slope).sum((1, 2, 3))
        return torch.stack([self.threshold - score, score - self.threshold], 1)


def counted(transport, monkeypatch):
    """Grows by one with each evaluation of the transport's plans."""
    count, sums = [], transport._sums
    monkeypatch.setattr(transport, "_sums", lambda *weights: count.append(1) or sums(*weights))
    return count
