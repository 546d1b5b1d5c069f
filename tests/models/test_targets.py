"""Targets: published names and counts, blocks against hand-written arithmetic, taps, and the way through a file."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from common.errors import InputError
from models import ARCHITECTURES, build, load, save
from models.resnet import BasicBlock, Bottleneck, SubsampledConv1x1
from models.wideresnet import Unit

ARCHS = list(ARCHITECTURES)
ROOT = Path(__file__).parent.parent.parent
SMALL = ["resnet18", "resnet50", "wrn28-10", "vgg16"]  # every class and both kinds of ResNet block


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shaken(net):
    """The network with batch-norm statistics and weights that are not 0 and 1, so that a forgotten one would show."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias, std=0.2)
    return net


def full_size(arch, **options):
    with torch.device("meta"):  # shapes alone: no memory, no time
        return build(arch, **options)


def images(n=2, size=16, **options):
    return torch.rand(n, 3, size, size, **options)


# --- names, counts, shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch, count",
    [
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("wrn28-10", 36_479_194),
        ("wrn34-10", 46_160_474),
        ("vgg16", 14_728_266),
        ("vgg19", 20_040_522),
    ],
)
def test_parameter_counts_are_the_published_ones(arch, count):
    assert sum(p.numel() for p in full_size(arch).parameters()) == count


