"""Define All-CNN-C (Springenberg et al. 2015, "Striving for Simplicity"), without dropout."""

from typing import ClassVar

from torch import Tensor, nn

from models.targets import Target


class AllCNN(Target):
    """Nine convolutions with ReLU, of width and 2 width channels; strides instead of pooling.

    Taps: layer3, the output of the second strided convolution (width 96, 32x32 images: 192
    channels, 8x8); layer4, that of the last hidden convolution, which is 1x1. Weights are
    initialised after He et al. 2015, since there is no batch norm.
    """

    SIZES: ClassVar[dict[str, str]] = {"width": "lower.0.weight", "num_classes": "classes.weight"}

    def __init__(self, width: int, num_classes: int):
        double = 2 * width
        super().__init__(num_classes, layer3=double, layer4=double)
        lower = [(3, width, 1), (width, width, 1), (width, width, 2)]
        lower += [(width, double, 1), (double, double, 1), (double, double, 2)]
        self.lower = nn.Sequential(
            *(part for sizes in lower for part in (_convolution(*sizes), nn.ReLU()))
        )
        self.upper = nn.Sequential(
            _convolution(double, double, 1), nn.ReLU(), nn.Conv2d(double, double, 1), nn.ReLU()
        )
        self.classes = nn.Conv2d(double, num_classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        layer3 = self.lower(2 * x - 1)
        layer4 = self.upper(layer3)
        logits = self.classes(layer4).mean((2, 3))
        return {"layer3": layer3, "layer4": layer4, "logits": logits}


def _convolution(n_in: int, n_out: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1)
