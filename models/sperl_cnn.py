"""Define the network of Sperl's and Boettinger's submissions to AutoAttack's table (2021).

The submissions (github.com/fra31/auto-attack, issues 41 and 42) name the layers: conv 32, conv 32,
max-pool, conv 64, conv 64, max-pool, flatten, dense 512, 256, 128, 128, 84, and the classes. Ours
are kernels of 3x3 with padding, ReLU, no batch norm, and He initialisation.
"""

from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.targets import Target

SIDE = 8  # of the last maps for 32x32 images, which the first dense layer sees
DENSE = (16, 8, 4, 4, 21 / 8)  # units of the dense layers for each channel of the first convolution


class SperlCNN(Target):
    """Stack two pairs of convolutions, each before a 2x2 max-pool, and five dense hidden layers.

    The pairs have width and 2 width channels, the dense layers 16, 8, 4, 4 and 21/8 width units.
    Images of another size than 32x32 work, since their last maps are average-pooled to 8x8. Taps:
    layer3 and layer4, the outputs of the first and the second pair before their pools (32x32
    images, width 32: 32 channels, 32x32; 64 channels, 16x16).
    """

    SIZES: ClassVar[dict[str, str]] = {"width": "conv1.0.weight", "num_classes": "linear.weight"}

    def __init__(self, width: int, num_classes: int):
        super().__init__(num_classes, layer3=width, layer4=2 * width)
        self.conv1 = _pair(3, width)
        self.conv2 = _pair(width, 2 * width)
        sizes = [2 * width * SIDE**2, *(max(1, round(width * units)) for units in DENSE)]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.dense = nn.Sequential(*layers)
        self.linear = nn.Linear(sizes[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.constant_(module.get_parameter("bias"), 0)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        layer3 = self.conv1(x)
        layer4 = self.conv2(F.max_pool2d(layer3, 2))
        pooled = F.max_pool2d(layer4, 2)
        if pooled.shape[2:] != (SIDE, SIDE):
            pooled = F.adaptive_avg_pool2d(pooled, SIDE)
        logits = self.linear(self.dense(pooled.flatten(1)))
        return {"layer3": layer3, "layer4": layer4, "logits": logits}


def _pair(n_in: int, channels: int) -> nn.Sequential:
    """Return two 3x3 convolutions that keep the size, each followed by a ReLU."""
    layers = []
    for inputs in (n_in, channels):
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)
