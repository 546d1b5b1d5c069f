"""A target's way through a file, and the published files that load."""

from pathlib import Path

import numpy as np
import pytest
import torch
from target_parts import POOLED, SMALL, images, shaken

from common.errors import InputError
from models import build, load, save


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def trained(arch, **options):
    """A narrow network whose every entry, batch counter included, differs from a fresh one's."""
    net = shaken(build(arch, **{"width": 4, "num_classes": 7} | options))
    net.train()(images(4))
    return net


def assert_same(net, other):
    state, loaded = net.state_dict(), other.state_dict()
    assert list(state) == list(loaded)
    assert all(torch.equal(state[name], loaded[name]) for name in state)
    assert not other.training
    x = images()
    assert torch.equal(net.eval()(x), other(x))


@pytest.mark.parametrize("arch", POOLED)
def test_round_trip_is_exact(arch, tmp_path):
    net = trained(arch)
    about = {
        "norm": "linf",
        "epsilon": 8 / 255,
        "epochs": [75, 90],
        "best": {"pgd": None, "kept": True},
    }
    save(net, tmp_path / "m.pth", **about)
    for asked in (None, arch):
        loaded = load(tmp_path / "m.pth", arch=asked)
        assert (loaded.arch, loaded.options, loaded.about) == (
            arch,
            net.options,
            about,
        )
        assert loaded.options.items() >= {"num_classes": 7, "width": 4}.items()
        assert loaded.tap_channels == net.tap_channels
        assert_same(net, loaded)
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    assert list(content) == ["arch", "options", "state_dict", "about"]


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"net": state, "acc": 95.5, "epoch": 3},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    ],
    ids=[
        "plain",
        "state_dict",
        "net",
        "module",
        "state_dict-module",
        "compiled",
        "parallel-compiled",
    ],
)
@pytest.mark.parametrize("arch", SMALL)
def test_published_files(arch, wrap, tmp_path):
    net = trained(arch)
    torch.save(wrap(net.state_dict()), tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth", arch=arch)
    assert (loaded.arch, loaded.options, loaded.about) == (arch, net.options, {})
    assert_same(net, loaded)


def test_unused_group_of_trades_is_ignored(tmp_path):
    net = trained("wrn34-10")
    state = net.state_dict()
    unused = {
        f"sub_{name}": torch.full_like(value, 9)
        for name, value in state.items()
        if name.startswith("block1.")
    }
    assert len(unused) > 50
    torch.save(state | unused, tmp_path / "m.pth")
    assert_same(net, load(tmp_path / "m.pth", arch="wrn34-10"))


def test_vgg_classifier_by_its_other_name(tmp_path):
    net = trained("vgg19")
    state = {
        name.replace("linear.", "classifier."): value for name, value in net.state_dict().items()
    }
    assert "classifier.bias" in state
    torch.save(state, tmp_path / "m.pth")
    assert_same(net, load(tmp_path / "m.pth", arch="vgg19"))


def test_a_file_that_names_its_network_only(tmp_path):
    net = trained("resnet18")
    torch.save({"arch": "resnet18", "epoch": 3, "state_dict": net.state_dict()}, tmp_path / "m.pth")
    assert_same(net, load(tmp_path / "m.pth"))


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    save(build("wrn28-10", width=2), tmp_path / "m.pth")
    before = torch.get_rng_state()
    load(tmp_path / "m.pth")
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_replaces_the_file(tmp_path):
    first, second = trained("resnet18"), trained("vgg16", width=2)
    save(first, tmp_path / "m.pth")
    save(second, tmp_path / "m.pth")
    assert_same(second, load(tmp_path / "m.pth"))
    assert [path.name for path in tmp_path.iterdir()] == ["m.pth"]


@pytest.mark.parametrize(
    "value", [np.float64(0.5), Path("x"), torch.ones(1), [1, np.int64(2)], {"a": {1, 2}}]
)
def test_save_refuses_what_could_not_be_read_back(value, tmp_path):
    with pytest.raises(ValueError, match=r"about epsilon: .* is not a plain value"):
        save(build("resnet18", width=2), tmp_path / "m.pth", epsilon=value)
    assert not list(tmp_path.iterdir())


def refusal(path, **arguments):
    with pytest.raises(InputError) as caught:
        load(path, **arguments)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_another_network_than_asked(tmp_path):
    path = tmp_path / "m.pth"
    save(build("resnet18", width=2), path)
    assert (
        refusal(path, arch="vgg16")
        == "holds a resnet18, not a vgg16; give --arch resnet18 or another file"
    )
    plain = build("resnet18", width=2).state_dict()
    torch.save(plain, path)
    assert "give --arch, one of: resnet18, resnet34" in refusal(path)
    assert refusal(path, arch="resnet20").startswith(
        "unknown architecture 'resnet20'; choose from: resnet18"
    )
    for asked, name in [
        ("vgg16", "features.0.weight"),
        ("wrn28-10", "block1.layer.0.bn1.weight"),
        ("resnet34", "layer1.2.conv1.weight"),
        ("resnet50", "layer1.0.conv3.weight"),
    ]:
        assert refusal(path, arch=asked).startswith(
            f"is not a checkpoint of {asked}: {name} is missing; "
        )
    torch.save(build("resnet34", width=2).state_dict(), path)
    assert "resnet18: layer1.2.conv1.weight is unknown; " in refusal(path, arch="resnet18")
    torch.save(plain | {"layer2.0.conv1.weight": torch.ones(4, 2, 1, 1)}, path)
    assert "layer2.0.conv1.weight has shape (4, 2, 1, 1), not (4, 2, 3, 3); " in refusal(
        path, arch="resnet18"
    )


def test_a_file_whose_own_words_do_not_hold(tmp_path):
    path, net = tmp_path / "m.pth", build("resnet18", width=2)
    content = {
        "arch": "resnet18",
        "options": net.options,
        "state_dict": net.state_dict(),
        "about": {},
    }
    torch.save(content | {"arch": "resnet20"}, path)
    assert refusal(path).startswith("unknown architecture 'resnet20'; choose from: resnet18")
    torch.save(content | {"options": {"num_classes": 10, "width": 3}}, path)
    assert "conv1.weight has shape (2, 3, 3, 3), not (3, 3, 3, 3)" in refusal(path)
    torch.save(content | {"options": {"num_classes": 10, "depth": 3}}, path)
    assert (
        refusal(path)
        == "resnet18 has no option 'depth'; choose from: num_classes, width, size, mean, std"
    )
    torch.save(content | {"options": {"num_classes": 0, "width": 2}}, path)
    assert refusal(path).startswith("num_classes of resnet18 is 0; choose")


def test_a_truncated_file(tmp_path):
    path = tmp_path / "m.pth"
    save(build("resnet18", width=2), path)
    whole = path.read_bytes()
    for part in (0.01, 0.5, 0.999):
        path.write_bytes(whole[: int(part * len(whole))])
        assert refusal(path, arch="resnet18").startswith("is truncated")
