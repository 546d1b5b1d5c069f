"""Define the representation g of Zhu et al. 2020 ("Feature extractor"), and Baseline-H = h o g.

The first two convolutions are those of `models.mi.LocalNet`: one class of critics sees a
representation of its own kind.
"""

from typing import ClassVar

from torch import Tensor, nn

from common import files
from common.errors import InputError
from models import ENCODER
from models.mi import halve
from models.targets import Target

CODES = 64  # components of a code, at any width
HIDDEN = 200  # units of the MLP's hidden layer


def check_images(x: Tensor, size: list[int], what: str) -> None:
    """Raise InputError unless the images (N,3,H,W) are of the size that a network was built for."""
    if tuple(x.shape[1:]) != (3, *size):
        raise InputError(
            f"{what}: was built for images of 3x{size[0]}x{size[1]}, not "
            f"{'x'.join(map(str, x.shape[1:]))}; give the data set that it was trained on"
        )


class Encoder(nn.Module):
    """Map images in [0, 1], (N,3,H,W), to codes (N,64).

    Three 4x4 convolutions of stride 2 with width, 2 width and 4 width channels, a fully connected
    layer of 16 width units and one of 64. Batch norm and ReLU follow each but the last.

    Attributes: `arch` and `options` (width, size), which rebuild it; `about`, plain facts about its
    training.
    """

    arch = ENCODER

    def __init__(self, width: int = 64, size: tuple[int, int] = (32, 32)):
        super().__init__()
        height, length = size
        self.options: dict = {"width": width, "size": [height, length]}
        self.about: dict = {}
        self.layer0 = nn.Sequential(*halve(3, width))
        self.layer1 = nn.Sequential(*halve(width, 2 * width))
        self.layer2 = nn.Sequential(*halve(2 * width, 4 * width))
        n_inputs, hidden = 4 * width * (height // 8) * (length // 8), 16 * width
        self.hidden = nn.Sequential(
            nn.Linear(n_inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()
        )
        self.code = nn.Linear(hidden, CODES)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Run one forward pass and return its outputs.

        {"layer3": (N,2 width,H/4,W/4), "layer4": (N,4 width,H/8,W/8), "code": (N,64)}.
        """
        check_images(x, self.options["size"], "the encoder")
        layer3 = self.layer1(self.layer0(x))
        layer4 = self.layer2(layer3)
        return {
            "layer3": layer3,
            "layer4": layer4,
            "code": self.code(self.hidden(layer4.flatten(1))),
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)["code"]


class BaselineH(Target):
    """Classify the codes of an encoder by an MLP with one hidden layer: Baseline-H.

    Taps: layer3 and layer4, the encoder's second and third feature map (32x32 images, width 64: 128
    channels, 8x8; 256 channels, 4x4), and code, its codes.
    """

    SIZES: ClassVar[dict[str, str]] = {
        "width": "encoder.layer0.0.weight",
        "num_classes": "classifier.3.weight",
    }

    OPTIONS: ClassVar = {"width": 1, "size": 8}

    def __init__(self, width: int, size: tuple[int, int], num_classes: int):
        super().__init__(num_classes, layer3=2 * width, layer4=4 * width)
        self.tap_channels["code"] = CODES
        self.encoder = Encoder(width, size)
        self.classifier = self.head(num_classes)

    @staticmethod
    def head(num_classes: int) -> nn.Sequential:
        """Build the classifier h: codes (N,64) to logits (N,num_classes)."""
        return nn.Sequential(
            nn.Linear(CODES, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, num_classes),
        )

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.encoder.maps(x)
        return maps | {"logits": self.classifier(maps["code"])}

    @classmethod
    def sizes_of(cls, state: dict[str, Tensor]) -> dict:
        """Read the options from the shapes of a state dict; images are taken to be square."""
        sizes = super().sizes_of(state)
        flat = state.get("encoder.hidden.0.weight")
        if flat is not None and flat.ndim == 2 and "width" in sizes:
            side = 8 * round((flat.shape[1] / (4 * sizes["width"])) ** 0.5)
            sizes["size"] = [side, side]
        return sizes


class LinearH(BaselineH):
    """Classify the codes of an encoder by a linear layer."""

    SIZES: ClassVar[dict[str, str]] = BaselineH.SIZES | {"num_classes": "classifier.0.weight"}

    @staticmethod
    def head(num_classes: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(CODES, num_classes))


def load_encoder(path, device="cpu") -> Encoder:
    """Load an encoder from a file that `models.save` wrote, in eval mode, its metadata in `.about`.

    Raises InputError when the file is missing, damaged or holds something else.
    """
    content = files.read_file(path)
    state, arch = files.state_dict_of(content, path), content.get("arch")
    if arch != ENCODER:
        found = f"a {arch}" if isinstance(arch, str) else "a network without a name"
        raise InputError(
            f"{path}: holds {found}, not an encoder; give a file of train_worst_case_MI.py"
        )
    options = files.options_of(content, state, path)
    try:
        if not options:
            raise TypeError("no options")
        encoder = files.rebuilt(lambda: Encoder(**options), state)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{path}: its options {options!r} do not build an encoder; copy it or train it again"
        ) from None
    files.load_strictly(encoder, state, path, "an encoder")
    encoder.about = files.about_of(content, path)
    return encoder.to(device).eval()
