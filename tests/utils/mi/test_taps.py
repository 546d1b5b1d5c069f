"""Every hidden layer of every architecture and of a user's own network, against hooks and by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from common.errors import InputError
from utils.mi.taps import averaged, select, tapped


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(n=3, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def hooks_of(model):
    return [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]


# convolutions and dense hidden layers, each followed by a nonlinearity
COUNTS = {"resnet18": 17, "resnet34": 33, "resnet50": 49, "wrn28-10": 25, "wrn34-10": 31}
COUNTS |= {"vgg16": 13, "vgg19": 16, "sperl-cnn": 9}
COUNTS |= dict.fromkeys(("preactresnet18", "preactresnet18-fast", "preactresnet18-silu"), 17)
COUNTS |= {"wrn28-10-silu": 25, "wrn34-20": 31, "wrn34-20-silu": 31}
COUNTS |= {"wrn70-16": 67, "wrn70-16-silu": 67}
COUNTS |= {"baseline-h": 5, "baseline-h-linear": 4, "allcnn": 8}
DRAWS = ["vib-mlp", "vib-cnn"]  # predict from several draws of a code


@pytest.mark.parametrize("arch", [name for name in models.ARCHITECTURES if name not in DRAWS])
def test_every_hidden_layer_of_every_architecture(arch):
    net = models.build(arch, width=2).eval()
    found = tapped(net, images(size=32))
    assert len(found.layers) == COUNTS[arch]
    least = -0.279 if "silu" in arch else 0  # the minimum of SiLU
    layers = found.layers.values()
    assert all(a.shape[0] == 3 and a.ndim == 2 and (a >= least).all() for a in layers)
    assert torch.equal(found.output, net(images(size=32)))
    assert not hooks_of(net)


@pytest.mark.parametrize("arch", DRAWS)
def test_a_network_that_predicts_from_draws_is_refused(arch):
    net = models.build(arch, width=2).eval()
    with pytest.raises(InputError, match="rows for 3 images; give a network without draws"):
        tapped(net, images(size=32))


def test_the_layers_of_a_resnet_are_its_relus():
    net = models.build("resnet18", width=2).eval()
    seen = {}
    handles = [
        net.bn1.register_forward_hook(lambda m, i, out: seen.update(net=F.relu(out))),
        net.layer1[0].bn1.register_forward_hook(
            lambda m, i, out: seen.update({"layer1.0": F.relu(out)})
        ),
        net.layer1[0].register_forward_hook(lambda m, i, out: seen.update({"layer1.0#2": out})),
        net.layer4[1].register_forward_hook(lambda m, i, out: seen.update({"layer4.1#2": out})),
    ]
    net(images())
    for handle in handles:
        handle.remove()
    found = tapped(net, images())
    for name, maps in seen.items():
        torch.testing.assert_close(found.layers[name], maps.mean((2, 3)))
    assert select(found, None) == ["net", *(f"layer{n}.1#2" for n in (1, 2, 3, 4))]
    assert found.dense == []


def test_the_layers_of_sperl_cnn_have_the_published_sizes():
    net = models.build("sperl-cnn").eval()
    found = tapped(net, images(size=32))
    sizes = [a.shape[1] for a in found.layers.values()]
    assert sizes == [32, 32, 64, 64, 512, 256, 128, 128, 84]
    assert net.dense[0].in_features == 4096
    assert select(found, None) == found.dense == [f"dense.{i}" for i in (1, 3, 5, 7, 9)]
    assert select(found, "all") == list(found.layers)
    assert select(found, "stages") == ["conv1.3", "conv2.3", "dense.9"]
    assert select(found, "dense.1,conv1.1") == ["conv1.1", "dense.1"]


class Own(nn.Module):
    """A network of a user: a shared module, a call, a method in place, tokens, two outputs of one name."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        a = self.relu(self.first(x.flatten(1)[:, :12]))
        b = self.relu(self.second(a) - 0.1)
        tokens = torch.tanh(b[:, None] * torch.ones(1, 7, 1))
        return self.third(F.gelu(tokens.mean(1)))


def test_a_network_of_a_user():
    net, x = Own(), images()
    found = tapped(net, x)
    assert list(found.layers) == ["relu", "relu#2", "net", "net#2"]
    assert found.dense == ["relu", "relu#2", "net#2"]
    a = (x.flatten(1)[:, :12] @ net.first.weight.T + net.first.bias).clamp_min(0)
    b = (a @ net.second.weight.T + net.second.bias - 0.1).clamp_min(0)
    for name, expected in {
        "relu": a,
        "relu#2": b,
        "net": b.tanh(),
        "net#2": F.gelu(b.tanh()),
    }.items():
        torch.testing.assert_close(found.layers[name], expected)
    (gradient,) = torch.autograd.grad(found.layers["relu"].sum(), net.first.weight)
    assert gradient.ne(0).any()


def test_maps_and_tokens_are_averaged():
    values = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    torch.testing.assert_close(averaged(values), values.mean((2, 3)))
    torch.testing.assert_close(averaged(values[..., 0]), values[..., 0].mean(1))
    assert averaged(values[:, :, 0, 0]).shape == (2, 3)


def test_no_hook_stays_where_the_network_fails():
    net = Own()
    with pytest.raises(RuntimeError):
        tapped(net, images()[:, :, :1, :1])
    assert not hooks_of(net)
    with pytest.raises(InputError, match="no hidden layer was seen"):
        tapped(nn.Linear(4, 2), torch.rand(1, 4))


@pytest.mark.parametrize(
    "layers, message",
    [("dense", "no dense hidden layer"), ("stage9", "'stage9' is no hidden layer"), ("", "''")],
)
def test_unknown_layers_are_refused(layers, message):
    found = tapped(models.build("resnet18", width=1).eval(), images())
    with pytest.raises(InputError, match=f"--layers.*{message}"):
        select(found, layers)
