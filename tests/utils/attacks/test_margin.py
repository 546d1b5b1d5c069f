"""PGD on the margin: its gradient by hand, and logits so large that cross-entropy has no gradient."""

import pytest
import torch

from utils.attacks.projected_gradient import _loss
from utils.attacks.registry import attack, settings_of


def test_the_margin_and_its_gradient_by_hand():
    logits = torch.tensor([[3.0, 1, 2], [0.5, 4, -1], [1, 1, 1]], requires_grad=True)
    loss = _loss("margin", logits, torch.tensor([0, 2, 1]), None)
    assert loss.item() == (2 - 3) + (4 + 1) + (1 - 1)
    loss.backward()
    assert logits.grad[:2].tolist() == [[-1, 0, 1], [0, 1, -1]]
    assert logits.grad[2, 1] == -1 and logits.grad.sum(1).eq(0).all()


class Scaled(torch.nn.Module):
    """Two classes at factor * (mean pixel - 1/2), of opposite signs."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        logit = self.factor * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([logit, -logit], 1)


@pytest.mark.parametrize("norm, epsilon", [("linf", 0.2), ("l2", 0.2 * (3 * 8 * 8) ** 0.5)])
def test_steps_do_not_depend_on_the_scale_of_the_logits(norm, epsilon):
    x, y = torch.full((2, 3, 8, 8), 0.6), torch.zeros(2, dtype=torch.long)
    found = {
        (name, factor): attack(name, Scaled(factor), x, y, norm, epsilon)
        for name in ("pgd-10", "pgd-margin-10")
        for factor in (1, 1e6)
    }
    torch.testing.assert_close(found["pgd-margin-10", 1], found["pgd-margin-10", 1e6])
    fooled = {key: bool((Scaled(1)(x_adv).argmax(1) != y).all()) for key, x_adv in found.items()}
    assert fooled == {
        ("pgd-10", 1): True,
        ("pgd-10", 1e6): False,  # the softmax is exactly 0 and 1
        ("pgd-margin-10", 1): True,
        ("pgd-margin-10", 1e6): True,
    }


def test_the_settings_of_pgd_are_what_they_were():
    assert "loss" not in settings_of("pgd-40", "linf", 0.1)
    assert settings_of("pgd-margin-100x5", "linf", 0.1) == {
        **{"norm": "linf", "epsilon": 0.1, "steps": 100, "step_size": 0.025, "restarts": 5},
    }
