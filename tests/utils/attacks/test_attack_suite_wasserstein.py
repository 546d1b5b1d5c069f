"""The Wasserstein attacks against linear programs, in float64 on 4x5 images."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from transport_parts import SIZE, C, H, Linear, W, best, best_plan, images, pulled

from utils.attacks import wasserstein
from utils.attacks.registry import attack
from utils.attacks.transport import Transport


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
    rise = (
        torch.tensor(
            [best_plan(pulled(Transport(x, epsilon), slope)[0], image, epsilon) for image in x]
        )
        - start
    )
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
    x_adv = attack(
        name, Linear(slope, torch.full((2,), 5.0, dtype=torch.float64)), x, y, epsilon=epsilon
    )
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
            x_adv = attack(
                name, Linear(slope, torch.full((3,), 9.0, dtype=dtype)), x, y, epsilon=0.1
            )
            assert x_adv.dtype == dtype and x_adv.isfinite().all()
            assert (x_adv[0] == 0).all() and (x_adv[1, 0] == 0).all()
            torch.testing.assert_close(x_adv.sum((1, 2, 3)), x.sum((1, 2, 3)))


def test_first_step_by_the_definition():
    x = images(2)
    slope = torch.randn(1, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    model, y = (
        Linear(slope, torch.full((2,), 9.0, dtype=torch.float64)),
        torch.zeros(2, dtype=torch.long),
    )
    transport = Transport(x, 0.1)
    G = slope.expand_as(x) / slope.abs().max()
    expected = transport.push(
        transport.project(transport.identity() + 0.007 * pulled(transport, G))
    )
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
    rise = (
        torch.tensor(
            [best_plan(pulled(Transport(x, epsilon), slope)[0], image, epsilon) for image in x]
        )
        - start
    )
    assert (rise > 0.8).all()
    model = Passing(slope, start + 0.3)
    assert (
        model(attack("fwa-100", Linear(slope, start + 9), x, y, epsilon=epsilon)).argmax(1) == 0
    ).all()  # passed by
    assert (model(attack("fwa-100", model, x, y, epsilon=epsilon)).argmax(1) == 1).all()


@pytest.mark.parametrize("name", ["fwa-8", "fwa-fw-8"])
@pytest.mark.parametrize("until_fooled", [False, True])
def test_pieces_of_a_batch(name, until_fooled, monkeypatch):
    """Plans are worked on a few images at a time: the same images come out."""
    x, y = images(5, most=0.2), torch.zeros(5, dtype=torch.long)
    slope = torch.randn(1, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    method = {"fwa-8": wasserstein.projected, "fwa-fw-8": wasserstein.frank_wolfe}[name]
    reached = -Bent(slope, 0.0)(method(Bent(slope, 9.0), x, y, 0.15, steps=8))[:, 0]
    model = Bent(slope, reached.median())
    whole = method(model, x, y, 0.15, steps=8, until_fooled=until_fooled)
    assert 0 < (model(whole).argmax(1) == 1).sum() < 5
    monkeypatch.setattr("utils.attacks.transport._PIECE", 2 * C * SIZE**2 * H * W)
    torch.testing.assert_close(
        method(model, x, y, 0.15, steps=8, until_fooled=until_fooled), whole, rtol=0, atol=1e-9
    )
    for i in range(5):
        alone = method(model, x[i : i + 1], y[:1], 0.15, steps=8, until_fooled=until_fooled)
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=0, atol=1e-9)


class Bent(Linear):
    """Its gradient differs from image to image."""

    def forward(self, x):
        return super().forward(x + 0.5 * x.flip(3).sin() * x)


class Wavy(Linear):
    """Never errs, and its gradient turns round with the score."""

    def forward(self, x):
        lead = (8 * (x * self.slope).sum((1, 2, 3)) - self.threshold).sin()
        return torch.stack([5 - lead, lead - 5], 1)


def test_three_frank_wolfe_steps_by_the_definition():
    x, y = images(2, most=0.2), torch.zeros(2, dtype=torch.long)
    slope = torch.randn(1, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    model, image, turned = Wavy(slope, 8 * float((x * slope).sum((1, 2, 3)).mean())), x, []
    for weight in (1, 2 / 3, 1 / 2):
        image = image.detach().requires_grad_(True)
        (G,) = torch.autograd.grad(
            torch.nn.functional.cross_entropy(model(image), y, reduction="sum"), image
        )
        G = G / G.abs().amax((1, 2, 3), keepdim=True)
        turned.append(G[0, 0, 0, 0] > 0)
        image = (1 - weight) * image.detach() + weight * Transport(x, 0.1).maximise(G, 0.001)
    assert len(set(map(bool, turned))) == 2
    torch.testing.assert_close(attack("fwa-fw-3", model, x, y, epsilon=0.1), image)


@pytest.mark.parametrize("name", ["fwa-300", "fwa-fw-60"])
def test_pixels_that_are_just_black_or_white(name):
    """They take part like all others: the white ones give, the black ones take."""
    generator = torch.Generator().manual_seed(8)
    x = (torch.rand(2, C, H, W, generator=generator) < 0.3).double()
    slope = torch.rand(2, C, H, W, dtype=torch.float64, generator=generator) * (1 - 2 * x)
    y, start, epsilon = torch.zeros(2, dtype=torch.long), (x * slope).sum((1, 2, 3)), 0.05
    rise = (
        torch.tensor(
            [best_plan(pulled(Transport(x, epsilon), slope)[i], x[i], epsilon) for i in range(2)]
        )
        - start
    )
    model = Linear(slope, start + 0.95 * rise)
    x_adv = attack(name, model, x, y, epsilon=epsilon)
    assert (x_adv < 1.001).all() and (model(x_adv).argmax(1) == 1).all()


def test_autocast_around_the_attack_leaves_the_mass():
    generator = torch.Generator().manual_seed(7)
    x, y = torch.rand(2, 3, 8, 8, generator=generator) * 0.5, torch.zeros(2, dtype=torch.long)
    model = Linear(torch.randn(1, 3, 8, 8, generator=generator), torch.tensor(3.0))
    for name in ("fwa-5", "fwa-fw-5"):
        with torch.autocast("cpu", torch.bfloat16):
            x_adv = attack(name, model, x, y, epsilon=0.1)
        assert (x_adv != x).any()
        torch.testing.assert_close(x_adv.sum((1, 2, 3)), x.sum((1, 2, 3)))


def test_pixels_above_one_are_cut_for_the_network():
    """Two bright pixels side by side: what one gives the other is lost in the image, not in the plan."""
    x = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    x[..., 1:] = 0.9
    slope = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 3)
    x_adv = attack("fwa-200", Linear(slope, torch.tensor([5.0])), x, torch.tensor([0]), epsilon=0.5)
    torch.testing.assert_close(x_adv[..., 2], torch.ones(1, 1, 1, dtype=torch.float64))
    # The loss is flat from there on: the budget, 0.9 for each of the two, is not spent.
    assert 0.75 < x_adv[..., 1] < 0.81