def of_norm(name):
    return {
        f"{name}.{entry}"
        for entry in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_resnet_names():
    expected = {"conv1.weight", "linear.weight", "linear.bias"} | of_norm("bn1")
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            expected |= (
                {f"{at}.conv1.weight", f"{at}.conv2.weight"}
                | of_norm(f"{at}.bn1")
                | of_norm(f"{at}.bn2")
            )
        if stage > 1:
            expected |= {f"layer{stage}.0.shortcut.0.weight"} | of_norm(
                f"layer{stage}.0.shortcut.1"
            )
    assert set(full_size("resnet18").state_dict()) == expected


def test_wideresnet_names():
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | of_norm("bn1")
    for group in (1, 2, 3):
        for unit in range(5):
            at = f"block{group}.layer.{unit}"
            expected |= (
                {f"{at}.conv1.weight", f"{at}.conv2.weight"}
                | of_norm(f"{at}.bn1")
                | of_norm(f"{at}.bn2")
            )
        expected |= {f"block{group}.layer.0.convShortcut.weight"}
    assert set(full_size("wrn34-10").state_dict()) == expected


VGG_CONVOLUTIONS = {  # indices into `features`, stage by stage
    "vgg16": [(0, 3), (7, 10), (14, 17, 20), (24, 27, 30), (34, 37, 40)],
    "vgg19": [(0, 3), (7, 10), (14, 17, 20, 23), (27, 30, 33, 36), (40, 43, 46, 49)],
}


@pytest.mark.parametrize("arch", VGG_CONVOLUTIONS)
def test_vgg_names(arch):
    expected = {"linear.weight", "linear.bias"}
    for i in (i for stage in VGG_CONVOLUTIONS[arch] for i in stage):
        expected |= {f"features.{i}.weight", f"features.{i}.bias"} | of_norm(f"features.{i + 1}")
    assert set(full_size(arch).state_dict()) == expected


@pytest.mark.parametrize(
    "arch, layer3, layer4",
    [
        ("resnet18", (256, 8), (512, 4)),
        ("resnet50", (1024, 8), (2048, 4)),
        ("wrn34-10", (320, 16), (640, 8)),
        ("vgg16", (256, 8), (512, 4)),
        ("vgg19", (256, 8), (512, 4)),
    ],
)
def test_full_size_taps_on_32x32(arch, layer3, layer4):
    net = full_size(arch, num_classes=100)
    x = torch.empty(2, 3, 32, 32, device="meta")
    for tap, (channels, size) in {"layer3": layer3, "layer4": layer4}.items():
        logits, tapped = net(x, tap=tap)
        assert logits.shape == (2, 100)
        assert tapped.shape == (2, channels, size, size)
        assert net.tap_channels[tap] == channels
    assert net.tap_channels["logits"] == 100


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_any_image_size(arch, size):
    net = full_size(arch, num_classes=7, width=8)
    for train in (True, False):
        logits, layer4 = net.train(train)(
            torch.empty(3, 3, size, size, device="meta"), tap="layer4"
        )
        assert logits.shape == (3, 7)
        assert layer4.shape[:2] == (3, net.tap_channels["layer4"])


@pytest.mark.parametrize("arch, own", [("resnet34", 64), ("wrn28-10", 160), ("vgg19", 64)])
def test_width_scales_all_stages_but_the_wide_stem(arch, own):
    assert (
        full_size(arch, width=None).options
        == {"num_classes": 10, "width": own}
        == full_size(arch).options
    )
    narrow = full_size(arch, width=own // 4)
    assert narrow.options == {"num_classes": 10, "width": own // 4}
    for name, tensor in full_size(arch).state_dict().items():
        shape = narrow.state_dict()[name].shape
        for n, (wide, slim) in enumerate(zip(tensor.shape, shape)):
            kept = n >= 2 or wide == slim in (3, 10, 16)
            assert kept or wide == 4 * slim, name
    stem = narrow.state_dict()["features.0.weight" if arch == "vgg19" else "conv1.weight"]
    assert stem.shape[0] == 16


def test_wideresnet_convolutions_are_he_normal():
    weight = build("wrn28-10", width=32).block3.layer[0].conv1.weight  # 64 channels in, 128 out
    std = (2 / (9 * 128)) ** 0.5
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    # A uniform draw of that deviation ends at 1.73 of it; 0.27 % of a normal one lies beyond 3.
    assert (weight.abs() > 3 * std).double().mean().item() == pytest.approx(0.0027, rel=0.2)


# --- arithmetic --------------------------------------------------------------------------------------------------


def conv(x, weight, stride=1, bias=None):
    """Cross-correlation as a matrix product over unfolded patches, zero padding that keeps the size at stride 1."""
    n_out, _, k, _ = weight.shape
    side = (x.shape[-1] - 1) // stride + 1
    patches = F.unfold(x, k, padding=k // 2, stride=stride)
    out = torch.einsum("op,npl->nol", weight.flatten(1), patches)
    return (out if bias is None else out + bias[:, None]).reshape(len(x), n_out, side, side)


def norm(x, bn):
    mean, var = bn.running_mean, bn.running_var
    if bn.training:
        mean, var = x.mean((0, 2, 3)), ((x - x.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3))
    scale = bn.weight / torch.sqrt(var + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]


def relu(x):
    return x.clamp(min=0)


def basic(block, x, stride):
    out = relu(norm(conv(x, block.conv1.weight, stride), block.bn1))
    out = norm(conv(out, block.conv2.weight), block.bn2)
    if len(block.shortcut):
        x = norm(conv(x, block.shortcut[0].weight, stride), block.shortcut[1])
    return relu(out + x)


def bottleneck(block, x, stride):
    out = relu(norm(conv(x, block.conv1.weight), block.bn1))
    out = relu(norm(conv(out, block.conv2.weight, stride), block.bn2))
    out = norm(conv(out, block.conv3.weight), block.bn3)
    if len(block.shortcut):
        x = norm(conv(x, block.shortcut[0].weight, stride), block.shortcut[1])
    return relu(out + x)


def wide(unit, x, stride):
    active = relu(norm(x, unit.bn1))
    out = conv(relu(norm(conv(active, unit.conv1.weight, stride), unit.bn2)), unit.conv2.weight)
    return out + (
        x if unit.convShortcut is None else conv(active, unit.convShortcut.weight, stride)
    )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "kind, by_hand, n_in, channels, stride, projected",
    [
        (BasicBlock, basic, 4, 4, 1, False),
        (BasicBlock, basic, 4, 6, 2, True),
        (BasicBlock, basic, 4, 4, 2, True),
        (Bottleneck, bottleneck, 8, 2, 1, False),
        (Bottleneck, bottleneck, 4, 2, 1, True),
        (Bottleneck, bottleneck, 8, 3, 2, True),
        (Unit, wide, 4, 4, 1, False),
        (Unit, wide, 3, 4, 1, True),
        (Unit, wide, 4, 6, 2, True),
    ],
)
def test_blocks_by_hand(kind, by_hand, n_in, channels, stride, projected, train):
    block = shaken(kind(n_in, channels, stride)).double().train(train)
    shortcut = block.convShortcut is not None if kind is Unit else len(block.shortcut) > 0
    assert shortcut == projected
    x = torch.randn(3, n_in, 7, 7, dtype=torch.float64)
    expected = by_hand(block, x, stride)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_resnet_by_hand():
    net = shaken(build("resnet18", width=2)).double().eval()
    x = images(dtype=torch.float64)
    out = relu(norm(conv(x, net.conv1.weight), net.bn1))
    for stage, layer in enumerate((net.layer1, net.layer2, net.layer3, net.layer4)):
        for i, block in enumerate(layer):
            out = basic(block, out, 2 if stage and not i else 1)
    expected = out.sum((2, 3)) / 4 @ net.linear.weight.T + net.linear.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def test_wideresnet_by_hand():
    net = shaken(build("wrn28-10", width=2)).double().eval()
    x = images(dtype=torch.float64)
    out = conv(x, net.conv1.weight)
    for group, block in enumerate((net.block1, net.block2, net.block3)):
        for i, unit in enumerate(block.layer):
            out = wide(unit, out, 2 if group and not i else 1)
    expected = relu(norm(out, net.bn1)).sum((2, 3)) / 16 @ net.fc.weight.T + net.fc.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [16, 28, 32])
def test_vgg_by_hand(size):
    net = shaken(build("vgg16", width=2)).double().eval()
    x = images(size=size, dtype=torch.float64)
    out = x
    for stage in VGG_CONVOLUTIONS["vgg16"]:
        for i in stage:
            layer = net.features[i]
            out = relu(norm(conv(out, layer.weight, bias=layer.bias), net.features[i + 1]))
        odd = out.shape[-1] % 2
        out = F.pad(
            out, (0, odd, 0, odd), value=-torch.inf
        )  # 32x32 images never come to an odd side
        out = out.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    expected = out[:, :, 0, 0] @ net.linear.weight.T + net.linear.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


# --- taps --------------------------------------------------------------------------------------------------------

TAPPED = {
    "resnet18": ("layer3", "layer4"),
    "resnet50": ("layer3", "layer4"),
    "wrn28-10": ("block2", "block3"),
    "vgg16": ("features.22", "features.32"),
    "vgg19": ("features.25", "features.38"),
}


@pytest.mark.parametrize("arch", TAPPED)
def test_taps_are_intermediate_outputs_of_one_pass(arch):
    net = shaken(build(arch, width=2)).eval()
    x = images()
    plain, calls, outputs = net(x), Counter(), {}

    def note(name):
        def hook(module, arguments, output):
            calls[name] += 1
            outputs[name] = output.clone()

        return hook

    leaves = [
        name
        for name, module in net.named_modules()
        if not list(module.children()) and "shortcut" not in name
    ]
    for name in {*leaves, *TAPPED[arch]}:
        net.get_submodule(name).register_forward_hook(note(name))
    head = "fc" if arch.startswith("wrn") else "linear"
    for tap, name in zip(("layer3", "layer4", "logits"), (*TAPPED[arch], head)):
        calls.clear()
        logits, tapped = net(x, tap=tap)
        assert set(calls) >= set(leaves)
        assert set(calls.values()) == {1}
        assert torch.equal(logits, plain)
        assert torch.equal(tapped, outputs[name])
        assert tapped.shape[1] == net.tap_channels[tap]


def test_unknown_tap_is_refused():
    with pytest.raises(ValueError, match="'stage3'; choose from: logits, layer3, layer4"):
        build("resnet18", width=2)(images(), tap="stage3")


@pytest.mark.parametrize("arch", SMALL)
def test_gradients_reach_every_parameter_and_the_image(arch):
    net = build(arch, width=8).eval()
    x = images(size=32).requires_grad_()
    (net(x) * torch.randn(2, 10)).sum().backward()
    for name, tensor in [("image", x), *net.named_parameters()]:
        assert tensor.grad.isfinite().all() and tensor.grad.any(), name


@pytest.mark.parametrize("arch", SMALL)
def test_a_tap_depends_on_what_precedes_it_alone(arch):
    net = build(arch, width=4).eval()
    x = images(size=32)
    for tap, later in (("layer3", True), ("layer4", False)):
        gradients = torch.autograd.grad(
            net(x, tap=tap)[1].square().sum(), list(net.parameters()), allow_unused=True
        )
        reached = {
            name
            for (name, _), gradient in zip(net.named_parameters(), gradients)
            if gradient is not None
        }
        after_layer3 = ("layer4.", "block3.", "features.24.", "features.30.")
        assert any(name.startswith(after_layer3) for name in reached) != later
        assert not any(name.startswith(("linear.", "fc.")) for name in reached)
        assert "conv1.weight" in reached or "features.0.weight" in reached


@pytest.mark.parametrize("arch", SMALL)
def test_eval_repeats_itself_and_treats_each_image_alone(arch):
    net = shaken(build(arch, width=4)).double().eval()
    x = images(4, dtype=torch.float64)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    logits = net(x)
    assert torch.equal(logits, net(x))
    torch.testing.assert_close(net(x[2:3]), logits[2:3], rtol=1e-10, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_seed_gives_the_same_network():
    first, second = [], []
    for nets in (first, second):
        torch.manual_seed(3)
        nets += [p for arch in SMALL for p in build(arch, width=2).parameters()]
    assert all(map(torch.equal, first, second))


# --- build: wrong input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"arch": "resnet20"},
            "unknown architecture 'resnet20'; choose from: resnet18, resnet34, .*, vgg19",
        ),
        (
            {"arch": "resnet18", "depth": 3},
            "resnet18 has no option 'depth'; choose from: num_classes, width",
        ),
        ({"arch": "vgg16", "width": 0}, "width of vgg16 is 0; choose a whole number from 1 up"),
        ({"arch": "vgg16", "width": -4}, "width of vgg16 is -4; choose"),
        ({"arch": "vgg16", "width": 1.5}, "width of vgg16 is 1.5; choose"),
        (
            {"arch": "wrn28-10", "num_classes": 1},
            "num_classes of wrn28-10 is 1; choose a whole number from 2 up",
        ),
        ({"arch": "wrn28-10", "num_classes": "ten"}, "num_classes of wrn28-10 is 'ten'; choose"),
    ],
)
def test_build_refuses(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        build(**arguments)
    assert "\n" not in str(caught.value)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, models; print(*models.ARCHITECTURES); sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(models.__file__).parents[1], capture_output=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.decode().split() == ARCHS


# --- files -------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("arch", ARCHS)
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
            {"num_classes": 7, "width": 4},
            about,
        )
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
    assert refusal(path) == "resnet18 has no option 'depth'; choose from: num_classes, width"
    torch.save(content | {"options": {"num_classes": 0, "width": 2}}, path)
    assert refusal(path).startswith("num_classes of resnet18 is 0; choose")


def test_a_truncated_file(tmp_path):
    path = tmp_path / "m.pth"
    save(build("resnet18", width=2), path)
    whole = path.read_bytes()
    for part in (0.01, 0.5, 0.999):
        path.write_bytes(whole[: int(part * len(whole))])
        assert refusal(path, arch="resnet18").startswith("is truncated")


NARROW = """
import torch, models
net = models.build("resnet18", width={width}).to(memory_format=torch.channels_last)
for _ in range(10):
    net(torch.rand(16, 3, 16, 16).contiguous(memory_format=torch.channels_last)).square().sum().backward()
"""


@pytest.mark.parametrize("width", [2, 4, 7])
def test_a_narrow_network_in_channels_last_survives_its_backward_pass(width):
    """In a process of its own, which a strided 1x1 convolution of so few channels kills on some processors."""
    ended = subprocess.run(
        [sys.executable, "-c", NARROW.format(width=width)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


def test_a_subsampled_convolution_is_the_strided_one():
    conv = SubsampledConv1x1(4, 6, 1, 2, bias=False).double()
    for side in (7, 8):
        x = torch.randn(3, 4, side, side, dtype=torch.float64)
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, stride=2))
