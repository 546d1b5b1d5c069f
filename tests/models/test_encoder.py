"""The encoder and the classifiers on it: sizes, a forward pass by hand, taps, and their files."""

import pytest
import torch
import torch.nn.functional as F
from conftest import run_script

from common.errors import InputError
from models import build, load, save
from models.encoder import CODES, Encoder, load_encoder
from models.mi import LocalNet, load_net, save_net

BOTH = ["baseline-h", "baseline-h-linear"]


def shaken(net, size=(16, 24), n=4):
    """The network after one pass in train mode, with batch-norm weights that are not 1 and 0."""
    for module in net.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        net.train()(torch.rand(n, 3, *size))
    return net


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_the_papers_sizes():
    shapes = {name: tuple(w.shape) for name, w in Encoder().named_parameters() if w.ndim > 1}
    assert shapes == {
        "layer0.0.weight": (64, 3, 4, 4),
        "layer1.0.weight": (128, 64, 4, 4),
        "layer2.0.weight": (256, 128, 4, 4),
        "hidden.0.weight": (1024, 256 * 4 * 4),
        "code.weight": (64, 1024),
    }
    heads = [build(arch).classifier for arch in BOTH]
    sizes = [[tuple(w.shape) for w in head.parameters() if w.ndim > 1] for head in heads]
    assert sizes == [[(200, 64), (10, 200)], [(10, 64)]]


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (28, 28), (32, 40)])
def test_every_image_size_is_one_of_its_own(size):
    """28 pixels leave 28/8 = 3 rows: the flattened map has floor(H/8) floor(W/8) places."""
    net = build("baseline-h", 7, width=8, size=size)
    logits, layer4 = net(torch.rand(3, 3, *size), tap="layer4")
    assert logits.shape == (3, 7)
    assert layer4.shape == (3, 32, size[0] // 8, size[1] // 8)
    assert net.encoder.hidden[0].in_features == 32 * (size[0] // 8) * (size[1] // 8)
    other = torch.rand(3, 3, size[0] + 8, size[1])
    with pytest.raises(InputError, match=rf"was built for images of 3x{size[0]}x{size[1]}, not 3x"):
        net(other)


def by_hand(x, state, mlp):
    """Logits and taps of the network in eval mode, from its tensors by their names."""

    def norm(x, at):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (state[f"{at}.{name}"].view(shape) for name in names)
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)

    maps = []
    for layer in range(3):
        x = F.conv2d(x, state[f"encoder.layer{layer}.0.weight"], stride=2, padding=1)
        x = norm(x, f"encoder.layer{layer}.1")
        maps.append(x)
    x = norm(x.flatten(1) @ state["encoder.hidden.0.weight"].T, "encoder.hidden.1")
    x = code = x @ state["encoder.code.weight"].T + state["encoder.code.bias"]
    x = x @ state["classifier.0.weight"].T + state["classifier.0.bias"]
    if mlp:
        x = norm(x, "classifier.1") @ state["classifier.3.weight"].T + state["classifier.3.bias"]
    return x, maps, code


@pytest.mark.parametrize("arch", BOTH)
def test_what_it_computes(arch):
    net = shaken(build(arch, 5, width=4, size=(16, 24)).double().float(), (16, 24)).double().eval()
    x = torch.rand(3, 3, 16, 24, dtype=torch.float64)
    logits, maps, code = by_hand(x, net.state_dict(), arch == "baseline-h")
    torch.testing.assert_close(net(x), logits, rtol=1e-10, atol=1e-10)
    for tap, expected in zip(
        ("layer3", "layer4", "code", "logits"), (maps[1], maps[2], code, logits)
    ):
        torch.testing.assert_close(net(x, tap=tap)[1], expected, rtol=1e-10, atol=1e-10)
        assert net.tap_channels[tap] == expected.shape[1]
    torch.testing.assert_close(net.encoder(x), code, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arch", BOTH)
def test_round_trip(arch, tmp_path):
    net = shaken(build(arch, 7, width=4, size=(16, 24)))
    save(net, tmp_path / "m.pth", norm="linf")
    state = torch.get_rng_state()
    loaded = load(tmp_path / "m.pth")
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.options == {"num_classes": 7, "width": 4, "size": [16, 24]}
    x = torch.rand(2, 3, 16, 24)
    assert torch.equal(loaded(x), net.eval()(x))


@pytest.mark.parametrize("arch", BOTH)
def test_a_plain_state_dict_tells_its_sizes(arch, tmp_path):
    net = shaken(build(arch, 7, width=4, size=(24, 24)), (24, 24))
    torch.save(net.state_dict(), tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth", arch=arch)
    assert loaded.options == {"num_classes": 7, "width": 4, "size": [24, 24]}
    x = torch.rand(2, 3, 24, 24)
    assert torch.equal(loaded(x), net.eval()(x))


@pytest.mark.parametrize("size", [(4, 32), (32,), ("a", 8)])
def test_impossible_sizes(size):
    with pytest.raises(InputError, match=r"size of baseline-h is .*two whole numbers from 8 up"):
        build("baseline-h", size=size)
    assert build("resnet18", width=4, size=size).options == {"num_classes": 10, "width": 4}


def test_an_encoder_has_a_file_of_its_own_kind(tmp_path):
    net, path = shaken(Encoder(4, (16, 24))), tmp_path / "g.pth"
    save(net, path, mi="worst", epsilon=0.1)
    state = torch.get_rng_state()
    loaded = load_encoder(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.options == {"width": 4, "size": [16, 24]} and not loaded.training
    assert loaded.about == {"mi": "worst", "epsilon": 0.1}
    x = torch.rand(2, 3, 16, 24)
    assert loaded(x).shape == (2, CODES)
    assert torch.equal(loaded(x), net.eval()(x))
    result = run_script("test_comparison.py", "--model", path)
    assert result.status == 2
    assert result.err.strip().splitlines() == [
        f"test_comparison.py: {path}: holds an encoder, which gives codes and no logits; train a "
        f"classifier on it with train_classifier.py --encoder {path}"
    ]


def test_files_that_hold_no_encoder(tmp_path):
    path = tmp_path / "g.pth"
    save(build("baseline-h", width=4), path)
    with pytest.raises(InputError, match=r"holds a baseline-h, not an encoder"):
        load_encoder(path)
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"holds a network without a name, not an encoder"):
        load_encoder(path)
    net = Encoder(4)
    for options in (None, {"width": "many"}, {"width": 4, "size": 3}, {"depth": 1}):
        content = {"arch": "encoder", "options": options, "state_dict": net.state_dict()}
        torch.save(content, path)
        with pytest.raises(InputError, match=r"g\.pth: its options .* do not build an encoder"):
            load_encoder(path)
    torch.save(content | {"options": {"width": 8}}, path)
    with pytest.raises(InputError, match=r"g\.pth: is not a checkpoint of an encoder"):
        load_encoder(path)


class TestThreeConvolutions:
    """The local network with the third convolution of the paper's Table 2."""

    def test_its_locations_are_those_of_the_first_two_halved(self):
        x = torch.rand(2, 3, 32, 32)
        assert LocalNet(8)(x).shape == (2, 8, 64)
        assert LocalNet(8, local_convs=3)(x).shape == (2, 8, 16)
        with pytest.raises(ValueError, match="local_convs must be 2 or 3, not 4"):
            LocalNet(8, local_convs=4)

    @pytest.mark.parametrize("named", [True, False])
    def test_its_file(self, named, tmp_path):
        net, path = LocalNet(8, local_convs=3).eval(), tmp_path / "local.pth"
        if named:
            save_net(net, path)
        else:
            torch.save(net.state_dict(), path)
        loaded, x = load_net(path), torch.rand(2, 3, 16, 16)
        assert loaded.options == {"n_units": 8, "local_convs": 3}
        assert torch.equal(loaded(x), net(x))
