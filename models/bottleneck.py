"""Define classifiers with a Gaussian bottleneck (Alemi et al. 2017): x -> t -> logits.

The encoder gives p(t|x) = N(mu(x), diag sigma(x)^2), t in R^K, and the decoder q(y|t) = softmax of
its outputs. An image is scaled to [-1,1] first, and sigma = softplus(rho - 5), as in the authors'
code. `models.predictors` says how a classifier is made of it.
"""

import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from models.normalisation import NORMALISATIONS, checked
from models.predictors import Bank, Predictor
from models.targets import Target

SMALLEST_SIGMA = 1e-6
DECODER_WIDTH = 256  # of the hidden layer of decoder "mlp"
# Matrix products of few rows, and the last elements of a tensor whose size is no multiple of a
# vector register's, take other paths through the libraries, which round otherwise. A batch is
# filled up to a multiple of so many images, so that an image has the same outputs, bit for bit, in
# any batch.
ROWS = 64

NOISES = ("learned", "unit", "none")
DECODERS = ("linear", "mlp")


class Bottleneck(Target):
    """A classifier with `layers` hidden layers of `width` units, `narrow` of width/2, and K =
    `bottleneck` units.

    Taps: layer3, the output of the last layer of `width` units, (N,width,1,1), or of the
    convolutions where there are any; layer4, that of the last hidden layer.

    Args:
        width, num_classes, layers, narrow, bottleneck: sizes.
        side: of the images that the network sees: others are cropped to it, or padded with black,
            around the centre.
        noise: of t: "learned" (sigma(x)), "unit" (sigma = 1) or "none" (t = mu).
        decoder: "linear", or "mlp" with one hidden layer of 256 units.
        convolutions: whether two 3x3 convolutions with ReLU and 2x2 pooling precede the layers
            (channels 3-32-64). Otherwise the network sees the mean of the three channels.

    Attributes:
        predictor: what `forward` makes of (mu, sigma), a `Bank` at first; it may be replaced.
        class_means: the means of the backward encoder b(t|y) = N(V_y, I) of CEB, (num_classes, K),
            with noise "unit" alone.
    """

    OPTIONS: ClassVar = {
        **{"width": 1, "layers": 1, "narrow": 0, "bottleneck": 1, "side": 1},
        **{"noise": NOISES, "decoder": DECODERS},
    }

    def __init__(  # noqa: PLR0913
        self,
        width: int,
        num_classes: int,
        layers: int,
        narrow: int,
        bottleneck: int,
        side: int,
        noise: str,
        decoder: str,
        convolutions: bool,
    ):
        last = max(1, width // 2) if narrow else width
        super().__init__(num_classes, layer3=64 if convolutions else width, layer4=last)
        self.side, self.noise, self.predictor = side, noise, Bank()
        self.features, inputs = None, side * side
        if convolutions:
            self.features = nn.Sequential(*_halving(3, 32), *_halving(32, 64))
            inputs = 64 * (side // 4) ** 2
        self.wide = _hidden(inputs, width, layers)
        self.narrow = _hidden(width, last, narrow)
        self.code = nn.Linear(last, 2 * bottleneck if noise == "learned" else bottleneck)
        hidden = [nn.Linear(bottleneck, DECODER_WIDTH), nn.ReLU()] if decoder == "mlp" else []
        self.decoder = nn.Sequential(
            *hidden, nn.Linear(DECODER_WIDTH if hidden else bottleneck, num_classes)
        )
        if noise == "unit":
            self.class_means = nn.Parameter(torch.empty(num_classes, bottleneck))
            nn.init.xavier_uniform_(self.class_means)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def normalise(self, mean, std) -> None:
        """Refuse a normalisation: the network scales its images itself."""
        if checked(mean, std) != NORMALISATIONS["none"]:
            raise InputError("mean and std: this network scales its images itself; leave them out")

    def seen(self, x: Tensor) -> Tensor:
        """Return what the first layer sees of images (N,3,H,W), before the scaling to [-1,1]:
        (N, side^2) grey, or (N,3,side,side).
        """
        spare = [self.side - size for size in x.shape[2:]]
        top, left = (each // 2 for each in spare)  # below 0: F.pad crops
        x = F.pad(x, (left, spare[1] - left, top, spare[0] - top))
        return x.mean(1).flatten(1) if self.features is None else x

    def hidden(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs of the layers before the half-width ones, as a map, and of the last
        hidden layer, from `seen`.
        """
        scaled = 2 * seen - 1
        maps = scaled if self.features is None else self.features(scaled)
        wide = self.wide(maps.flatten(1))
        return wide[:, :, None, None] if self.features is None else maps, self.narrow(wide)

    def gaussian(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and sigma of p(t|x), each (N,K), from the last hidden layer's output."""
        code = self.code(hidden)
        if self.noise == "learned":
            mu, rho = code.chunk(2, 1)
            return mu, F.softplus(rho - 5).clamp_min(SMALLEST_SIGMA)
        fill = torch.ones_like if self.noise == "unit" else torch.zeros_like
        return code, fill(code)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and sigma of p(t|x) of images (N,3,H,W) in [0,1], each (N,K)."""
        return self.gaussian(self.hidden(self.seen(x))[1])

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Run one forward pass; the logits are those of `predictor`."""
        return self.classified(x, self.predictor)

    def classified(self, x: Tensor, predictor: Predictor) -> dict[str, Tensor]:
        """Run one forward pass with the logits of another predictor."""
        n, short = len(x), -len(x) % ROWS
        if predictor.deterministic and short > 0:
            x = torch.cat([x, x.new_zeros(short, *x.shape[1:])])
        layer3, hidden = self.hidden(self.seen(x))
        logits = predictor(self.decoder, *self.gaussian(hidden))
        return {"layer3": layer3[:n], "layer4": hidden[:n, :, None, None], "logits": logits[:n]}


class Predicted(nn.Module):
    """A bottleneck network with a predictor of its own: images (N,3,H,W) -> logits (N,C)."""

    def __init__(self, net: Bottleneck, predictor: Predictor):
        super().__init__()
        self.net, self.predictor = net, predictor

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images in [0,1]."""
        return self.net.classified(x, self.predictor)["logits"]


def _hidden(inputs: int, width: int, layers: int) -> nn.Sequential:
    """Return `layers` linear layers of `width` units, each with ReLU."""
    sizes = [inputs] + [width] * layers
    pairs = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*(part for pair in pairs for part in pair))


def _halving(n_in: int, n_out: int) -> list[nn.Module]:
    """Return a 3x3 convolution, ReLU and 2x2 pooling."""
    return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
