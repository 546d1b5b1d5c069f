"""Define VGG with batch norm (Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for
Large-Scale Image Recognition").

Configurations D and E, with a single linear classifier instead of three layers, as is usual for
small images.
"""

from typing import ClassVar

from torch import Tensor, nn

from models.targets import Target


class VGG(Target):
    """Stack five stages of `depths` 3x3 convolutions with width, 2, 4, 8 and 8 width channels.

    A 2x2 max-pool follows each stage. Taps: layer3 and layer4, the outputs of the third and fourth
    stage before their pools (32x32 images, width 64: 256 channels, 8x8; 512 channels, 4x4).
    """

    SIZES: ClassVar[dict[str, str]] = {"width": "features.0.weight", "num_classes": "linear.weight"}

    def __init__(self, depths: tuple[int, int, int, int, int], width: int, num_classes: int):
        super().__init__(num_classes, layer3=4 * width, layer4=8 * width)
        layers: list[nn.Module] = []
        n_in = 3
        for depth, factor in zip(depths, (1, 2, 4, 8, 8)):
            for _ in range(depth):
                layers += [
                    nn.Conv2d(n_in, factor * width, 3, padding=1),
                    nn.BatchNorm2d(factor * width),
                    nn.ReLU(),
                ]
                n_in = factor * width
            # With ceil_mode the fifth pool accepts the 1x1 map of 16x16 images; even sizes do not
            # change.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(n_in, num_classes)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        stages = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                stages.append(x)
            x = layer(x)
        return {"layer3": stages[2], "layer4": stages[3], "logits": self.linear(x.mean((2, 3)))}

    @staticmethod
    def adapt(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename ``classifier`` of other code to ``linear``."""
        names = {"classifier.weight": "linear.weight", "classifier.bias": "linear.bias"}
        return {names.get(name, name): value for name, value in state.items()}
