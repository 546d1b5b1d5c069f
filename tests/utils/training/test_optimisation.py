"""--optimizer: one step of Adam and of SGD by hand, and who refuses it."""

from types import SimpleNamespace

import pytest
import torch
from conftest import run_script

from utils.training.optimisation import optimisation


def one_step(name, weight_decay=0.0):
    net = torch.nn.Linear(2, 1, bias=False).double()
    net.weight.data = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    training = SimpleNamespace(optimizer=name, lr=0.1, momentum=0.9, weight_decay=weight_decay)
    weights = SimpleNamespace(awp=0, ema=0)
    optimizer, *_ = optimisation(net, SimpleNamespace(training=training, weights=weights))
    net(torch.tensor([[3.0, 0.5]], dtype=torch.float64)).sum().backward()
    optimizer.step()
    return net.weight.detach()[0].tolist()


def test_the_first_step_of_adam_has_the_length_of_the_rate_and_that_of_sgd_the_gradients():
    assert one_step("adam") == pytest.approx([0.9, -2.1], abs=1e-6)
    assert one_step("sgd") == pytest.approx([1 - 0.3, -2 - 0.05])
    assert one_step("sgd", weight_decay=1.0) == pytest.approx([1 - 0.4, -2 + 0.15])


def test_stage_2_has_its_own_optimizer(tmp_path):
    words = ["--optimizer", "adam", "--model-dir", tmp_path / "run"]
    result = run_script("train_MI_estimator.py", *words)
    assert result.status == 2 and "--optimizer adam: stage 2 trains with Adam anyhow" in result.err
