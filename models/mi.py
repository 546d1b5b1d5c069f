"""Define the networks of the MI estimators: local Deep InfoMax (Hjelm et al. 2019; Zhu et al.
2020).

A local network encodes a pattern (N, 3, H, W) as U units at each location, (N, U, L). A global
network encodes an output of the target, logits or a feature map, as (N, U, 1). `utils.mi.bounds`
computes MI from both.

Parameters have the names of the paper's released estimator files, so those files load.
"""

import torch
import torch.nn.functional as F
from torch import nn

from common import files
from common.errors import InputError
from models import EARLIER_REPRESENTATIONS, LOCAL_CONVS, REPRESENTATIONS
from models.published import unwrapped


class _Permute(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)


def _conv_bn_relu(n_inputs, n_outputs, kernel_size, stride=1, padding=0):
    """Return convolution, BN and ReLU as a list."""
    conv = nn.Conv2d(n_inputs, n_outputs, kernel_size, stride, padding, bias=False)
    return [conv, nn.BatchNorm2d(n_outputs), nn.ReLU()]


def halve(n_inputs, n_outputs):
    """Return a convolution to half the width and height, BN and ReLU."""
    return _conv_bn_relu(n_inputs, n_outputs, kernel_size=4, stride=2, padding=1)


def _identity_like(n_inputs, n_units):
    """Return a 1x1 convolution, at first a noisy copy of its input where n_units >= n_inputs."""
    conv = nn.Conv2d(n_inputs, n_units, kernel_size=1, bias=False)
    if n_units >= n_inputs:
        with torch.no_grad():
            conv.weight.uniform_(-0.01, 0.01)[:, :, 0, 0].fill_diagonal_(1)
    return conv


class _MINet(nn.Module):
    """Apply LayerNorm over the channels to the sum of a nonlinear path and a linear shortcut.

    Attributes: `arch` and `options`, which rebuild the network; `about`, plain facts about its
    training.
    """

    arch: str

    def __init__(self, nonlinear: list[nn.Module], shortcut: nn.Module, **options: int):
        super().__init__()
        n_units = options["n_units"]
        self.options = options
        self.about: dict = {}
        self.block_nonlinear = nn.Sequential(*nonlinear, nn.Conv2d(n_units, n_units, kernel_size=1))
        self.block_ln = nn.Sequential(
            _Permute(0, 2, 3, 1), nn.LayerNorm(n_units), _Permute(0, 3, 1, 2)
        )
        self.linear_shortcut = shortcut

    def _block(self, x):
        """Map (N, n_inputs, H, W) to (N, n_units, H'W')."""
        return self.block_ln(self.block_nonlinear(x) + self.linear_shortcut(x)).flatten(2)


class LocalNet(_MINet):
    """Encode a pattern (N, 3, H, W) as (N, n_units, L) at L = H/4 * W/4 locations.

    local_convs: 2, as the released codes have it, or 3 (Zhu et al. 2020, Table 2), with which L =
    H/8 * W/8.
    """

    arch = "mi-local"

    def __init__(self, n_units: int = 2048, local_convs: int = 2):
        if local_convs not in LOCAL_CONVS:
            raise ValueError(f"local_convs must be 2 or 3, not {local_convs}")
        n_inputs = 64 * 2 ** (local_convs - 1)
        super().__init__(
            _conv_bn_relu(n_inputs, n_units, 1),
            _identity_like(n_inputs, n_units),
            n_units=n_units,
            local_convs=local_convs,
        )
        self.layer0 = nn.Sequential(*halve(3, 64))
        self.layer1 = nn.Sequential(*halve(64, 128))
        if local_convs == 3:
            self.layer2 = nn.Sequential(*halve(128, 256))

    def forward(self, pattern: torch.Tensor) -> torch.Tensor:
        if pattern.dim() != 4 or pattern.shape[1] != 3:
            raise ValueError(f"pattern must be (N,3,H,W), not {tuple(pattern.shape)}")
        x = self.layer1(self.layer0(pattern))
        return self._block(self.layer2(x) if self.options["local_convs"] == 3 else x)


class OutputNet(_MINet):
    """Encode an output of the target, the `representation`, as (N, n_units, 1)."""

    representation: str


class GlobalNet(OutputNet):
    """Encode logits (N, n_inputs) or (N, n_inputs, 1, 1) as (N, n_units, 1)."""

    arch, representation = "mi-global", "logits"

    def __init__(self, n_inputs: int, n_units: int = 2048):
        super().__init__(
            _conv_bn_relu(n_inputs, n_units, 1),
            _identity_like(n_inputs, n_units),
            n_inputs=n_inputs,
            n_units=n_units,
        )

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        n_inputs = self.options["n_inputs"]
        if logits.shape[1:] not in ((n_inputs,), (n_inputs, 1, 1)):
            raise ValueError(f"logits must be (N,{n_inputs}), not {tuple(logits.shape)}")
        return self._block(logits[:, :, None, None] if logits.dim() == 2 else logits)


class _FeatureMapNet(OutputNet):
    """Encode a feature map of `side` x `side`.

    A map of another size (images that are not 32x32, or another target) is brought to that size by
    adaptive average pooling; at the paper's size nothing is pooled.
    """

    side: int

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        n_inputs = self.options["n_inputs"]
        if feature_map.dim() != 4 or feature_map.shape[1] != n_inputs:
            raise ValueError(
                f"feature map must be (N,{n_inputs},H,W), not {tuple(feature_map.shape)}"
            )
        if feature_map.shape[2:] != (self.side, self.side):
            feature_map = F.adaptive_avg_pool2d(feature_map, self.side)
        return self._block(feature_map)


