"""Entropy and information of layers against closed forms, brute force in float64 and gradcheck."""

import math

import pytest
import torch

from utils.mi.layers import (
    activation_entropy,
    binned_entropy,
    label_information,
    noisy_information,
    relative_noise,
    surplus_information,
    unit_entropy,
)


def positive(n=6, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + torch.rand(n, d, generator=generator, dtype=dtype)


def normal(n=6, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=dtype)


def entropy_of(p):
    return -sum(float(value) * math.log(value) for value in p if value > 0) / math.log(len(p))


# --- activation entropy ----------------------------------------------------------------------------------------


def test_equal_units_have_entropy_1_and_a_single_active_one_has_0():
    torch.testing.assert_close(activation_entropy(torch.full((3, 7), 0.4)), torch.ones(3))
    assert activation_entropy(4 * torch.eye(5)).tolist() == [0] * 5


def test_the_entropy_is_that_of_the_shares():
    a = positive()
    expected = [entropy_of(row / row.sum()) for row in a]
    torch.testing.assert_close(activation_entropy(a), torch.tensor(expected, dtype=a.dtype))


def test_an_image_with_a_negative_activation_has_the_entropy_of_its_softmax():
    a = torch.cat([normal(4) - 1, positive(2)])
    assert ((a < 0).any(1)).tolist() == [True] * 4 + [False] * 2
    expected = [entropy_of(row.softmax(0)) for row in a[:4]]
    expected += [entropy_of(row / row.sum()) for row in a[4:]]
    torch.testing.assert_close(activation_entropy(a), torch.tensor(expected, dtype=a.dtype))


@pytest.mark.parametrize("factor", [1e-12, 0.3, 7, 1e30])
def test_the_entropy_does_not_depend_on_the_scale(factor):
    a = positive(dtype=torch.float32)
    torch.testing.assert_close(activation_entropy(factor * a), activation_entropy(a))


@pytest.mark.parametrize("a", [positive(), normal()], ids=["shares", "softmax"])
def test_the_gradient_is_that_of_the_values(a):
    assert torch.autograd.gradcheck(activation_entropy, a.clone().requires_grad_())


def test_the_gradient_has_its_closed_form():
    a = positive().requires_grad_()
    entropy = activation_entropy(a)
    (gradient,) = torch.autograd.grad(entropy.sum(), a)
    total, d = a.sum(1, keepdim=True), math.log(a.shape[1])
    expected = -((a / total).log() + entropy[:, None] * d) / (d * total)
    torch.testing.assert_close(gradient, expected)


def test_units_at_0_behind_a_relu_have_a_finite_gradient():
    z = torch.tensor([[1.0, 2, -1, 0], [-1, -2, -3, 0], [0, 0, 0, 3]], requires_grad=True)
    entropy = activation_entropy(z.relu())
    expected = [entropy_of([1 / 3, 2 / 3, 0, 0]), 0, 0]
    torch.testing.assert_close(entropy, torch.tensor(expected))
    entropy.sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad[:, 2:].eq(0).all() and z.grad[1].eq(0).all() and z.grad[0, :2].ne(0).all()


def test_the_gradient_of_a_unit_at_0_is_0_without_a_relu_too():
    a = torch.tensor([[1.0, 2, 0], [0, 0, 0]], requires_grad=True)
    activation_entropy(a).sum().backward()
    assert a.grad.isfinite().all() and a.grad[0, 2] == 0 and a.grad[1].eq(0).all()


def test_an_image_with_almost_no_activation_counts_as_dead():
    a = torch.full((1, 3), 1e-30, requires_grad=True)
    entropy = activation_entropy(a)
    entropy.sum().backward()
    assert entropy.item() == 0 and a.grad.eq(0).all()


def test_a_layer_of_one_unit_has_entropy_0():
    assert activation_entropy(positive(3, 1)).tolist() == [0, 0, 0]


def test_half_precision_is_computed_in_float32():
    a = positive(dtype=torch.float32).bfloat16()
    assert activation_entropy(a).dtype == torch.float32
    torch.testing.assert_close(activation_entropy(a), activation_entropy(a.float()))


def test_a_diverged_layer_stays_visible():
    a = torch.tensor([[1.0, torch.nan], [1.0, torch.inf]])
    assert activation_entropy(a).isnan().all()


def test_rescaled_weights_leave_the_logits_and_move_the_entropy():
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, first, bias, second = draw(20, 8), draw(16, 8), draw(16), draw(4, 16)
    factors = (1.5 * draw(16)).exp()
    hidden = (x @ first.T + bias).relu()
    rescaled = (x @ (factors[:, None] * first).T + factors * bias).relu()
    before, after = hidden @ second.T, rescaled @ (second / factors).T
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    moved = activation_entropy(hidden).mean() - activation_entropy(rescaled).mean()
    assert moved > 0.1
    unit = unit_entropy(rescaled) - unit_entropy(hidden)
    torch.testing.assert_close(unit, factors.log().mean(), rtol=0, atol=1e-4)


def test_constant_units_without_outgoing_weights_send_the_entropy_towards_1():
    a = torch.nn.functional.one_hot(torch.arange(4), 4).double()
    padded = [activation_entropy(torch.cat([a, torch.ones(4, m)], 1)).mean() for m in (0, 10, 1000)]
    assert padded[0] == 0 and padded[0] < padded[1] < padded[2] and padded[2] > 0.99


# --- information of a noisy layer ------------------------------------------------------------------------------


def brute_force(a, c, chosen=None):
    """B(c) in plain Python over the rows `chosen`."""
    rows = [a[i].tolist() for i in (range(len(a)) if chosen is None else chosen)]
    total = 0
    for one in rows:
        kernel = [math.exp(-(math.dist(one, other) ** 2) / (2 * c)) for other in rows]
        total -= math.log(sum(kernel) / len(rows))
    return total / len(rows)


@pytest.mark.parametrize("noise", [0.3, 1.0, 4.0])
def test_both_bounds_agree_with_brute_force(noise):
    a = normal(7) + 100  # far from 0, as the activations of a layer may be
    lower, upper = noisy_information(a, noise)
    assert lower.item() == pytest.approx(brute_force(a, 4 * noise**2), abs=1e-9)
    assert upper.item() == pytest.approx(brute_force(a, noise**2), abs=1e-9)
    assert 0 <= lower <= upper <= math.log(7)


def test_far_points_have_log_n_equal_points_0_and_far_clusters_log_k():
    n = 6
    for a, expected in (
        (1e3 * torch.eye(n), math.log(n)),
        (torch.full((n, 4), 3.7), 0),
        (1e3 * torch.eye(3).repeat(2, 1), math.log(3)),
    ):
        for bound in noisy_information(a, 0.5):
            assert bound.item() == pytest.approx(expected, abs=1e-6)


def test_more_noise_leaves_less_information():
    bounds = [noisy_information(normal(), noise) for noise in (0.1, 0.5, 1, 3, 10)]
    for side in zip(*bounds):
        assert list(side) == sorted(side, reverse=True)


def test_a_gaussian_layer_has_its_closed_form():
    d, v, s, n = 3, 2.25, 0.8, 3000
    a = math.sqrt(v) * normal(n, d)

    def limit(c):
        return d / 2 * (math.log(1 + v / c) + v / (v + c))

    truth = d / 2 * math.log(1 + v / s**2)
    assert [round(value, 3) for value in (limit(4 * s**2), truth, limit(s**2))] == [
        *(1.648, 2.261, 3.429)
    ]
    lower, upper = noisy_information(a, s)
    assert lower.item() == pytest.approx(limit(4 * s**2), abs=0.03)
    assert upper.item() == pytest.approx(limit(s**2), abs=0.03)
    assert lower < truth < upper


def test_blocks_of_rows_give_what_one_block_gives(monkeypatch):
    a, y = normal(11), torch.arange(11) % 3
    whole = [*noisy_information(a, 0.7), *surplus_information(a, y, 0.7)]
    monkeypatch.setattr("utils.mi.layers.ROWS", 4)
    torch.testing.assert_close([*noisy_information(a, 0.7), *surplus_information(a, y, 0.7)], whole)


@pytest.mark.parametrize("side", [0, 1])
def test_gradients_of_the_bounds_are_those_of_the_values(side):
    a, y = normal().requires_grad_(), torch.tensor([0, 1, 0, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda a: noisy_information(a, 0.9)[side], a)
    assert torch.autograd.gradcheck(lambda a: surplus_information(a, y, 0.9)[side], a)


def test_equal_images_and_a_dead_layer_have_finite_gradients():
    for a in (torch.ones(4, 3), torch.zeros(4, 3)):
        a.requires_grad_()
        sum(noisy_information(a, relative_noise(a))).backward()
        assert a.grad.isfinite().all()
        assert [bound.item() for bound in noisy_information(a, relative_noise(a))] == [0, 0]


def test_relative_noise_is_a_tenth_of_the_root_mean_square_and_takes_no_gradient():
    a = normal().requires_grad_()
    noise = relative_noise(a)
    assert noise.item() == pytest.approx(0.1 * math.sqrt((a.detach() ** 2).mean()))
    assert not noise.requires_grad
    torch.testing.assert_close(
        noisy_information(a, noise), noisy_information(5 * a, relative_noise(5 * a))
    )


@pytest.mark.parametrize("noise", [0, -1.0, math.nan])
def test_noise_must_be_above_0(noise):
    with pytest.raises(ValueError, match="above 0"):
        noisy_information(normal(), noise)


# --- information about the label, and beyond it ----------------------------------------------------------------


def test_information_within_classes_agrees_with_brute_force():
    a, y, noise = normal(9), torch.tensor([0, 0, 1, 2, 1, 0, 2, 2, 2]), 0.8
    for side, c in enumerate((4 * noise**2, noise**2)):
        within = 0
        for label in range(3):
            chosen = (y == label).nonzero()[:, 0].tolist()
            within += len(chosen) / 9 * brute_force(a, c, chosen)
        assert surplus_information(a, y, noise)[side].item() == pytest.approx(within, abs=1e-9)
        about = brute_force(a, c) - within
        assert label_information(a, y, noise)[side].item() == pytest.approx(about, abs=1e-9)


def test_classes_as_far_clusters_have_all_information_about_the_label():
    y = torch.tensor([0, 1, 2, 3] * 3)
    a = 1e3 * torch.eye(4)[y]
    for side in (0, 1):
        assert label_information(a, y, 0.5)[side].item() == pytest.approx(math.log(4), abs=1e-6)
        assert surplus_information(a, y, 0.5)[side].item() == pytest.approx(0, abs=1e-6)


# --- entropy of units ------------------------------------------------------------------------------------------


def test_unit_entropy_of_a_gaussian_and_under_scaling():
    v = 2.25
    a = normal(20_000, 4)
    a = math.sqrt(v) * (a - a.mean(0)) / a.std(0, correction=0)
    expected = 0.5 * math.log(2 * math.pi * math.e * v)
    assert unit_entropy(a).item() == pytest.approx(expected, abs=1e-6)
    assert (unit_entropy(3 * a) - unit_entropy(a)).item() == pytest.approx(math.log(3), abs=1e-6)
    assert torch.autograd.gradcheck(unit_entropy, normal().requires_grad_())


def test_constant_units_have_a_finite_entropy_and_gradient():
    a = torch.zeros(4, 3, requires_grad=True)
    entropy = unit_entropy(a)
    entropy.backward()
    assert entropy.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 1e-6), abs=1e-5)
    assert a.grad.eq(0).all()


def test_binned_entropy_counts():
    even = torch.arange(30.0)[:, None] + 0.5  # one value in each of the 30 bins
    assert binned_entropy(even).item() == pytest.approx(math.log(30), abs=1e-6)
    assert binned_entropy(torch.full((5, 2), 3.0)).item() == 0
    halves = torch.tensor([[0.0, 0], [0, 0], [1, 0], [1, 0]])  # log 2 in one unit, 0 in the other
    assert binned_entropy(halves).item() == pytest.approx(math.log(2) / 2, abs=1e-6)
    assert not binned_entropy(halves.requires_grad_()).requires_grad
