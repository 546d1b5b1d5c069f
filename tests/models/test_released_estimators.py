"""Estimator files as the paper's released code writes them, from its classes written afresh."""

import pytest
import torch
from conftest import SMALL, succeed
from torch import nn

from models.mi import load_net
from utils.mi.names import estimator_files

UNITS, CLASSES = 16, 10


class Permute(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(*self.axes)


class Global(nn.Module):
    """Two 1x1 convolutions and a shortcut; `deep` precedes them in the local network."""

    def __init__(self, n_input, n_units, deep=False):
        super().__init__()
        if deep:
            sizes = [(3, 64), (64, 128)]
            self.layer0, self.layer1 = (
                nn.Sequential(nn.Conv2d(*s, 4, 2, 1, bias=False), nn.BatchNorm2d(s[1]), nn.ReLU())
                for s in sizes
            )
            self.layers = nn.ModuleList([self.layer0, self.layer1])
        self.block_nonlinear = nn.Sequential(
            nn.Conv2d(n_input, n_units, 1, bias=False),
            nn.BatchNorm2d(n_units),
            nn.ReLU(),
            nn.Conv2d(n_units, n_units, 1),
        )
        self.block_ln = nn.Sequential(
            Permute(0, 2, 3, 1), nn.LayerNorm(n_units), Permute(0, 3, 1, 2)
        )
        self.linear_shortcut = nn.Conv2d(n_input, n_units, 1, bias=False)

    def forward(self, x):
        for layer in getattr(self, "layers", ()):
            x = layer(x)
        return self.block_ln(self.block_nonlinear(x) + self.linear_shortcut(x))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_four_files_of_a_norm(norm, tmp_path):
    torch.manual_seed(0)
    folder, x, logits = (
        tmp_path / f"beta_final_{norm}",
        torch.rand(4, 3, 16, 16),
        torch.randn(4, 10),
    )
    folder.mkdir()
    for option, path in estimator_files(folder).items():
        net = Global(128, UNITS, deep=True) if "local" in option else Global(CLASSES, UNITS)
        net.train()(x if "local" in option else logits[:, :, None, None])
        torch.save(net.eval().state_dict(), path)
        given = x if "local" in option else logits
        expected = net(x).flatten(2) if "local" in option else net(logits[:, :, None, None])
        torch.testing.assert_close(load_net(path)(given), expected.flatten(2), rtol=1e-4, atol=1e-5)
    words = [*SMALL, "--norm", norm, "--epochs", 1, "--warmup-epochs", 0, "--limit-train", 100]
    ended = succeed(
        "train_MIAT.py", *words, "--estimator-dir", folder, "--model-dir", tmp_path / "namid"
    )
    assert f"does not say how it was trained; assumed to fit {norm}" in ended.out
