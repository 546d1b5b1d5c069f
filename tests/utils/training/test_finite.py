"""A NaN stops training in its step, with its name, and before the weights change."""

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, run_script, succeed
from torch import nn

from utils.training.finite import FiniteSteps, after_steps
from utils.training.registry import LOSSES, AdversarialLoss

ONE = torch.ones(())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_value_is_named(value):
    steps, good, bad = FiniteSteps(), [torch.ones(3), torch.ones(2, 2)], torch.tensor([1, value])
    assert steps.wrong({"loss": ONE, "mi_loss": ONE}, good, "epoch 1, batch 2") is None
    found = steps.wrong({"loss": ONE, "mi_loss": ONE * value}, [bad], "epoch 2, batch 3")
    assert found == "mi_loss is non-finite (NaN or infinite) in epoch 2, batch 3"
    found = steps.wrong({"loss": ONE}, [*good, bad], "epoch 2, batch 3")
    assert found.startswith("the gradient's norm is non-finite")


def test_means_and_weights():
    net = nn.Linear(2, 2)
    assert after_steps({"loss": 1.0}, {"target": net}, "epoch 1") is None
    assert after_steps({"loss": math.inf}, {"target": net}, "epoch 1").startswith("loss is")
    nn.init.constant_(net.bias, math.nan)
    assert after_steps({"loss": 1.0}, {"target": net}, "epoch 1").startswith("a weight of target")


class ThirdIsWrong(AdversarialLoss):
    """The cross-entropy, whose third gradient alone is no number: sqrt at 0."""

    calls = 0

    def __call__(self, logits, logits_adv, y, beta):
        type(self).calls += 1
        loss = F.cross_entropy(logits_adv, y)
        return loss + (0 * logits_adv).sum().sqrt() if self.calls == 3 else loss


def test_training_stops_in_the_step(tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "ce", ThirdIsWrong("", "ce", natural_pass=False, takes_beta=False))
    run = tmp_path / "run"
    ended = run_script("train_standard.py", *SMALL, "--epochs", 1, "--model-dir", run)
    assert ended.status == 3 and ended.err.count("\n") == 1, ended.err
    said = "the gradient's norm is non-finite (NaN or infinite) in epoch 1, batch 3; no state"
    assert said in ended.err and ThirdIsWrong.calls == 3


def test_another_number_of_threads_is_said(chain, tmp_path):
    folder = shutil.copytree(chain / "standard", tmp_path / "run")
    words = ["train_standard.py", *SMALL, "--epochs", 4, "--model-dir", folder]
    assert "warning" not in succeed(*words).out
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    torch.save(saved | {"threads": saved["threads"] + 3}, folder / "last.ckpt")
    said = succeed(*words).out
    assert f"warning: the run used {saved['threads'] + 3} CPU threads before" in said
