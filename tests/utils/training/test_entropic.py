"""The terms of entropic retraining against arithmetic on lists, and their controls."""

import pytest
import torch

from utils.mi.layers import (
    QUANTITIES,
    activation_entropy,
    noisy_information,
    relative_noise,
    surplus_information,
)
from utils.mi.names import LAYER_QUANTITIES
from utils.training.entropic import (
    class_term,
    logit_penalty,
    match_term,
    random_layers,
    reversed_signs,
    sign_term,
)

VALUES = {"a": 0.3, "b": -1.5, "c": 2.0}


def scalars():
    return {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in VALUES.items()
    }


def gradients(term, values):
    found = torch.autograd.grad(term, list(values.values()), allow_unused=True)
    return [None if each is None else each.item() for each in found]


def test_sign_mode():
    values = scalars()
    term = sign_term(values, {"a": 1, "b": 0, "c": -1})
    assert term.item() == pytest.approx(-0.3 + 2.0)
    assert gradients(term, values) == [-1, None, 1]  # a layer with sign 0 adds nothing


def test_no_sign_at_all_adds_0():
    assert sign_term(scalars(), {"a": 0, "b": 0}).item() == 0


def test_match_mode():
    values = scalars()
    term = match_term(values, {"a": 1.0, "c": 0.5})
    assert term.item() == pytest.approx(0.7**2 + 1.5**2)
    assert gradients(term, values) == pytest.approx([-1.4, None, 3.0])


def test_class_mode_sums_the_surplus_information():
    generator = torch.Generator().manual_seed(0)
    layers = {
        "a": torch.rand(8, 3, generator=generator, dtype=torch.float64, requires_grad=True),
        "b": 40 * torch.rand(8, 5, generator=generator, dtype=torch.float64),
    }
    y = torch.tensor([0, 1, 1, 0, 2, 0, 2, 2])
    term = class_term(layers, y)
    expected = sum(surplus_information(a, y, relative_noise(a))[0] for a in layers.values())
    assert term.item() == pytest.approx(expected.item())
    term.backward()
    assert layers["a"].grad.isfinite().all() and layers["a"].grad.ne(0).any()


def test_the_logit_penalty_is_the_mean_squared_norm():
    assert logit_penalty(torch.tensor([[3.0, 4, 0], [0, 0, 1]])).item() == pytest.approx(13)


def test_reversed_signs():
    assert reversed_signs({"a": 1, "b": 0, "c": -1}) == {"a": -1, "b": 0, "c": 1}
    values = scalars()
    signs = {"a": 1, "c": -1}
    assert sign_term(values, reversed_signs(signs)) == -sign_term(values, signs)


def test_random_layers_have_the_same_signs_elsewhere():
    names, signs = [f"l{i}" for i in range(8)], {"l0": -1, "l1": 0, "l2": 1, "l3": -1}
    drawn = {seed: random_layers(signs, names, seed) for seed in range(20)}
    for seed, moved in drawn.items():
        assert list(moved.values()) == [-1, 1, -1] and set(moved) <= set(names)
        assert moved == random_layers(signs, names, seed)
    assert len({tuple(moved) for moved in drawn.values()}) > 10


def test_the_names_of_the_command_line_are_those_of_the_functions():
    assert tuple(QUANTITIES) == LAYER_QUANTITIES
    a = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    assert QUANTITIES["activation"](a) == activation_entropy(a).mean()
    assert QUANTITIES["information"](a) == noisy_information(a, relative_noise(a))[0]
    assert all(quantity(a).shape == () for quantity in QUANTITIES.values())


@pytest.mark.parametrize("name", ["activation", "information", "unit"])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradient_steps_move_a_quantity_as_its_sign_says(name, sign):
    a = 0.2 + torch.rand(10, 6, generator=torch.Generator().manual_seed(2))
    a.requires_grad_()
    before = QUANTITIES[name](a).item()
    for _ in range(5):
        (gradient,) = torch.autograd.grad(sign_term({"l": QUANTITIES[name](a)}, {"l": sign}), a)
        a = (a - 0.01 * gradient / gradient.norm()).detach().requires_grad_()
    assert sign * (QUANTITIES[name](a).item() - before) > 0
