"""The Wasserstein attacks against linear programs, in float64 on 4x4 images."""
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog

from utils.attack_suite import attack, wasserstein
from utils.attack_suite.wasserstein import Transport

H = W = 4
C = 2
SIZE = 5


def images(n=3, seed=0, most=0.3):
    return most * torch.rand(n, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def places(kernel):
    """All (channel, source, target, entry of the plan (C,K,H,W), cost) of a window, by enumeration."""
    before = (kernel - 1) // 2
    found = []
    for c, r, s in np.ndindex(C, H, W):
        for k, (dr, ds) in enumerate((a - before, b - before) for a in range(kernel) for b in range(kernel)):
            if 0 <= r + dr < H and 0 <= s + ds < W:
                found.append((c, (r, s), (r + dr, s + ds), (c, k, r, s), np.hypot(dr, ds)))
    return found


def best_plan(value, x, epsilon, kernel=SIZE):
    """max <value, P> over the feasible plans of one image x (C,H,W), by linear programming; value (C,K,H,W)."""
    entries = places(kernel)
    rows = np.zeros((C * H * W, len(entries)))
    for j, (c, source, _, _, _) in enumerate(entries):
        rows[(c * H + source[0]) * W + source[1], j] = 1
    solved = linprog([-float(value[entry]) for *_, entry, _ in entries], A_ub=[[cost for *_, cost in entries]],
                     b_ub=[epsilon * float(x.sum())], A_eq=rows, b_eq=x.flatten().numpy())
    assert solved.status == 0
    return -solved.fun


def inside(kernel=SIZE):
    """Which entries of a plan lie in the image, (C,K,H,W)."""
    found = torch.zeros(C, kernel ** 2, H, W, dtype=torch.bool)
    for *_, entry, _ in places(kernel):
        found[entry] = True
    return found


def pulled(transport, image):
    return transport.pull(image).flatten(2, 3)


def feasible(transport, plan, within=1e-9):
    assert (plan >= 0).all() and (plan[:, ~inside(transport.kernel)] == 0).all()
    torch.testing.assert_close(plan.sum(2), transport.x, rtol=0, atol=within)
    assert (transport.spent(plan) <= transport.budget + within).all()
    torch.testing.assert_close(transport.push(plan).sum((1, 2, 3)), transport.x.sum((1, 2, 3)), rtol=1e-9, atol=0)


def best(transport, G, gamma, evaluations=100):
    """The whole plan of which `best_rows` gives the rows that send something; its image is what `maximise` gives."""
    pixels, rows = transport.best_rows(G, gamma, evaluations)
    plan = transport.identity()
    by_place = plan.movedim(2, 1)
    by_place = by_place.flatten(2).scatter(2, pixels[:, None].expand_as(rows), rows).view(by_place.shape)
    plan = by_place.movedim(1, 2)
    torch.testing.assert_close(transport.maximise(G, gamma, evaluations), transport.push(plan))
    return plan


@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_push_and_pull_by_enumeration(kernel):
    x = images(2)
    transport = Transport(x, 0.1, kernel)
    plan = torch.rand(2, C, kernel ** 2, H, W, dtype=torch.float64) * inside(kernel)
    image = torch.rand_like(x)
    received, seen, spent = torch.zeros_like(x), torch.zeros_like(plan), torch.zeros(2, dtype=torch.float64)
    for c, _, target, entry, cost in places(kernel):
        received[:, c, target[0], target[1]] += plan[(slice(None), *entry)]
        seen[(slice(None), *entry)] = image[:, c, target[0], target[1]]
        spent += cost * plan[(slice(None), *entry)]
    torch.testing.assert_close(transport.push(plan), received)
    assert torch.equal(pulled(transport, image), seen)
    assert torch.equal(transport.pull(torch.zeros_like(x), 1.0).flatten(2, 3)[0] == 0, inside(kernel))
    torch.testing.assert_close(transport.spent(plan).flatten(), spent)
    assert torch.equal(transport.push(transport.identity()), x) and (transport.spent(transport.identity()) == 0).all()


@pytest.mark.parametrize("joint", [0, 10])
@pytest.mark.parametrize("epsilon, noise", [(0.05, 0.05), (0.3, 0.05), (0.3, 0.5), (10.0, 0.5), (0.01, 5.0)])
def test_projection_is_the_nearest_feasible_plan(epsilon, noise, joint, monkeypatch):
    """P is the projection of Y exactly when <Y - P, Q - P> <= 0 for every feasible Q: a linear program in Q."""
    monkeypatch.setattr(wasserstein, "_JOINT", joint)  # with 0, the safeguarded search alone
    x = images()
    x[1, 0, :2] = 0
    transport = Transport(x, epsilon, SIZE, tolerance=1e-12)
    Y = transport.identity() + noise * torch.randn(3, C, SIZE ** 2, H, W, dtype=torch.float64,
                                                   generator=torch.Generator().manual_seed(1))
    P = transport.project(Y, evaluations=300)
    feasible(transport, P)
    for i in range(3):
        residual = (Y - P)[i] * inside()
        assert best_plan(residual, x[i], epsilon) <= float((residual * P[i]).sum()) + 1e-9
    torch.testing.assert_close(transport.project(P, evaluations=100), P, rtol=0, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.02, 0.2, 1.0, 10.0])
