"""The entropic step that the bench times: it moves the weights as the script's would, and costs a natural step."""

import torch

import models
from benchmarks import retraining
from benchmarks.sizes import Sizes
from benchmarks.steps import count_flops
from utils.devices import Compute

SMALL = Sizes(arch="resnet18", width=4, batch=8, size=16, n_units=8)


def test_the_step_trains_the_term_too():
    torch.manual_seed(0)
    net = models.build("sperl-cnn", width=4)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    compute = Compute(torch.device("cpu"), "fp32")
    x, y = torch.rand(6, 3, 16, 16), torch.arange(6)
    retraining.step(net, x, y, optimizer, compute)()
    assert all(not torch.equal(weight, before[name]) for name, weight in net.named_parameters())


def test_the_arithmetic_is_that_of_a_natural_step():
    """Forward, and backward to the weights: three passes, where a PGD step takes two of them."""
    found = count_flops(SMALL, ["entropic", "pgd"])
    forward = found["pgd"] / 20  # ten steps, forward and back to the image
    assert 2.7 * forward < found["entropic"] < 3.1 * forward
