"""Files in the layouts of other projects give here the outputs that they give there."""

import pytest
import torch
from other_projects import MEAN, STD, DMPreActResNet, DMWideResNet, PreActResNet18, RobModel
from target_parts import images, shaken
from torch import nn

from common.errors import InputError
from models import build, load, save
from models.normalisation import NORMALISATIONS
from train_standard import Settings
from utils.settings.command_line import parse

CIFAR10 = NORMALISATIONS["cifar10"]


def normalised(x):
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def close(net, x, expected):
    """float32 rounds the logits, which are of order 1, to about 1e-6."""
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    assert net(x).std() > 1e-3


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("preactresnet18", {}),
        ("preactresnet18", {"bn": False, "width": 6, "classes": 7}),
        ("preactresnet18-fast", {"raw": True, "bn": False}),
    ],
)
def test_a_preactresnet(arch, options, tmp_path):
    theirs = shaken(PreActResNet18(**options)).eval()
    torch.save({"model_state_dict": theirs.state_dict()}, tmp_path / "m.pth")
    x = images(8, 32)
    close(load(tmp_path / "m.pth", arch), x, theirs(x))


@pytest.mark.parametrize("buffers", [True, False])
def test_a_wide_resnet_with_silu(buffers, tmp_path):
    theirs, x = shaken(DMWideResNet(buffers=buffers)).eval(), images(8, 32)
    torch.save({"model_state_dict": theirs.state_dict()}, tmp_path / "m.pth")
    net = load(tmp_path / "m.pth", "wrn28-10-silu", normalisation=None if buffers else CIFAR10)
    close(net, x, theirs(x))


def test_a_preactresnet_with_silu(tmp_path):
    theirs, x = shaken(DMPreActResNet()).eval(), images(8, 32)
    torch.save(theirs.state_dict(), tmp_path / "m.pth")
    close(load(tmp_path / "m.pth", "preactresnet18-silu", normalisation=CIFAR10), x, theirs(x))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("parallel", [True, False])
def test_mair_with_its_mean_and_std(inside, parallel, tmp_path):
    theirs, x = shaken(PreActResNet18(bn=False)).eval(), images(8, 32)
    wrapped = RobModel(nn.DataParallel(theirs) if parallel else theirs, inside)
    torch.save({"rmodel": wrapped.state_dict(), "curr_epoch": 3}, tmp_path / "m.pth")
    net = load(tmp_path / "m.pth", "preactresnet18")
    close(net, x, theirs(normalised(x)))
    assert torch.tensor([net.options["mean"], net.options["std"]]).allclose(torch.tensor(CIFAR10))
    save(net, tmp_path / "again.pth")  # the normalisation is kept
    assert torch.equal(load(tmp_path / "again.pth")(x), net(x))


@pytest.mark.parametrize(
    "prefix", ["module.model.", "model.module.1.", "_orig_mod.1.module.", "1.", "net._orig_mod."]
)
@pytest.mark.parametrize("key", ["rmodel", "ema", "model", "model_state_dict", None])
def test_keys_and_prefixes_in_any_order(prefix, key, tmp_path):
    net = shaken(build("resnet18", width=2)).eval()
    state = {prefix + name: value for name, value in net.state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "m.pth")
    loaded, x = load(tmp_path / "m.pth", "resnet18"), images()
    assert torch.equal(loaded(x), net(x)) and "mean" not in loaded.options


def test_the_network_comes_before_averages_of_its_weights(tmp_path):
    net, other = (shaken(build("resnet18", width=2)).eval() for _ in range(2))
    content = {"ema": other.state_dict(), "model": {"state_dict": net.state_dict()}}
    torch.save(content, tmp_path / "m.pth")
    x = images()
    assert torch.equal(load(tmp_path / "m.pth", "resnet18")(x), net(x))


def test_a_normalisation_that_the_file_contradicts(tmp_path):
    torch.save(DMWideResNet().state_dict(), tmp_path / "m.pth")
    load(tmp_path / "m.pth", "wrn28-10-silu", normalisation=CIFAR10)
    with pytest.raises(InputError, match=r"m\.pth: the file says its own normalisation \(mean"):
        load(tmp_path / "m.pth", "wrn28-10-silu", normalisation=NORMALISATIONS["imagenet"])
    save(build("resnet18", width=2), tmp_path / "ours.pth", norm="linf")
    with pytest.raises(InputError, match="trained here on"):
        load(tmp_path / "ours.pth", normalisation=CIFAR10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5), "std": 1.0}, "one for each of 3 channels"),
        ({"mean": 0.5, "std": (0.2, 0.0, 0.2)}, "above 0"),
        ({"mean": "black", "std": 1.0}, "give one number"),
        ({"mean": float("nan"), "std": 1.0}, "give one number"),
    ],
)
def test_a_normalisation_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        build("resnet18", width=2, **options)


def test_normalisation_is_of_the_images_and_the_gradient_goes_through_it():
    plain = shaken(build("resnet18", width=2)).eval()
    net = build("resnet18", width=2, mean=MEAN, std=STD).eval()
    net.load_state_dict(plain.state_dict())
    x = images().requires_grad_(True)
    torch.testing.assert_close(net(x), plain(normalised(x)))
    own, other = (
        torch.autograd.grad(value.sum(), x)[0]
        for value in (net(x, "layer4")[1], plain(normalised(x), "layer4")[1])
    )
    torch.testing.assert_close(own, other)
    net.normalise(*NORMALISATIONS["none"])
    assert torch.equal(net(x), plain(x)) and net.options == plain.options


def test_wide_resnets_by_their_other_spelling():
    for words, name in (("--arch wrn-70-16", "wrn70-16"), ("--arch=wrn-34-10", "wrn34-10")):
        assert parse(Settings, "", words.split()).network.arch == name


def test_a_file_that_fits_none_is_told_the_nearest_and_what_differs(tmp_path):
    path, state = tmp_path / "m.pth", build("resnet18", width=2).state_dict()
    state["fc.weight"] = state.pop("linear.weight")
    torch.save(state, path)
    for arch in (None, "resnet18"):
        with pytest.raises(InputError) as raised:
            load(path, arch)
        assert "nearest: resnet18 (fc.weight is unknown, linear.weight is missing), " in str(
            raised.value
        )
    torch.save(PreActResNet18().state_dict(), path)
    with pytest.raises(InputError, match="it fits preactresnet18 and preactresnet18-fast"):
        load(path, "wrn28-10")
