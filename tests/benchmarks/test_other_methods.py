"""The steps of the other methods that the bench times: what they move, and what they cost."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import models
from benchmarks import bottleneck, measure, retraining
from benchmarks.sizes import Sizes
from benchmarks.steps import count_flops
from utils.devices import Compute
from utils.training.noisy import Noisy, draw

SMALL = Sizes(arch="resnet18", width=4, batch=8, size=16, n_units=8)
COMPUTE = Compute(torch.device("cpu"), "fp32")


def test_the_entropic_step_trains_the_term_too():
    torch.manual_seed(0)
    net = models.build("sperl-cnn", width=4)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.rand(6, 3, 16, 16), torch.arange(6)
    retraining.step(net, x, y, optimizer, COMPUTE)()
    assert all(not torch.equal(weight, before[name]) for name, weight in net.named_parameters())


def test_an_entropic_step_costs_a_natural_step():
    """Forward, and backward to the weights: three passes, where a PGD step takes two of them."""
    found = count_flops(SMALL, ["entropic", "pgd"])
    forward = found["pgd"] / 20  # ten steps, forward and back to the image
    assert 2.7 * forward < found["entropic"] < 3.1 * forward


def test_a_vib_step_runs_the_network_once_on_each_distinct_input():
    """FGSM: forward and back to the image, two passes. The loss on both kinds of images: three
    passes each."""
    with FakeTensorMode():
        net = bottleneck.network(SMALL, COMPUTE, channels_last=False)
        x, y = torch.rand(8, 3, 16, 16), torch.arange(8)
        noisy = Noisy(net, draw(net, x, 1, None))
        with torch.no_grad():
            forward = measure.flops(lambda: noisy(x))
        step = measure.flops(bottleneck.step(net, x, y, COMPUTE))
    # The gradient in the image of the first layer is taken by FGSM alone.
    assert step == pytest.approx(8 * forward, rel=0.1) and step < 8 * forward


def test_a_vib_step_leaves_gradients_everywhere():
    torch.manual_seed(0)
    net = bottleneck.network(replace(SMALL, width=16), COMPUTE, channels_last=True)
    bottleneck.step(net, torch.rand(8, 3, 16, 16), torch.arange(8), COMPUTE)()
    assert all(weight.grad.abs().sum() > 0 for weight in net.parameters())
