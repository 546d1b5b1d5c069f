"""The networks of the MI estimators: shapes, names, sizes, what they compute, and their files."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from common.errors import InputError
from models import REPRESENTATIONS
from models.mi import (
    GlobalNet,
    InternalLastNet,
    InternalNet,
    LocalNet,
    global_net,
    load_net,
    save_net,
)
from utils.mi.bounds import donsker_varadhan
from utils.mi.bounds import per_sample as bound_per_sample
from utils.mi.estimator import MIEstimator
from utils.mi.names import BOUNDS

U = 136  # more than the local network's 128 channels, so that its shortcut can be an identity

NETS = {
    "local": lambda: LocalNet(U),
    "global": lambda: GlobalNet(10, U),
    "internal": lambda: InternalNet(6, U),
    "internal-last": lambda: InternalLastNet(6, U),
}
INPUTS = {
    "local": (4, 3, 32, 32),
    "global": (4, 10),
    "internal": (4, 6, 8, 8),
    "internal-last": (4, 6, 4, 4),
}


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


class TestEstimator:
    @pytest.mark.parametrize("bound", BOUNDS)
    def test_value_per_sample(self, bound):
        estimator = MIEstimator(LocalNet(16), GlobalNet(10, 16), bound).eval()
        pattern, logits = torch.rand(5, 3, 16, 16), torch.randn(5, 10)
        local, global_ = estimator.encode_pattern(pattern), estimator.encode_output(logits)
        assert local.shape == (5, 16, 16)
        assert global_.shape == (5, 16, 1)
        expected = bound_per_sample(bound, local, global_)
        assert expected.shape == (5,)
        assert torch.equal(estimator.mi(local, global_), expected)
        assert torch.equal(estimator(pattern, logits), expected)

    @pytest.mark.parametrize("bound", BOUNDS)
    def test_scaled_scores_are_divided_by_the_root_of_the_units(self, bound):
        estimator = MIEstimator(LocalNet(16), GlobalNet(10, 16), bound, scaled=True).eval()
        pattern, logits = torch.rand(5, 3, 16, 16), torch.randn(5, 10)
        local, global_ = estimator.local_net(pattern), estimator.global_net(logits)
        torch.testing.assert_close(
            estimator(pattern, logits), bound_per_sample(bound, local / 4, global_)
        )
        assert not torch.allclose(
            estimator(pattern, logits), bound_per_sample(bound, local, global_)
        )

    def test_donsker_varadhan_is_the_default(self):
        estimator = MIEstimator(LocalNet(16), GlobalNet(10, 16))
        local, global_ = torch.randn(3, 16, 4), torch.randn(3, 16, 1)
        assert torch.equal(estimator.mi(local, global_), donsker_varadhan(local, global_))

    def test_units_are_innermost_in_memory(self):
        """Then the scores need no copy of the local encodings, the largest tensor of a step."""
        local = LocalNet(16)(torch.rand(2, 3, 16, 16))
        assert local.stride() == (16 * 16, 1, 16)

    def test_learns_a_dependence(self):
        """Outputs that tell the colour of the pattern: the bound rises well above that of shuffled outputs."""
        estimator = MIEstimator(LocalNet(16), GlobalNet(3, 16), "nce")
        optimizer = torch.optim.Adam(estimator.parameters(), 1e-2)
        for _ in range(30):
            output = torch.randn(32, 3)
            loss = -estimator(output[..., None, None].expand(-1, -1, 8, 8), output).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        estimator.eval()
        pattern = output[..., None, None].expand(-1, -1, 8, 8)
        assert estimator(pattern, output).mean() > 1
        assert estimator(pattern, output.roll(1, 0)).mean() < 0

    def test_gradient_reaches_the_output_through_a_frozen_estimator(self):
        estimator = MIEstimator(LocalNet(8), GlobalNet(4, 8)).eval().requires_grad_(False)
        output = torch.randn(3, 4, requires_grad=True)
        (gradient,) = torch.autograd.grad(estimator(torch.rand(3, 3, 8, 8), output).sum(), output)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0

    def test_one_sample(self):
        estimator = MIEstimator(LocalNet(8), GlobalNet(4, 8))
        for each in (estimator.eval(), estimator.train()):
            with pytest.raises(ValueError, match="at least 2 samples, not 1"):
                each(torch.rand(1, 3, 8, 8), torch.randn(1, 4))

    def test_unknown_bound(self):
        with pytest.raises(ValueError, match=r"'DV'.*dv, dv-released, nce, fd"):
            MIEstimator(LocalNet(8), GlobalNet(4, 8), "DV")


def trained(name):
    """A network whose batch norm has seen data."""
    net = NETS[name]()
    net(torch.randn(INPUTS[name]))
    return net.eval()


def same(net, other, name):
    x = torch.randn(INPUTS[name])
    return type(net) is type(other) and torch.equal(net(x), other(x))


@pytest.mark.parametrize("name", NETS)
class TestFiles:
    def test_round_trip(self, name, tmp_path):
        net = trained(name)
        save_net(net, tmp_path / "net.pth", norm="linf", epsilon=8 / 255)
        state = torch.get_rng_state()
        loaded = load_net(tmp_path / "net.pth")
        assert torch.equal(torch.get_rng_state(), state)
        assert same(net, loaded, name)
        assert loaded.about == {"norm": "linf", "epsilon": 8 / 255}
        assert loaded.options == net.options
        assert not loaded.training
        content = torch.load(tmp_path / "net.pth", weights_only=True)
        assert content["arch"] == f"mi-{name}"
        assert set(content) == {"arch", "options", "state_dict", "about"}

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_released_state_dict(self, name, prefix, tmp_path):
        net = trained(name)
        state = net.state_dict()
        if name == "local":
            state |= {
                f"layers.{key[5]}{key[6:]}": value
                for key, value in state.items()
                if key.startswith("layer")
            }
            assert "layers.1.0.weight" in state
        torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "net.pth")
        loaded = load_net(tmp_path / "net.pth")
        assert same(net, loaded, name)
        assert loaded.about == {}

    def test_a_missing_or_misshapen_tensor(self, name, tmp_path):
        path = tmp_path / "net.pth"
        for wrong in ({}, {"block_ln.1.weight": torch.ones(U + 1)}):
            state = trained(name).state_dict()
            del state["block_ln.1.weight"]
            torch.save(state | wrong, path)
            with pytest.raises(InputError, match=r"net\.pth.*block_ln\.1\.weight"):
                load_net(path)

    def test_options_that_do_not_fit(self, name, tmp_path):
        path = tmp_path / "net.pth"
        net = trained(name)
        for options in (
            {"n_units": "many", "n_inputs": 3},
            {"n_units": -1, "n_inputs": 3},
            {"width": 3},
            None,
            [1, 2],
        ):
            torch.save({"arch": net.arch, "options": options, "state_dict": net.state_dict()}, path)
            with pytest.raises(InputError, match=r"net\.pth.*options"):
                load_net(path)
        torch.save(
            {
                "arch": net.arch,
                "options": net.options | {"n_units": 8},
                "state_dict": net.state_dict(),
            },
            path,
        )
        with pytest.raises(InputError, match=r"net\.pth.*shape"):
            load_net(path)


OTHER_FILES = {
    "target": {"arch": "resnet18", "options": {}, "state_dict": {"conv1.weight": torch.zeros(1)}},
    "plain target": {"conv1.weight": torch.zeros(64, 3, 3, 3)},
    "flat shortcut": {"linear_shortcut.weight": torch.zeros(3)},
    "half a shortcut": {"linear_shortcut.0.weight": torch.zeros(3, 3, 4, 4)},
    "no tensor": {"epoch": 3},
    "empty": {},
    "list": [1, 2],
}


@pytest.mark.parametrize("what", OTHER_FILES)
def test_files_of_something_else(what, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(OTHER_FILES[what], path)
    with pytest.raises(InputError, match=r"other\.pth") as raised:
        load_net(path)
    assert "\n" not in str(raised.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"absent\.pth"):
        load_net(tmp_path / "absent.pth")
