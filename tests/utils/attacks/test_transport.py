"""The plans of transport against enumeration, linear programs and root finding: projection, Frank-Wolfe direction, ascent."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from transport_parts import (
    C,
    H,
    W,
    best,
    best_plan,
    counted,
    feasible,
    images,
    inside,
    places,
    pulled,
)

from utils.attacks.transport import Transport


@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_push_and_pull_by_enumeration(kernel):
    x = images(2)
    transport = Transport(x, 0.1, kernel)
    plan = torch.rand(2, C, kernel**2, H, W, dtype=torch.float64) * inside(kernel)
    image = torch.rand_like(x)
    received, seen, spent = (
        torch.zeros_like(x),
        torch.zeros_like(plan),
        torch.zeros(2, dtype=torch.float64),
    )
    for c, _, target, entry, cost in places(kernel):
        received[:, c, target[0], target[1]] += plan[(slice(None), *entry)]
        seen[(slice(None), *entry)] = image[:, c, target[0], target[1]]
        spent += cost * plan[(slice(None), *entry)]
    torch.testing.assert_close(transport.push(plan), received)
    assert torch.equal(pulled(transport, image), seen)
    assert torch.equal(
        transport.pull(torch.zeros_like(x), 1.0).flatten(2, 3)[0] == 0, inside(kernel)
    )
    torch.testing.assert_close(transport.spent(plan).flatten(), spent)
    assert (
        torch.equal(transport.push(transport.identity()), x)
        and (transport.spent(transport.identity()) == 0).all()
    )


@pytest.mark.parametrize("joint", [0, 10])
@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize(
    "epsilon, noise", [(0.05, 0.05), (0.3, 0.05), (0.3, 0.5), (10.0, 0.5), (0.01, 5.0)]
)
def test_projection_is_the_nearest_feasible_plan(epsilon, noise, kernel, joint, monkeypatch):
    """P is the projection of Y exactly when <Y - P, Q - P> <= 0 for every feasible Q: a linear program in Q."""
    monkeypatch.setattr(
        "utils.attacks.transport._JOINT", joint
    )  # with 0, the safeguarded search alone
    x = images()
    x[1, 0, :2] = 0
    transport = Transport(x, epsilon, kernel, tolerance=1e-12)
    Y = transport.identity() + noise * torch.randn(
        3, C, kernel**2, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    P = transport.project(Y, evaluations=300)
    feasible(transport, P)
    for i in range(3):
        residual = (Y - P)[i] * inside(kernel)
        assert best_plan(residual, x[i], epsilon, kernel) <= float((residual * P[i]).sum()) + 1e-9
    torch.testing.assert_close(transport.project(P, evaluations=100), P, rtol=0, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.02, 0.2, 1.0, 10.0])
@pytest.mark.parametrize("kernel", [4, 5])
def test_frank_wolfe_direction_against_the_linear_program(epsilon, kernel):
    """The entropies of two rows of mass m differ by m log K at most, so that <P, G> comes within gamma log K of the
    optimum for each unit of mass."""
    x, gamma = images(), 0.001
    transport = Transport(x, epsilon, kernel, tolerance=1e-9)
    G = torch.randn(3, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    G = G / G.abs().amax((1, 2, 3), keepdim=True)
    P = best(transport, G, gamma)
    feasible(transport, P)
    for i in range(3):
        value = pulled(transport, G)[i]
        reached, optimum = float((P[i] * value).sum()), best_plan(value, x[i], epsilon, kernel)
        assert (
            optimum - gamma * np.log(kernel**2) * float(x[i].sum()) - 1e-6
            <= reached
            <= optimum + 1e-9
        )


@pytest.mark.parametrize("noise", [0.007, 0.1])
def test_float32_keeps_mass_and_budget(noise):
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(4, 3, 16, 16, generator=generator)
    transport = Transport(x, 8 / 255)
    G = torch.randn(x.shape, generator=generator)
    G /= G.abs().max()
    plan = transport.identity()
    for k in range(12):
        plan = (
            transport.project(plan + noise * pulled(transport, G))
            if k % 2
            else plan.lerp(best(transport, G, 0.001), 0.3)
        )
        assert (plan >= 0).all()
        torch.testing.assert_close(plan.sum(2), x, rtol=0, atol=2e-6)
        assert (transport.spent(plan) <= transport.budget * (1 + 1e-5)).all()
    assert (transport.spent(plan) >= transport.budget * 0.999).all()


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
    assert (
        20 < len(count) <= 10 * (1 + 2 * 8)
    )  # one for the first guess, and two for each evaluation but the last
    count.clear()
    transport.maximise(G, 0.001)
    assert len(count) <= 10


@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_ascent_is_the_projection_of_the_moved_plan(epsilon):
    """Also from plans that have moved, with pixels that have nothing."""
    generator = torch.Generator().manual_seed(3)
    x = images()
    x[1, 0, :2] = 0
    transport, plain = (
        Transport(x, epsilon, tolerance=1e-12),
        Transport(x, epsilon, tolerance=1e-12),
    )
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
        return x[0].unsqueeze(1) * (
            (pulled(transport, G)[0] - t * cost).masked_fill(outside, -torch.inf) / gamma
        ).softmax(1)

    budget = epsilon * float(x.sum())
    return plan(brentq(lambda t: float((plan(t) * cost).sum()) - budget, 0, 10, xtol=1e-14))


@pytest.mark.parametrize("gamma", [0.001, 0.03, 1.0])
@pytest.mark.parametrize("dim", [1.0, 0.001])
def test_frank_wolfe_rows_against_all_rows(gamma, dim):
    """Where the pixels that would send most are dark in one of the images, or the entropy is large, more rows send than were
    first thought to."""
    epsilon = 0.05
    x = images(2)
    G = torch.randn(2, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    G /= G.abs().amax((1, 2, 3), keepdim=True)
    x[1][G[1] < G[1].quantile(0.4)] *= dim  # what lies low has most to gain
    transport = Transport(x, epsilon, tolerance=1e-11)
    plan = best(transport, G, gamma)
    for i in range(2):
        torch.testing.assert_close(
            plan[i], dense(x[i : i + 1], G[i : i + 1], gamma, epsilon), rtol=0, atol=1e-9
        )
    first = math.ceil(3 * epsilon * x[0].numel())
    assert (transport.best_rows(G, gamma)[0].shape[1] > first) == (dim < 1 or gamma > 0.001)


def test_black_pixels_take_no_row_s_place():
    """They lie lowest, and have nothing to send."""
    x = images(1)
    G = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    G /= G.abs().max()
    x[G < G.quantile(0.4)] = 0
    pixels, _ = Transport(x, 0.05).best_rows(G, 0.001)
    assert pixels.shape[1] == math.ceil(3 * 0.05 * x[0].numel()) and (x.flatten()[pixels] > 0).all()


@pytest.mark.parametrize("image", ["a dot", "few", "dark"])
def test_next_to_nothing_is_spent_right_too(image, monkeypatch):
    """With the tolerance that attacks have, in float32: what dark images may spend is less than what their rows may miss."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(1, 1, 16, 16)
    if image == "a dot":
        x[0, 0, 5, 5] = 1 / 255
    elif image == "few":
        x[torch.rand(x.shape, generator=generator) < 0.05] = 1 / 255
    else:
        x = (3 * torch.rand(x.shape, generator=generator)).round() / 255
    transport, exact = Transport(x, 8 / 255), Transport(x.double(), 8 / 255, tolerance=1e-12)
    plan, count = transport.identity(), counted(transport, monkeypatch)
    first = torch.randn(x.shape, generator=generator)
    for step in range(12):
        G = first + 0.05 * torch.randn(x.shape, generator=generator)
        G = (-1) ** (step // 3) * G / G.abs().max()
        nearest = exact.project(plan.double() + 0.007 * pulled(exact, G.double()))
        count.clear()
        transport.ascend(plan, G, 0.007)
        assert len(count) < 2 * 40
        assert abs(float(transport.spent(plan) - exact.spent(nearest))) <= 1e-3 * float(
            transport.budget
        )
