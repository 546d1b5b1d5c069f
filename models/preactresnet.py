"""Define pre-activation residual networks (He et al. 2016, "Identity Mappings in Deep Residual
Networks") for small images.

Parameters are named as in the published checkpoints of Rice et al. 2020, Wu et al. 2020 (AWP) and
MAIR.
"""

from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.resnet import conv1x1, conv3x3, stages
from models.targets import Target


class Block(nn.Module):
    """Apply batch norm, ReLU and 3x3 convolution twice, and a shortcut: (N,n_in,H,W) ->
    (N,channels,H/stride,W/stride).

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input, or, unless
    `activated`, of the input itself.
    """

    def __init__(self, n_in: int, channels: int, stride: int, activated: bool):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = conv3x3(n_in, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        same = stride == 1 and n_in == channels
        self.shortcut = None if same else nn.Sequential(conv1x1(n_in, channels, stride))
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        if self.shortcut is None:
            return out + x
        return out + self.shortcut(active if self.activated else x)


class PreActResNet(Target):
    """Stack four stages of `depths` blocks with width, 2, 4 and 8 width channels.

    Taps: layer3 and layer4, the outputs of layer3 (32x32 images: 256 channels, 8x8) and of layer4
    (512, 4x4; before the last batch norm and ReLU).

    Args:
        depths, width, num_classes: sizes.
        last_norm: "bn" for batch norm and ReLU before the pooling, "none" for neither (MAIR).
        activated: what the shortcuts see; no file says it. Fast AT (Wong et al. 2020) and
            Andriushchenko & Flammarion 2020 give them the input itself.
    """

    OPTIONS: ClassVar = {"width": 1, "last_norm": ("bn", "none")}
    SIZES: ClassVar[dict[str, str]] = {"width": "conv1.weight", "num_classes": "linear.weight"}

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        width: int,
        num_classes: int,
        last_norm: str,
        activated: bool,
    ):
        super().__init__(num_classes, layer3=4 * width, layer4=8 * width)
        self.conv1 = conv3x3(3, width)
        block, widths = (
            partial(Block, activated=activated),
            [width, 2 * width, 4 * width, 8 * width],
        )
        for number, stage in enumerate(stages(block, depths, width, widths), start=1):
            self.add_module(f"layer{number}", stage)
        self.bn = nn.BatchNorm2d(8 * width) if last_norm == "bn" else None
        self.linear = nn.Linear(8 * width, num_classes)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        layer3 = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        layer4 = self.layer4(layer3)
        last = layer4 if self.bn is None else F.relu(self.bn(layer4))
        return {"layer3": layer3, "layer4": layer4, "logits": self.linear(last.mean((2, 3)))}

    @classmethod
    def sizes_of(cls, state: dict[str, Tensor]) -> dict:
        """Read the options from the shapes, and `last_norm` from the names, of a state dict."""
        return super().sizes_of(state) | {"last_norm": "bn" if "bn.weight" in state else "none"}
