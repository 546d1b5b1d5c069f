"""Sizes against the memory: exactly where a network is built, without a change of what is drawn."""

import pytest
import torch

import models
from common import memory
from common.errors import InputError


def test_the_least_limit_counts(tmp_path, monkeypatch):
    computer = memory.total()
    assert computer > 2**27
    (tmp_path / "none").write_text("max\n")
    (tmp_path / "limit").write_text("4000\n")
    for names, expected in ((["none", "missing"], computer), (["none", "limit"], 4000)):
        monkeypatch.setattr(memory, "LIMITS", [tmp_path / name for name in names])
        assert memory.total() == expected
    assert not memory.lack(1000) and "needs" in memory.lack(1001)


@pytest.mark.parametrize("arch, width", [("sperl-cnn", 33), ("vib-mlp", 513)])
def test_a_network_is_built_where_its_weights_fit(arch, width, monkeypatch):
    torch.manual_seed(3)
    net = models.build(arch, width=width)
    numbers = sum(weight.numel() for weight in net.parameters())
    monkeypatch.setattr(memory, "total", lambda: 4 * numbers)
    torch.manual_seed(3)
    again = models.build(arch, width=width)
    pairs = zip(net.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    monkeypatch.setattr(memory, "total", lambda: 4 * numbers - 1)
    with pytest.raises(InputError, match=f"{arch}: needs .* GiB of memory"):
        models.build(arch, width=width)


@pytest.mark.parametrize("arch", ["resnet18", "vgg16", "vib-mlp"])
@pytest.mark.parametrize("width", [10**6, 10**9])
def test_terabytes_are_not_asked_for(arch, width):
    with pytest.raises(InputError, match=f"{arch}: needs"):
        models.build(arch, width=width)
