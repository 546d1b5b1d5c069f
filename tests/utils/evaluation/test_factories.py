"""Networks from elsewhere: a user's factory function, a surrogate's file, and the hash of a network."""

import torch
from conftest import run_script, succeed
from torch import nn

import models
from utils.evaluation.factories import state_hash


def test_a_factory(chain, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import models, torch\ndef network():\n    return models.build('resnet18', width=8)\n"
        "def nothing():\n    return 3\n"
        "def wants(width):\n    return 3\n"
        "def fails():\n    raise KeyError('w')\n"
        "def detached():\n    return torch.nn.Sequential(models.build('resnet18', width=8), Detached())\n"
        "class Detached(torch.nn.Module):\n    def forward(self, x):\n        return x.detach()\n"
        "def two():\n    return models.build('resnet18', num_classes=2, width=8)\n"
        "class Pair(torch.nn.Module):\n    def forward(self, x):\n        return x, x\n"
        "class Breaks(torch.nn.Module):\n    def forward(self, x):\n        return x @ x[:1, :1, :1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = succeed(
        "test_comparison.py",
        "--factory",
        "mine:network",
        "--dataset",
        "digits",
        "--limit-test",
        20,
        "--attacks",
        "none,fgsm",
    )
    assert "mine:network" in result.out
    result = succeed(
        "test_comparison.py",
        "--factory",
        "mine:detached",
        "--dataset",
        "digits",
        "--limit-test",
        20,
        "--attacks",
        "none",
    )
    assert "exactly zero for 20 of" in result.out
    (tmp_path / "broken.py").write_text("def network(:\n")
    for name in (
        "mine:nothing",
        "mine:absent",
        "nowhere:network",
        "mine",
        "mine:wants",
        "mine:fails",
        "mine:two",
        "mine:Pair",
        "mine:Breaks",
        "broken:network",
    ):
        refused = run_script("test_comparison.py", "--factory", name, "--dataset", "digits")
        assert (
            refused.status == 2
            and f"--factory {name}" in refused.err
            and refused.err.count("\n") == 1
        )


def test_a_factory_that_returns_other_weights_is_another_network(tmp_path, monkeypatch):
    (tmp_path / "changing.py").write_text(
        "import models, torch\nseed = 0\ndef network():\n    torch.manual_seed(seed)\n"
        "    return models.build('resnet18', width=8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "test_comparison.py",
        "--factory",
        "changing:network",
        "--dataset",
        "digits",
        "--limit-test",
        10,
        "--output",
        tmp_path / "r.json",
    ]
    succeed(*words, "--attacks", "none")
    succeed(*words, "--attacks", "none,fgsm")
    import changing

    changing.seed = 1
    refused = run_script(*words, "--attacks", "none,fgsm")
    assert refused.status == 2 and "model_hash" in refused.err


def test_a_surrogate_without_architecture_is_told_its_own_option(chain, tmp_path):
    torch.save(models.build("resnet18", width=8).state_dict(), tmp_path / "plain.pth")
    refused = run_script(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--surrogate",
        tmp_path / "plain.pth",
        "--output",
        tmp_path / "r.json",
    )
    assert refused.status == 2 and "--surrogate-arch" in refused.err


def test_the_hash_of_a_network_is_that_of_its_values():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    assert state_hash(one) == state_hash(other)
    flat = torch.cat([one.weight.detach().flatten(), one.bias.detach()])
    other.weight.data, other.bias.data = flat[:6].view(2, 3), flat[6:]  # views of one tensor
    assert state_hash(one) == state_hash(other)
    other.bias.data += 1
    assert state_hash(one) != state_hash(other)
