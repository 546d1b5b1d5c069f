"""Attacks on random networks, and the grey image."""

import pytest
import torch

from utils.attacks import attack, registry
from utils.attacks.iterative import pgd


class Coin(torch.nn.Module):
    """A linear classifier of two of five classes whose logits carry noise of deviation `spread`."""

    def __init__(self, spread):
        super().__init__()
        self.spread, self.queries = spread, 0
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(12, 1).repeat(1, 5))
        self.sign = torch.tensor([1.0, -1, 0, 0, 0])
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        self.queries += 1
        logits = (x.flatten(1) - 0.5) @ self.weight * self.sign - (self.sign == 0) * 5.0
        return logits + self.spread * torch.randn(logits.shape, generator=self.generator)


def images(n=40):
    torch.manual_seed(0)
    return torch.rand(n, 3, 2, 2), torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize("epsilon", [0.2, 0.5, 0.7])
def test_grey_moves_each_pixel_towards_a_half(epsilon):
    x, y = images()
    x_adv = attack("grey", Coin(0), x, y, "linf", epsilon)
    assert torch.allclose(x_adv, torch.clamp(torch.tensor(0.5), x - epsilon, x + epsilon))
    assert (epsilon >= 0.5) == bool((x_adv - 0.5).abs().max() < 1e-6)


def test_grey_exists_for_linf_alone():
    with pytest.raises(ValueError, match="exists for --norm linf, not for l2"):
        registry.parse("grey", "l2")


def test_restarts_are_not_chosen_by_lucky_judgements():
    """By loss, every start attacks every image; by judgements, those that one erred on are left out."""
    x, y = images(200)
    net = Coin(3.0)  # a judgement is wrong by luck half the time
    seen = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    x_adv = pgd(net, x, y, "linf", 0.05, steps=2, restarts=4, by_loss=True)
    assert set(seen) == {200} and (x_adv - x).abs().max() <= 0.05 + 1e-6
    seen.clear()
    pgd(net, x, y, "linf", 0.05, steps=2, restarts=4)
    assert min(seen) < 200


def test_the_version_for_random_networks_averages_over_its_draws():
    x, y = images(8)
    net = Coin(0.5)
    x_adv = attack("aa-rand", net, x, y, "linf", 0.3, draws=3)
    assert (x_adv - x).abs().max() <= 0.3 + 1e-5
    exact = x - 0.3 * net.weight[:, 0].sign().reshape(3, 2, 2)
    quiet = Coin(0)

    def margin(x):
        return quiet(x)[:, 0] - quiet(x)[:, 1]

    with torch.no_grad():
        moved = margin(x) - margin(x_adv)
        most = margin(x) - margin(exact.clamp(0, 1))
        strong = margin(x) > 0.5  # others are lost without an attack, by noise
    assert (moved[strong] > 0.5 * most[strong]).all()
    one = Coin(0.5)
    attack("aa-rand", one, x, y, "linf", 0.3, draws=1)
    assert net.queries > 1.5 * one.queries