class InternalNet(_FeatureMapNet):
    """Encode the third stage's feature map (N, n_inputs, 8, 8) as (N, n_units, 1).

    Other sizes are average-pooled to 8x8.
    """

    arch, representation, side = "mi-internal", "layer3", 8

    def __init__(self, n_inputs: int = 256, n_units: int = 2048):
        super().__init__(
            [
                *halve(n_inputs, 2 * n_inputs),
                *halve(2 * n_inputs, 4 * n_inputs),
                *halve(4 * n_inputs, n_units),
            ],
            nn.Sequential(
                nn.Conv2d(n_inputs, 4 * n_inputs, kernel_size=4, stride=2, bias=False),
                nn.Conv2d(4 * n_inputs, n_units, kernel_size=3, bias=False),
                nn.Conv2d(n_units, n_units, kernel_size=1, bias=False),
            ),
            n_inputs=n_inputs,
            n_units=n_units,
        )


class InternalLastNet(_FeatureMapNet):
    """Encode the fourth stage's feature map (N, n_inputs, 4, 4) as (N, n_units, 1).

    Other sizes are average-pooled to 4x4.
    """

    arch, representation, side = "mi-internal-last", "layer4", 4

    def __init__(self, n_inputs: int = 512, n_units: int = 2048):
        super().__init__(
            [*halve(n_inputs, 2 * n_inputs), *halve(2 * n_inputs, n_units)],
            nn.Sequential(
                nn.Conv2d(n_inputs, n_units, kernel_size=4, bias=False),
                nn.Conv2d(n_units, n_units, kernel_size=1, bias=False),
            ),
            n_inputs=n_inputs,
            n_units=n_units,
        )


def global_net(representation: str, n_inputs: int, n_units: int = 2048) -> OutputNet:
    """Build the global network for a representation of the target.

    "logits" takes `n_inputs` classes; "layer3" and "layer4" take the feature map after that stage,
    with `n_inputs` channels. Raises ValueError for another `representation`.
    """
    nets = {net.representation: net for net in (GlobalNet, InternalNet, InternalLastNet)}
    if representation not in nets:
        raise ValueError(
            f"representation {representation!r} is unknown; "
            f"choose one of {', '.join(REPRESENTATIONS)}"
        )
    return nets[representation](n_inputs, n_units)


_NETS = {net.arch: net for net in (LocalNet, GlobalNet, InternalNet, InternalLastNet)}


def save_net(net: _MINet, path, **about) -> None:
    """Write an MI network with its options and `about`, plain facts about its training (norm,
    epsilon, ...).
    """
    files.write_file(
        {
            "arch": net.arch,
            "options": net.options,
            "state_dict": files.to_cpu(net.state_dict()),
            "about": about,
        },
        path,
    )


def load_net(path, device="cpu") -> LocalNet | OutputNet:
    """Load an MI network from a file, in eval mode; `.about` holds the file's metadata, {} where it
    has none.

    The file is one that `save_net` wrote, or a plain state dict as the paper's released code
    writes; names and shapes then determine the kind and widths.

    Draws no random numbers from the caller's generator. Raises InputError when the file is missing,
    damaged or holds something else.
    """
    content = unwrapped(files.read_file(path))
    state = files.state_dict_of(content, path)
    arch, options = content.get("arch"), files.options_of(content, state, path)
    if isinstance(arch, str):
        if arch not in _NETS:
            raise InputError(
                f"{path}: holds a network {arch!r}; give a network of an MI estimator "
                f"({', '.join(_NETS)})"
            )
    else:
        # The released local network registers its layers twice: `layers.N` is `layerN`.
        state = {name: value for name, value in state.items() if not name.startswith("layers.")}
        arch, options = _recognise(state, path)
    try:
        if not options:
            raise TypeError("no options")
        net = files.rebuilt(lambda: _NETS[arch](**options), state)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{path}: the options {options!r} do not build {arch}; copy it or train it again"
        ) from None
    files.load_strictly(net, state, path, arch)
    net.about = files.about_of(content, path)
    if now := EARLIER_REPRESENTATIONS.get(str(net.about.get("representation"))):
        net.about = net.about | {"representation": now}
    return net.to(device).eval()


def _recognise(state, path):
    """Return (arch, options) of a state dict that names neither."""
    shapes = {
        name: tuple(value.shape)
        for name, value in state.items()
        if name.startswith("linear_shortcut.") and value.dim() == 4
    }
    if "linear_shortcut.weight" in shapes:
        n_units, n_inputs = shapes["linear_shortcut.weight"][:2]
        if "layer0.0.weight" in state:
            local_convs = 3 if "layer2.0.weight" in state else 2
            return "mi-local", {"n_units": n_units, "local_convs": local_convs}
        return "mi-global", {"n_inputs": n_inputs, "n_units": n_units}
    if "linear_shortcut.0.weight" in shapes and "linear_shortcut.1.weight" in shapes:
        n_inputs = shapes["linear_shortcut.0.weight"][1]
        n_units = shapes["linear_shortcut.1.weight"][0]
        arch = "mi-internal" if "linear_shortcut.2.weight" in shapes else "mi-internal-last"
        return arch, {"n_inputs": n_inputs, "n_units": n_units}
    raise InputError(
        f"{path}: is not a network of an MI estimator (no linear_shortcut.weight); "
        "name a file of stage 2"
    )
