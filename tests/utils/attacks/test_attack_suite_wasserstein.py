"""The Wasserstein attacks against linear programs, in float64 on 4x5 images."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog

from utils.attacks import wasserstein
from utils.attacks.registry import attack
from utils.attacks.transport import Transport

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
