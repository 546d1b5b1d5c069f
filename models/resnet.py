"""Define residual networks for small images (He et al. 2016, "Deep Residual Learning for Image
Recognition").

They follow section 4.2, with the four stages and widths of the paper's ImageNet networks and a 3x3
stem of stride 1 without pooling. Parameters are named as in the published CIFAR checkpoints
(TRADES, MART, AutoAttack's example).
"""

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.targets import Target


def conv3x3(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)


class SubsampledConv1x1(nn.Conv2d):
    """Compute a strided 1x1 convolution as one of stride 1 on every stride-th pixel, which is
    equal.

    The backward pass of the strided one with fewer than 8 input channels, channels last, writes out
    of bounds on CPUs with AVX2 but not AVX-512 (oneDNN 3.13.3 of torch 2.15.0), and the process
    dies.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight)


def conv1x1(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution without bias, subsampled first where the strided one would crash."""
    kind = SubsampledConv1x1 if stride > 1 and n_in < 8 else nn.Conv2d
    return kind(n_in, n_out, 1, stride, bias=False)


def projection(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """Return the shortcut: identity where the shape stays (He et al., Eq. 1), else a strided 1x1
    convolution (Eq. 2).
    """
    if stride == 1 and n_in == n_out:
        return nn.Sequential()
    return nn.Sequential(conv1x1(n_in, n_out, stride), nn.BatchNorm2d(n_out))


class BasicBlock(nn.Module):
    """Apply two 3x3 convolutions and a shortcut: (N,n_in,H,W) -> (N,channels,H/stride,W/stride)."""

    expansion = 1

    def __init__(self, n_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(n_in, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = projection(n_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """Apply 1x1, 3x3 (with the stride) and 1x1 convolutions: (N,n_in,H,W) -> (N,4
    channels,H/stride,W/stride).
    """

    expansion = 4

    def __init__(self, n_in: int, channels: int, stride: int):
        super().__init__()
        n_out = self.expansion * channels
        self.conv1 = conv1x1(n_in, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, n_out)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.shortcut = projection(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.shortcut(x))


def stages(
    block: Callable[..., nn.Module],
    depths: Iterable[int],
    n_in: int,
    widths: Iterable[int],
    expansion: int = 1,
) -> list[nn.Sequential]:
    """Stack blocks in stages; all but the first halve the height and width in their first block.

    Args:
        block: (n_in, channels, stride=) -> a block with expansion * channels output channels.
        depths: the blocks of each stage.
        n_in: channels of the input.
        widths: the channels of each stage.
    """
    found = []
    for number, (depth, channels) in enumerate(zip(depths, widths)):
        blocks = []
        for i in range(depth):
            blocks.append(block(n_in, channels, stride=2 if i == 0 and number else 1))
            n_in = expansion * channels
        found.append(nn.Sequential(*blocks))
    return found


class ResNet(Target):
    """Stack four stages of `depths` blocks with width, 2, 4 and 8 width channels.

    A bottleneck block outputs four times as many channels. Taps: layer3 and layer4, the outputs of
    layer3 (ResNet-18, 32x32 images: 256 channels, 8x8) and layer4 (512, 4x4).
    """

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
        bottleneck: bool = False,
    ):
        block = Bottleneck if bottleneck else BasicBlock
        widths = [width, 2 * width, 4 * width, 8 * width]
        layer3, layer4 = (block.expansion * channels for channels in widths[2:])
        super().__init__(num_classes, layer3, layer4)
        self.conv1 = conv3x3(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        stacked = stages(block, depths, width, widths, block.expansion)
        for number, stage in enumerate(stacked, start=1):
            self.add_module(f"layer{number}", stage)
        self.linear = nn.Linear(layer4, num_classes)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.bn1(self.conv1(x)))
        layer3 = self.layer3(self.layer2(self.layer1(x)))
        layer4 = self.layer4(layer3)
        return {"layer3": layer3, "layer4": layer4, "logits": self.linear(layer4.mean((2, 3)))}
