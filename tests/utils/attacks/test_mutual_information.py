"""The attack on mutual information against a grid, its ball and box, and what it restores."""

import itertools

import pytest
import torch
from torch import nn

import models
from models.encoder import Encoder
from utils.attacks.mutual_information import lower_mi
from utils.mi.batch_bound import batch_bound
from utils.mi.critic import Representation, build_critic


class Product(nn.Module):
    """J of scores T(x, z) = strength x z of images with one pixel."""

    def __init__(self, strength=2.0):
        super().__init__()
        self.strength = strength

    def forward(self, x, z):
        return batch_bound(x.flatten(1).unsqueeze(2), self.strength * z.flatten(1).unsqueeze(2))


class Affine(nn.Module):
    """J = sum(a x) + sum(b z): the gradient of either path is known."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x, z):
        return (self.a * x).sum() + (self.b * z).sum()


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def small(seed=0, size=16, dtype=torch.float32):
    """An encoder and a critic whose batch-norm statistics are not 0 and 1, and images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder, critic = Encoder(4, (size, size)), build_critic("code", 64, 16)
        x = torch.rand(6, 3, size, size)
        critic.train()(x, encoder.train()(x))
    return encoder.to(dtype), critic.to(dtype), x.to(dtype)


def pixels(*values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def test_reaches_the_minimum_of_a_grid():
    """Three images of one pixel: J falls as their variance falls, and has one minimum."""
    x, epsilon, strength = pixels(0.3, 0.55, 0.7), 0.08, 0.5
    critic = Product(strength)
    offsets = torch.linspace(-epsilon, epsilon, 41, dtype=torch.float64)
    grid = torch.tensor(list(itertools.product(offsets.tolist(), repeat=3)), dtype=torch.float64)
    points = x.flatten() + grid
    scores = strength * points[:, :, None] * points[:, None, :]
    values = scores.diagonal(dim1=1, dim2=2).mean(1) - scores.flatten(1).logsumexp(1)
    values = values + torch.log(torch.tensor(9.0))
    lowest = values.argmin()
    table = values.view(41, 41, 41)
    smaller = torch.ones_like(table, dtype=torch.bool)  # than every neighbour along an axis
    for axis in range(3):
        rise = table.diff(dim=axis)
        edge = torch.full_like(rise.narrow(axis, 0, 1), torch.inf)
        smaller &= (torch.cat([rise, edge], axis) > 0) & (torch.cat([-edge, rise], axis) < 0)
    assert smaller.sum() == 1  # one local minimum on the grid

    found = lower_mi(nn.Identity(), critic, x, "linf", epsilon, steps=80, step_size=0.002)
    assert critic(found, found).item() == pytest.approx(values[lowest].item(), abs=1e-6)
    assert critic(found, found) < critic(x, x) - 5e-4
    torch.testing.assert_close(found.flatten(), points[lowest], rtol=0, atol=0.005)


@pytest.mark.parametrize("a, b, sign", [(3, -1, -1), (1, -1, 1), (-3, 1, 1)])
def test_both_paths_carry_gradient(a, b, sign):
    """z = 2x, so dJ/dx = a + 2b; by the first argument alone it were a, by the second 2b."""
    x = pixels(0.5, 0.4)
    found = lower_mi(Double(), Affine(a, b), x, "linf", 0.1, steps=3, step_size=0.05)
    torch.testing.assert_close(found, x + sign * 0.1)


@pytest.mark.parametrize("norm, epsilon", [("linf", 0.1), ("l2", 0.7)])
def test_stays_in_ball_and_box_and_never_ends_above_its_start(norm, epsilon):
    encoder, critic, x = small()
    for step_size in (epsilon / 4, 5 * epsilon):  # the second overshoots
        found = lower_mi(encoder, critic, x, norm, epsilon, 4, step_size)
        delta = (found - x).flatten(1)
        length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        assert (length <= epsilon * (1 + 1e-5)).all()
        assert found.min() >= 0 and found.max() <= 1
        encoder.eval(), critic.eval()
        with torch.no_grad():
            before, after = critic(x, encoder(x)), critic(found, encoder(found))
        assert after <= before
        if step_size < epsilon:
            assert after < before - 0.01


def test_of_all_iterates_the_lowest_is_kept():
    """Steps as long as the ball is wide jump over the minimum and back: x is the best of them."""
    x, critic = pixels(0.5, 0.5, 0.5), Product()
    assert torch.equal(lower_mi(nn.Identity(), critic, x, "linf", 0.3, 4, 0.3), x)
    x, kept = pixels(0.3, 0.5, 0.7), []
    for steps in range(6):
        found = lower_mi(nn.Identity(), critic, x, "linf", 0.3, steps, 0.09)
        kept.append(critic(found, found).item())
    assert kept == sorted(kept, reverse=True)  # more iterates never end higher
    assert kept[-1] < kept[0]


def test_no_budget_and_no_gradient_leave_x():
    encoder, critic, x = small()
    for norm in ("linf", "l2"):
        assert torch.equal(lower_mi(encoder, critic, x, norm, 0.0, 3, 0.1), x)
    assert torch.equal(lower_mi(Double(), Affine(2, -1), x, "linf", 0.1, 3, 0.1), x)


class NotANumber(nn.Module):
    def forward(self, x, z):
        return (x + z).sum() * torch.nan


def test_a_critic_without_values_leaves_x():
    x = pixels(0.5, 0.2)
    assert torch.equal(lower_mi(nn.Identity(), NotANumber(), x, "linf", 0.1, 3), x)


def test_modes_flags_and_gradients_are_restored():
    encoder, critic, x = small()
    encoder.train(), critic.eval()
    encoder.code.weight.requires_grad_(False)
    state = [value.clone() for net in (encoder, critic) for value in net.state_dict().values()]
    lower_mi(encoder, critic, x, steps=2)
    assert encoder.training and encoder.layer0[1].training and not critic.training
    assert not encoder.code.weight.requires_grad and encoder.code.bias.requires_grad
    now = [value for net in (encoder, critic) for value in net.state_dict().values()]
    assert all(torch.equal(*pair) for pair in zip(state, now))  # batch norm has not moved
    assert all(p.grad is None for net in (encoder, critic) for p in net.parameters())


def test_each_network_runs_once_per_iterate(monkeypatch):
    encoder, critic, x = small()
    calls = []
    for net in (encoder, critic.local_net, critic.global_net):
        net.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    lower_mi(encoder, critic, x, steps=5)
    assert sorted(calls) == sorted(6 * ["Encoder", "LocalNet", "GlobalNet"])


def test_half_precision_images_keep_their_type():
    encoder, critic, x = small(dtype=torch.bfloat16)
    found = lower_mi(encoder, critic, x, steps=2)
    assert found.dtype == torch.bfloat16 and not torch.equal(found, x)


def test_a_layer_of_a_target_can_be_attacked():
    torch.manual_seed(0)
    target, x = models.build("baseline-h", width=4, size=(16, 16)), torch.rand(4, 3, 16, 16)
    for name, channels in target.tap_channels.items():
        g = Representation(target, name)
        found = lower_mi(g, build_critic(name, channels, 8), x, epsilon=0.1, steps=2)
        assert not torch.equal(found, x)
    with pytest.raises(ValueError, match="norm 'l1' is unknown; choose one of linf, l2"):
        lower_mi(g, build_critic(name, channels, 8), x, norm="l1")
