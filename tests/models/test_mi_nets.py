"""The networks of the MI estimators: shapes, names, sizes, and what they compute."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from mi_parts import INPUTS, NETS, U

from models import REPRESENTATIONS
from models.mi import (
    GlobalNet,
    InternalLastNet,
    InternalNet,
    LocalNet,
    global_net,
)


def weights(*modules):
    """State-dict names of modules: conv (a weight), conv+bias, norm (affine) or BN (affine and statistics)."""
    kinds = {
        "conv": ["weight"],
        "conv+bias": ["weight", "bias"],
        "norm": ["weight", "bias"],
        "BN": ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"],
    }
    return {f"{name}.{tensor}" for name, kind in modules for tensor in kinds[kind]}


POINTWISE = (
    ("block_nonlinear.0", "conv"),
    ("block_nonlinear.1", "BN"),
    ("block_nonlinear.3", "conv+bias"),
    ("block_ln.1", "norm"),
    ("linear_shortcut", "conv"),
)
NAMES = {
    "local": weights(
        ("layer0.0", "conv"),
        ("layer0.1", "BN"),
        ("layer1.0", "conv"),
        ("layer1.1", "BN"),
        *POINTWISE,
    ),
    "global": weights(*POINTWISE),
    "internal": weights(
        *((f"block_nonlinear.{i}", "conv") for i in (0, 3, 6)),
        *((f"block_nonlinear.{i}", "BN") for i in (1, 4, 7)),
        ("block_nonlinear.9", "conv+bias"),
        ("block_ln.1", "norm"),
        *((f"linear_shortcut.{i}", "conv") for i in range(3)),
    ),
    "internal-last": weights(
        *((f"block_nonlinear.{i}", "conv") for i in (0, 3)),
        *((f"block_nonlinear.{i}", "BN") for i in (1, 4)),
        ("block_nonlinear.6", "conv+bias"),
        ("block_ln.1", "norm"),
        *((f"linear_shortcut.{i}", "conv") for i in range(2)),
    ),
}


def sizes(name, c, u):
    """Number of parameters, term by term: convolutions, BN and LayerNorm (2 a channel)."""
    head = u * u + u + 2 * u  # 1x1 convolution with bias, LayerNorm
    return {
        "local": 3 * 64 * 16 + 2 * 64 + 64 * 128 * 16 + 2 * 128 + 128 * u + 2 * u + head + 128 * u,
        "global": c * u + 2 * u + head + c * u,
        "internal": (c * 2 * c + 2 * c * 4 * c + 4 * c * u) * 16
        + 2 * (2 * c + 4 * c + u)
        + head
        + c * 4 * c * 16
        + 4 * c * u * 9
        + u * u,
        "internal-last": (c * 2 * c + 2 * c * u) * 16 + 2 * (2 * c + u) + head + c * u * 16 + u * u,
    }[name]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NETS)
def test_names_and_number_of_parameters(name):
    net = NETS[name]()
    assert set(net.state_dict()) == NAMES[name]
    assert sum(parameter.numel() for parameter in net.parameters()) == sizes(
        name, net.options.get("n_inputs", 0), U
    )


def test_the_papers_sizes():
    """2048 units; logits of 10 classes; 256 channels at 8x8 and 512 at 4x4. No memory is taken on the meta device."""
    with torch.device("meta"):
        for name, net, c in (
            ("local", LocalNet(), 0),
            ("global", GlobalNet(10), 10),
            ("internal", InternalNet(), 256),
            ("internal-last", InternalLastNet(), 512),
        ):
            assert sum(parameter.numel() for parameter in net.parameters()) == sizes(name, c, 2048)
    assert InternalNet(256, 8).block_nonlinear[0].weight.shape == (512, 256, 4, 4)
    assert InternalNet(256, 8).block_nonlinear[3].weight.shape == (1024, 512, 4, 4)


@pytest.mark.parametrize("name", NETS)
def test_output_shape_and_normalisation(name):
    """LayerNorm at its initial weights: over the units, mean 0 and variance 1 at each location."""
    output = NETS[name]()(torch.randn(INPUTS[name]))
    assert output.shape == (4, U, 64 if name == "local" else 1)
    torch.testing.assert_close(output.mean(1), torch.zeros(4, output.shape[2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        output.var(1, unbiased=False), torch.ones(4, output.shape[2]), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(("size", "locations"), [(16, 16), (32, 64), (64, 256)])
def test_locations_of_a_pattern(size, locations):
    assert LocalNet(8)(torch.randn(2, 3, size, size)).shape == (2, 8, locations)


def test_location_of_a_unit():
    """Output location l = (row, column) in reading order: a change at the lower right moves the last alone."""
    net = LocalNet(8).eval()
    pattern = torch.rand(1, 3, 32, 32)
    changed = pattern.clone()
    changed[..., 31, 31] += 1
    moved = (net(pattern) - net(changed)).abs().amax(1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [63]


def norm(x, state, name):
    return F.batch_norm(
        x,
        state[f"{name}.running_mean"],
        state[f"{name}.running_var"],
        state[f"{name}.weight"],
        state[f"{name}.bias"],
    ).relu()


def layer_norm(x, state):
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return x * state["block_ln.1.weight"][:, None, None] + state["block_ln.1.bias"][:, None, None]


def by_hand(name, s, x):
    """The networks written out from section 2 of the method, in eval mode, on a state dict s."""
    if name == "local":
        x = norm(F.conv2d(x, s["layer0.0.weight"], stride=2, padding=1), s, "layer0.1")
        x = norm(F.conv2d(x, s["layer1.0.weight"], stride=2, padding=1), s, "layer1.1")
    if name in ("local", "global"):
        x = x if x.dim() == 4 else x[..., None, None]
        h = norm(F.conv2d(x, s["block_nonlinear.0.weight"]), s, "block_nonlinear.1")
        h = F.conv2d(h, s["block_nonlinear.3.weight"], s["block_nonlinear.3.bias"])
        return layer_norm(h + F.conv2d(x, s["linear_shortcut.weight"]), s).flatten(2)
    blocks = 3 if name == "internal" else 2
    h = x
    for i in range(blocks):
        h = F.conv2d(h, s[f"block_nonlinear.{3 * i}.weight"], stride=2, padding=1)
        h = norm(h, s, f"block_nonlinear.{3 * i + 1}")
    h = F.conv2d(
        h, s[f"block_nonlinear.{3 * blocks}.weight"], s[f"block_nonlinear.{3 * blocks}.bias"]
    )
    x = F.conv2d(x, s["linear_shortcut.0.weight"], stride=2 if name == "internal" else 1)
    for i in range(1, blocks):
        x = F.conv2d(x, s[f"linear_shortcut.{i}.weight"])
    return layer_norm(h + x, s).flatten(2)


@pytest.mark.parametrize("name", NETS)
def test_what_a_network_computes(name):
    net = NETS[name]().double()
    for tensor in itertools.chain(
        net.parameters(), net.buffers()
    ):  # statistics and affine weights, as after training
        if tensor.dtype.is_floating_point and tensor.dim() == 1:
            tensor.data.uniform_(0.5, 1.5)
    x = torch.randn(INPUTS[name], dtype=torch.float64)
    torch.testing.assert_close(
        net.eval()(x), by_hand(name, net.state_dict(), x), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("net", "n_inputs"), [(LocalNet(U), 128), (GlobalNet(10, U), 10), (GlobalNet(7, 7), 7)]
)
def test_shortcut_starts_as_a_noisy_copy(net, n_inputs):
    weight = net.linear_shortcut.weight[:, :, 0, 0]
    same = torch.eye(weight.shape[0], n_inputs, dtype=torch.bool)
    assert (weight[same] == 1).all()
    noise = weight[~same]
    assert noise.abs().max() <= 0.01
    assert noise.std().item() == pytest.approx(0.01 / 3**0.5, rel=0.2)


def test_shortcut_to_fewer_units_is_no_copy():
    assert not (GlobalNet(10, 9).linear_shortcut.weight == 1).any()


def test_logits_as_rows_or_as_maps():
    net = GlobalNet(10, 8).eval()
    logits = torch.randn(3, 10)
    assert torch.equal(net(logits), net(logits[..., None, None]))


@pytest.mark.parametrize(("net", "side"), [(InternalNet(4, 8), 8), (InternalLastNet(4, 8), 4)])
def test_feature_maps_of_other_sizes_are_pooled(net, side):
    net.eval()
    at_size = torch.randn(2, 4, side, side)
    twice = at_size.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(net(twice), net(at_size))  # the means of 2x2 equal pixels
    double = torch.randn(2, 4, 2 * side, 2 * side)
    torch.testing.assert_close(net(double), net(F.avg_pool2d(double, 2)))
    half = torch.randn(2, 4, side // 2, side // 2)
    torch.testing.assert_close(net(half), net(half.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    name = "internal" if side == 8 else "internal-last"
    torch.testing.assert_close(
        net(at_size), by_hand(name, net.state_dict(), at_size), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (LocalNet(8), (2, 1, 32, 32)),
        (LocalNet(8), (3, 32, 32)),
        (GlobalNet(10, 8), (2, 9)),
        (GlobalNet(10, 8), (2, 10, 2, 2)),
        (InternalNet(4, 8), (2, 5, 8, 8)),
        (InternalNet(4, 8), (2, 4)),
        (InternalLastNet(4, 8), (2, 5, 4, 4)),
    ],
)
def test_inputs_that_do_not_fit(net, shape):
    with pytest.raises(ValueError, match=r"must be \(.*\), not \("):
        net(torch.zeros(shape))


def test_global_network_of_a_representation():
    kinds = [GlobalNet, InternalNet, InternalLastNet]
    for representation, kind in zip(REPRESENTATIONS, kinds):
        net = global_net(representation, 6, 8)
        assert type(net) is kind
        assert net.options == {"n_inputs": 6, "n_units": 8}
    with pytest.raises(ValueError, match=r"'stage2'.*logits, layer3, layer4"):
        global_net("stage2", 6, 8)
