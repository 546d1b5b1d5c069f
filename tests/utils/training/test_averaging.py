"""The moving average of a network: the recursion by hand, batch-norm statistics of its own, nothing shared with the network."""

import pytest
import torch
from torch import nn

from utils.training.averaging import Average, decay_after


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)
    ).double()


def train(net, optimizer, steps, seed=1):
    """Steps on random images; the state dict after each."""
    torch.manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(5, 3, 8, 8, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
        yield {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_is_the_recursion(decay):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    average, expected = (
        Average(net, decay, optimizer),
        {name: value.clone() for name, value in net.state_dict().items()},
    )
    for t, state in enumerate(train(net, optimizer, 6)):
        d = min(decay, (1 + t) / (10 + t))
        expected = {name: d * expected[name] + (1 - d) * state[name] for name in state}
        for name, value in average.module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                assert value == t + 1 and value.dtype == torch.int64
            else:
                assert torch.allclose(value, expected[name], rtol=1e-12, atol=0), (t, name)
    assert int(average.steps) == 6
    assert not torch.equal(average.module[1].running_mean, net[1].running_mean)


def test_the_decay_grows_to_the_one_asked_for():
    decays = [decay_after(t, 0.999) for t in (0, 1, 10, 100, 8980, 9000, 10**6)]
    assert (
        decays == sorted(decays)
        and decays[:3] == [0.1, 2 / 11, 11 / 20]
        and decays[-3] < 0.999 == decays[-1]
    )
    assert decay_after(0, 0.05) == 0.05


def test_shares_nothing_with_the_network():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    average = Average(net, 0.9, optimizer)
    list(train(net, optimizer, 3))
    for one, other in ((net, average.module), (average.module, net)):
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with torch.no_grad():
            for value in [*one.parameters(), *one.buffers()]:
                value.add_(1)
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_a_copy_from_its_state_goes_on_alike():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    average = Average(net, 0.999, optimizer)
    list(train(net, optimizer, 4))
    again = network()
    again_optimizer = torch.optim.SGD(again.parameters(), 0.1)
    again_average = Average(again, 0.999, again_optimizer)
    again.load_state_dict(net.state_dict())
    again_average.load_state_dict(average.state_dict())
    list(train(net, optimizer, 3, seed=2))
    list(train(again, again_optimizer, 3, seed=2))
    assert all(
        torch.equal(value, again_average.state_dict()[name])
        for name, value in average.state_dict().items()
    )
