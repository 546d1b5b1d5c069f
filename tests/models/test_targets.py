"""Targets: published names and counts, sizes, taps, and what `build` refuses."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from target_parts import ARCHS, POOLED, SMALL, VGG_CONVOLUTIONS, full_size, images, shaken

import models
from common.errors import InputError
from models import build


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


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
        # by hand: convolutions 896 + 9,248 + 18,496 + 36,928, dense 2,097,664 + 131,328 + 32,896
        # + 16,512 + 10,836, classes 850
        ("sperl-cnn", 2_355_654),
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
        ("sperl-cnn", (32, 32), (64, 16)),
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


@pytest.mark.parametrize("arch", POOLED)
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


TAPPED = {
    "resnet18": ("layer3", "layer4"),
    "resnet50": ("layer3", "layer4"),
    "wrn28-10": ("block2", "block3"),
    "vgg16": ("features.22", "features.32"),
    "vgg19": ("features.25", "features.38"),
    "sperl-cnn": ("conv1", "conv2"),
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


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"arch": "resnet20"},
            "unknown architecture 'resnet20'; choose from: resnet18, resnet34, .*, vgg19",
        ),
        (
            {"arch": "resnet18", "depth": 3},
            "resnet18 has no option 'depth'; choose from: num_classes, width, size",
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