def test_frank_wolfe_direction_against_the_linear_program(epsilon):
    """The entropies of two rows of mass m differ by m log K at most, so that <P, G> comes within gamma log K of the
    optimum for each unit of mass."""
    x, gamma = images(), 0.001
    transport = Transport(x, epsilon, SIZE, tolerance=1e-9)
    G = torch.randn(3, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    G = G / G.abs().amax((1, 2, 3), keepdim=True)
    P = best(transport, G, gamma)
    feasible(transport, P)
    for i in range(3):
        value = pulled(transport, G)[i]
        reached, optimum = float((P[i] * value).sum()), best_plan(value, x[i], epsilon)
        assert optimum - gamma * np.log(SIZE ** 2) * float(x[i].sum()) - 1e-6 <= reached <= optimum + 1e-9


class Linear(torch.nn.Module):
    """Label 0 leads by threshold - <slope, x>."""

    def __init__(self, slope, threshold):
        super().__init__()
        self.slope, self.threshold = slope, threshold

    def forward(self, x):
        score = (x * self.slope).sum((1, 2, 3))
        return torch.stack([self.threshold - score, score - self.threshold], 1)


@pytest.mark.parametrize("name, share", [("fwa-300", 0.99), ("fwa-fw-60", 0.98)])
@pytest.mark.parametrize("batch", [1, 3])
def test_attacks_succeed_exactly_when_they_can(name, share, batch):
    """On a linear score the largest rise that a budget allows is a linear program; the attacks find nearly all of it, and
    no more: with the threshold a little below they succeed, a little above they fail."""
    epsilon = 0.15
    slope = torch.randn(1, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    x = images(batch, most=0.2)
    y = torch.zeros(batch, dtype=torch.long)
    start = (x * slope).sum((1, 2, 3))
    rise = torch.tensor([best_plan(pulled(Transport(x, epsilon), slope)[0], image, epsilon) for image in x]) - start
    assert (rise > 0.05).all()
    for factor in (share, 1.001):
        model = Linear(slope, start + factor * rise)
        x_adv = attack(name, model, x, y, epsilon=epsilon)
        assert (x_adv < 1).all()
        torch.testing.assert_close(x_adv.sum((1, 2, 3)), x.sum((1, 2, 3)))
        assert ((x_adv * slope).sum((1, 2, 3)) > model.threshold).tolist() == [factor < 1] * batch


@pytest.mark.parametrize("name", ["fwa-10", "fwa-fw-10"])
def test_true_transport_cost_is_within_the_budget(name):
    """The cost of the cheapest plan from x to x~ over all pairs of pixels, a linear program, is at most the budget."""
    epsilon, x = 0.2, images(2, most=0.2)
    slope = torch.randn(1, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    y = torch.zeros(2, dtype=torch.long)
    x_adv = attack(name, Linear(slope, torch.full((2,), 5.0, dtype=torch.float64)), x, y, epsilon=epsilon)
    where = np.array(list(np.ndindex(H, W)))
    cost = np.linalg.norm(where[:, None] - where[None], axis=2)
    leaving = np.kron(np.eye(H * W), np.ones((1, H * W)))
    arriving = np.kron(np.ones((1, H * W)), np.eye(H * W))
    for i in range(2):
        total = 0.0
        for c in range(C):
            margins = torch.cat([x[i, c].flatten(), x_adv[i, c].flatten()])
            equations = np.vstack([leaving, arriving])[:-1]  # the last follows from the others
            solved = linprog(cost.flatten(), A_eq=equations, b_eq=margins[:-1].numpy())
            assert solved.status == 0
            total += solved.fun
        assert 0.5 * epsilon * float(x[i].sum()) < total <= epsilon * float(x[i].sum()) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_black_images_and_flat_losses(dtype):
    x = images(3).to(dtype)
    x[0] = 0
    x[1, 0] = 0
    y = torch.zeros(3, dtype=torch.long)
    for slope in (torch.zeros(1, C, H, W, dtype=dtype), torch.ones(1, C, H, W, dtype=dtype)):
        for name in ("fwa-3", "fwa-fw-3"):
            x_adv = attack(name, Linear(slope, torch.full((3,), 9.0, dtype=dtype)), x, y, epsilon=0.1)
            assert x_adv.dtype == dtype and x_adv.isfinite().all()
            assert (x_adv[0] == 0).all() and (x_adv[1, 0] == 0).all()
            torch.testing.assert_close(x_adv.sum((1, 2, 3)), x.sum((1, 2, 3)))


@pytest.mark.parametrize("noise", [0.007, 0.1])
def test_float32_keeps_mass_and_budget(noise):
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(4, 3, 16, 16, generator=generator)
    transport = Transport(x, 8 / 255)
    G = torch.randn(x.shape, generator=generator)
    G /= G.abs().max()
    plan = transport.identity()
    for k in range(12):
        plan = transport.project(plan + noise * pulled(transport, G)) if k % 2 else plan.lerp(best(transport, G, 0.001), 0.3)
        assert (plan >= 0).all()
        torch.testing.assert_close(plan.sum(2), x, rtol=0, atol=2e-6)
        assert (transport.spent(plan) <= transport.budget * (1 + 1e-5)).all()
    assert (transport.spent(plan) >= transport.budget * 0.999).all()


def test_first_step_by_the_definition():
    x = images(2)
    slope = torch.randn(1, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    model, y = Linear(slope, torch.full((2,), 9.0, dtype=torch.float64)), torch.zeros(2, dtype=torch.long)
    transport = Transport(x, 0.1)
    G = slope.expand_as(x) / slope.abs().max()
    expected = transport.push(transport.project(transport.identity() + 0.007 * pulled(transport, G)))
    torch.testing.assert_close(attack("fwa-1", model, x, y, epsilon=0.1), expected)
    transport = Transport(x, 0.1)
    expected = transport.push(best(transport, G, 0.001))
    torch.testing.assert_close(attack("fwa-fw-1", model, x, y, epsilon=0.1), expected)


class Passing(Linear):
    """Label 1 wins in an interval of the score only, though its logit rises with the score everywhere."""

    def forward(self, x):
        lead = (x * self.slope).sum((1, 2, 3)) - self.threshold
        lead = torch.where(lead < 0.3, lead, lead - 9)
        return torch.stack([-lead, lead], 1)


def test_errors_met_on_the_way_are_kept():
    epsilon, x, y = 0.3, images(3, most=0.2), torch.zeros(3, dtype=torch.long)
    slope = torch.randn(1, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    start = (x * slope).sum((1, 2, 3))
    rise = torch.tensor([best_plan(pulled(Transport(x, epsilon), slope)[0], image, epsilon) for image in x]) - start
    assert (rise > 0.8).all()
    model = Passing(slope, start + 0.3)
    assert (model(attack("fwa-100", Linear(slope, start + 9), x, y, epsilon=epsilon)).argmax(1) == 0).all()  # passed by
    assert (model(attack("fwa-100", model, x, y, epsilon=epsilon)).argmax(1) == 1).all()


def counted(transport, monkeypatch):
    """Grows by one with each evaluation of the transport's plans."""
    count, sums = [], transport._sums
    monkeypatch.setattr(transport, "_sums", lambda *weights: count.append(1) or sums(*weights))
    return count


def test_few_evaluations(monkeypatch):
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(4, 3, 32, 32, generator=generator)
    G = torch.randn(x.shape, generator=generator)
    G /= G.abs().amax((1, 2, 3), keepdim=True)
    transport = Transport(x, 8 / 255)
    plan, count = transport.identity(), counted(transport, monkeypatch)
    for _ in range(10):
        transport.ascend(plan, G, 0.007)
    assert (transport.spent(plan) > 0.999 * transport.budget).all()
    assert 20 < len(count) <= 10 * (1 + 2 * 8)  # one for the first guess, and two for each evaluation but the last
    count.clear()
    transport.maximise(G, 0.001)
    assert len(count) <= 10


@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_ascent_is_the_projection_of_the_moved_plan(epsilon):
    """Also from plans that have moved, with pixels that have nothing."""
    generator = torch.Generator().manual_seed(3)
    x = images()
    x[1, 0, :2] = 0
    transport, plain = Transport(x, epsilon, tolerance=1e-12), Transport(x, epsilon, tolerance=1e-12)
    plan = transport.identity()
    for _ in range(6):
        G = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        G /= G.abs().amax((1, 2, 3), keepdim=True)
        nearest = plain.project(plan + 0.1 * pulled(transport, G))
        image = transport.ascend(plan, G, 0.1)
        torch.testing.assert_close(plan, nearest, rtol=0, atol=1e-9)
        assert torch.equal(image, transport.push(plan))


def dense(x, G, gamma, epsilon):
    """x softmax((G - t c) / gamma) for the t that spends the budget, of one image, over all rows at once."""
    transport = Transport(x, epsilon)
    outside = ~inside()
    cost = transport.cost[:, None, None]

    def plan(t):
        return x[0].unsqueeze(1) * ((pulled(transport, G)[0] - t * cost).masked_fill(outside, -torch.inf) / gamma).softmax(1)
    budget = epsilon * float(x.sum())
    return plan(brentq(lambda t: float((plan(t) * cost).sum()) - budget, 0, 10, xtol=1e-14))


@pytest.mark.parametrize("gamma", [0.001, 0.03, 1.0])
@pytest.mark.parametrize("dim", [1.0, 0.001])
def test_frank_wolfe_rows_against_all_rows(gamma, dim):
    """Where the pixels that would send most are dark, or the entropy is large, more rows send than were first thought to."""
    epsilon = 0.05
    x = images(1)
    G = torch.randn(1, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    G /= G.abs().max()
    x[G < G.quantile(0.4)] *= dim  # what lies low has most to gain
    transport = Transport(x, epsilon, tolerance=1e-11)
    torch.testing.assert_close(best(transport, G, gamma)[0], dense(x, G, gamma, epsilon), rtol=0, atol=1e-9)
    first = math.ceil(3 * epsilon * x.numel())
    assert (transport.best_rows(G, gamma)[0].shape[1] > first) == (dim < 1 or gamma > 0.001)


def test_pixels_above_one_are_cut_for_the_network():
    """Two bright pixels side by side: what one gives the other is lost in the image, not in the plan."""
    x = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    x[..., 1:] = 0.9
    slope = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 3)
    x_adv = attack("fwa-200", Linear(slope, torch.tensor([5.0])), x, torch.tensor([0]), epsilon=0.5)
    torch.testing.assert_close(x_adv[..., 2], torch.ones(1, 1, 1, dtype=torch.float64))
    # The loss is flat from there on: the budget, 0.9 for each of the two, is not spent.
    assert 0.75 < x_adv[..., 1] < 0.81
