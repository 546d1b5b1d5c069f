"""Adversarial weight perturbation against its formula, and what it must leave as it was."""

import pytest
import torch
from torch import nn

from utils.training.weight_perturbation import WeightPerturbation

GAMMA = 0.01
X = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def setting(dtype=torch.float64, lr=0.1):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    ).to(dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr)
    return (
        net,
        optimizer,
        WeightPerturbation(net, GAMMA, optimizer),
        lambda: nn.functional.cross_entropy(net(X.to(dtype)), Y),
    )


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_moves_each_layer_up_the_loss_by_gamma_of_its_norm():
    net, _, perturbation, loss = setting()
    before, gradients = (
        state(net),
        dict(
            zip(dict(net.named_parameters()), torch.autograd.grad(loss(), list(net.parameters())))
        ),
    )
    low = loss().item()
    net.load_state_dict(before)
    perturbation.ascend(loss)
    for name, value in net.state_dict().items():
        if name in ("0.weight", "4.weight"):
            gradient = gradients[name]
            expected = before[name] + GAMMA * before[name].norm() * gradient / gradient.norm()
            assert torch.allclose(value, expected, rtol=1e-12, atol=1e-14)
        else:  # biases, batch norm, and its statistics
            assert torch.equal(value, before[name]), name
    assert loss().item() > low


def test_a_step_goes_from_the_old_weights_along_the_gradient_at_the_moved_ones():
    net, optimizer, perturbation, loss = setting()
    before = state(net)
    perturbation.ascend(loss)
    other, _, _, _ = setting()  # another network that simply has the moved weights
    other.load_state_dict(state(net))
    nn.functional.cross_entropy(other(X), Y).backward()
    loss().backward()
    optimizer.step()
    for (name, parameter), at_moved in zip(net.named_parameters(), other.parameters()):
        assert torch.allclose(
            parameter, before[name] - 0.1 * at_moved.grad, rtol=1e-12, atol=1e-15
        ), name
    assert not perturbation.unmoved
    for name in (
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ):  # those of one pass, at the moved weights
        assert torch.equal(net.state_dict()[name], other.state_dict()[name]), name
    assert net[1].num_batches_tracked == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_restores_the_bits(dtype):
    net, _, perturbation, loss = setting(dtype)
    before = state(net)
    perturbation.ascend(loss)
    assert not torch.equal(net[0].weight, before["0.weight"])
    perturbation.restore()
    perturbation.restore()  # nothing to restore is no mistake
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_step_without_ascent_is_a_plain_step():
    (net, optimizer, _, loss), (plain, _, _, plain_loss) = setting(), setting()
    loss().backward()
    optimizer.step()
    plain_loss().backward()
    torch.optim.SGD(plain.parameters(), 0.1).step()
    assert all(
        torch.equal(value, plain.state_dict()[name]) for name, value in net.state_dict().items()
    )


def test_without_a_gradient_nothing_moves():
    net, _, perturbation, _ = setting()
    before = state(net)
    perturbation.ascend(lambda: sum((0 * parameter).sum() for parameter in net.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_bfloat16_sees_the_moved_weights():
    """Autocast keeps casts of weights while its context is open; those of before the ascent must not be used after it."""
    net, _, perturbation, _ = setting(torch.float32)
    perturbation.gamma = 0.5
    x = torch.randn(4, 3, 8, 8)

    def loss():
        with torch.autocast("cpu", torch.bfloat16):
            return net(x).float().square().mean()

    perturbation.ascend(loss)
    at_moved = loss()
    fresh, _, _, _ = setting(torch.float32)
    fresh.load_state_dict(net.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert at_moved == fresh(x).float().square().mean()
    perturbation.restore()
    assert loss() < at_moved
