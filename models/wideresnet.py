"""Define wide residual networks (Zagoruyko & Komodakis 2016, "Wide Residual Networks").

They are pre-activation, without dropout. Parameters are named as in the published robust
checkpoints (TRADES, MART).
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.targets import Target

STEM = 16  # channels of the first convolution, for every width


class Unit(nn.Module):
    """Apply batch norm, ReLU and 3x3 convolution twice, and a shortcut: (N,n_in,H,W) ->
    (N,n_out,H/stride,W/stride).

    The shortcut is the identity where the number of channels stays. Where it changes, the shortcut
    is a 1x1 convolution of the *activated* input, relu(bn1(x)), which both paths then share.
    """

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.convShortcut = None if n_in == n_out else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class Group(nn.Module):
    """Stack `depth` units; the first has the stride and changes the number of channels."""

    def __init__(self, depth: int, n_in: int, n_out: int, stride: int):
        super().__init__()
        first = Unit(n_in, n_out, stride)
        self.layer = nn.Sequential(first, *(Unit(n_out, n_out, stride=1) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(Target):
    """Stack three groups of (depth - 4) / 6 units with width, 2 width and 4 width channels.

    Width 160 is the WRN-*-10. Taps: layer3 and layer4, the outputs of block2 (WRN-*-10, 32x32
    images: 320 channels, 16x16) and of block3 (640 channels, 8x8; before the last batch norm and
    ReLU).
    """

    SIZES: ClassVar[dict[str, str]] = {
        "width": "block1.layer.0.conv1.weight",
        "num_classes": "fc.weight",
    }

    def __init__(self, depth: int, width: int, num_classes: int):
        super().__init__(num_classes, layer3=2 * width, layer4=4 * width)
        units = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, STEM, 3, padding=1, bias=False)
        self.block1 = Group(units, STEM, width, stride=1)
        self.block2 = Group(units, width, 2 * width, stride=2)
        self.block3 = Group(units, 2 * width, 4 * width, stride=2)
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        layer3 = self.block2(self.block1(self.conv1(x)))
        layer4 = self.block3(layer3)
        active = F.relu(self.bn1(layer4))
        return {"layer3": layer3, "layer4": layer4, "logits": self.fc(active.mean((2, 3)))}

    @staticmethod
    def adapt(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Remove TRADES' ``sub_block1``, a second copy of the first group that its forward pass
        never uses.
        """
        return {name: value for name, value in state.items() if not name.startswith("sub_block1.")}
