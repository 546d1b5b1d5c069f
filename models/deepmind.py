"""Define the networks with SiLU (Gowal et al. 2020, Rebuffi et al. 2021, Wang et al. 2023).

They are a wide and a narrow pre-activation residual network with the padding of TensorFlow: a 3x3
convolution of stride 2 sees one row and one column of zeros, below and on the right. Parameters are
named as in the published checkpoints. These networks were trained on normalised images; files of
RobustBench hold the mean and the standard deviation, others do not.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.resnet import stages
from models.targets import Target
from models.wideresnet import STEM


def padded(x: Tensor, stride: int) -> Tensor:
    """Pad (N,C,H,W) for a 3x3 convolution whose output has 1/stride of the height and width."""
    return F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


def conv(n_in: int, n_out: int, stride: int, size: int = 3) -> nn.Conv2d:
    """Return a convolution without bias and padding."""
    return nn.Conv2d(n_in, n_out, size, stride, bias=False)


class WideUnit(nn.Module):
    """Apply batch norm, SiLU and 3x3 convolution twice, and a shortcut: (N,n_in,H,W) ->
    (N,n_out,H/stride,W/stride).

    Where the number of channels changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.stride = stride
        self.batchnorm_0 = nn.BatchNorm2d(n_in)
        self.conv_0 = conv(n_in, n_out, stride)
        self.batchnorm_1 = nn.BatchNorm2d(n_out)
        self.conv_1 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.shortcut = None if n_in == n_out else conv(n_in, n_out, stride, size=1)

    def forward(self, x: Tensor) -> Tensor:
        active = F.silu(self.batchnorm_0(x))
        out = self.conv_0(padded(active, self.stride))
        out = self.conv_1(F.silu(self.batchnorm_1(out)))
        return out + (x if self.shortcut is None else self.shortcut(active))


class Group(nn.Module):
    """Stack `depth` units; the first has the stride and changes the number of channels."""

    def __init__(self, depth: int, n_in: int, n_out: int, stride: int):
        super().__init__()
        rest = (WideUnit(n_out, n_out, stride=1) for _ in range(depth - 1))
        self.block = nn.Sequential(WideUnit(n_in, n_out, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class SiluWideResNet(Target):
    """Stack three groups of (depth - 4) / 6 units with width, 2 width and 4 width channels.

    Taps: layer3 and layer4, the outputs of the second and of the third group (before the last batch
    norm and SiLU).
    """

    SIZES: ClassVar[dict[str, str]] = {
        "width": "layer.0.block.0.conv_0.weight",
        "num_classes": "logits.weight",
    }

    def __init__(self, depth: int, width: int, num_classes: int):
        super().__init__(num_classes, layer3=2 * width, layer4=4 * width)
        units = (depth - 4) // 6
        self.init_conv = nn.Conv2d(3, STEM, 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            Group(units, STEM, width, stride=1),
            Group(units, width, 2 * width, stride=2),
            Group(units, 2 * width, 4 * width, stride=2),
        )
        self.batchnorm = nn.BatchNorm2d(4 * width)
        self.logits = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.logits.bias)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        layer3 = self.layer[1](self.layer[0](self.init_conv(x)))
        layer4 = self.layer[2](layer3)
        active = F.silu(self.batchnorm(layer4))
        return {"layer3": layer3, "layer4": layer4, "logits": self.logits(active.mean((2, 3)))}


class SiluBlock(nn.Module):
    """Apply batch norm, SiLU and 3x3 convolution twice, and a shortcut: (N,n_in,H,W) ->
    (N,channels,H/stride,W/stride).

    Where the shape changes, the shortcut is a 3x3 convolution of the input itself.
    """

    def __init__(self, n_in: int, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.batchnorm_0 = nn.BatchNorm2d(n_in)
        self.conv_2d_1 = conv(n_in, channels, stride)
        self.batchnorm_1 = nn.BatchNorm2d(channels)
        self.conv_2d_2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same = stride == 1 and n_in == channels
        self.shortcut = None if same else conv(n_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_2d_1(padded(F.silu(self.batchnorm_0(x)), self.stride))
        out = self.conv_2d_2(F.silu(self.batchnorm_1(out)))
        return out + (x if self.shortcut is None else self.shortcut(padded(x, self.stride)))


class SiluPreActResNet(Target):
    """Stack four stages of two blocks with width, 2, 4 and 8 width channels.

    Taps: layer3 and layer4, the outputs of the third and of the fourth stage (before the last batch
    norm and SiLU).
    """

    SIZES: ClassVar[dict[str, str]] = {"width": "conv_2d.weight", "num_classes": "logits.weight"}

    layer_0: nn.Sequential
    layer_1: nn.Sequential
    layer_2: nn.Sequential
    layer_3: nn.Sequential

    def __init__(self, width: int, num_classes: int):
        super().__init__(num_classes, layer3=4 * width, layer4=8 * width)
        self.conv_2d = nn.Conv2d(3, width, 3, padding=1, bias=False)
        widths = [width, 2 * width, 4 * width, 8 * width]
        for number, stage in enumerate(stages(SiluBlock, (2, 2, 2, 2), width, widths)):
            self.add_module(f"layer_{number}", stage)
        self.batchnorm = nn.BatchNorm2d(8 * width)
        self.logits = nn.Linear(8 * width, num_classes)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        layer3 = self.layer_2(self.layer_1(self.layer_0(self.conv_2d(x))))
        layer4 = self.layer_3(layer3)
        active = F.silu(self.batchnorm(layer4))
        return {"layer3": layer3, "layer4": layer4, "logits": self.logits(active.mean((2, 3)))}
