"""Define what target networks offer: logits, and on request a feature map of the same pass."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.normalisation import NORMALISATIONS, checked


class Target(nn.Module):
    """Map images in [0, 1], (N,3,H,W), to logits (N,num_classes): the base of the target networks
    h.

    In most, global average pooling precedes the classifier, so any H and W from 16 up work; a
    network of `models.encoder` takes images of one size. A subclass defines `maps`. `models.build`
    adds ``arch``, ``options`` and ``about``.

    Attributes:
        tap_channels: {"logits": num_classes, "layer3": C3, "layer4": C4}, the channels of each
            output of `forward`.
    """

    # The arguments that `models.build` can change, besides num_classes, with the least number or
    # the choices of each.
    OPTIONS: ClassVar[dict[str, int | tuple[str, ...]]] = {"width": 1}
    # The state dict entry whose first dimension is an option's value, for files without options.
    SIZES: ClassVar[dict[str, str]] = {}

    arch: str
    options: dict
    about: dict  # plain facts about its training
    mean: Tensor | None
    std: Tensor | None

    def __init__(self, num_classes: int, layer3: int, layer4: int):
        super().__init__()
        self.tap_channels = {"logits": num_classes, "layer3": layer3, "layer4": layer4}
        # Not in the state dict, whose names are those of published files; `options` keeps them.
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("std", None, persistent=False)

    def normalise(self, mean, std) -> None:
        """Make the network normalise the images in [0,1] that it takes: (x - mean) / std.

        mean, std: a number for each of the three channels, or one for all. `options` keeps them, so
        that `models.save` writes them; mean 0 and std 1 leave the images as they are.
        """
        normalisation = checked(mean, std)
        for name in ("mean", "std"):
            self.options.pop(name, None)
            setattr(self, name, None)
        if normalisation == NORMALISATIONS["none"]:
            return
        self.mean, self.std = (torch.tensor(side).view(3, 1, 1) for side in normalisation)
        self.options |= {"mean": list(normalisation[0]), "std": list(normalisation[1])}

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Run one forward pass of images as the first layer takes them, and return its outputs.

        {"layer3": (N,C3,H3,W3), "layer4": (N,C4,H4,W4), "logits": (N,num_classes)}.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, tap: str | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits; with a `tap` ("layer3", "layer4" or "logits"), return (logits, that
        output of the same pass).
        """
        if tap is not None and tap not in self.tap_channels:
            raise ValueError(f"no tap {tap!r}; choose from: {', '.join(self.tap_channels)}")
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        maps = self.maps(x)
        return maps["logits"] if tap is None else (maps["logits"], maps[tap])

    @classmethod
    def sizes_of(cls, state: dict[str, Tensor]) -> dict:
        """Read the options of `models.build` from the shapes of a state dict."""
        return {
            option: state[name].shape[0]
            for option, name in cls.SIZES.items()
            if name in state and state[name].ndim
        }

    @staticmethod
    def adapt(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the entries of a published state dict to the names used here."""
        return state
