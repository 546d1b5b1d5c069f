"""The norm of a loss's gradient in the target's outputs, against closed forms."""

import torch

from utils.training.collapse import gradient_norm


def test_the_norm_covers_both_outputs():
    natural = torch.tensor([[1.0, 2.0]], requires_grad=True)
    adversarial = torch.tensor([[3.0, 0.0]], requires_grad=True)
    loss = natural.square().sum() + 2 * adversarial.square().sum()  # gradients (2, 4) and (12, 0)
    expected = torch.tensor(2.0**2 + 4**2 + 12**2).sqrt()
    torch.testing.assert_close(gradient_norm(loss, (natural, adversarial)), expected)
    torch.testing.assert_close(gradient_norm(loss, (None, adversarial)), torch.tensor(12.0))


def test_a_loss_that_uses_none_of_the_outputs_has_norm_0():
    outputs = torch.ones(2, 3, requires_grad=True)
    weight = torch.tensor(2.0, requires_grad=True)
    assert gradient_norm(weight.square(), (None, outputs)) == 0
    assert gradient_norm(torch.tensor(2.0), (None, outputs)) == 0
