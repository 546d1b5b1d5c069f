"""Define what target networks offer: logits, and on request a feature map of the same pass."""

from typing import ClassVar

from torch import Tensor, nn


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

    def __init__(self, num_classes: int, layer3: int, layer4: int):
        super().__init__()
        self.tap_channels = {"logits": num_classes, "layer3": layer3, "layer4": layer4}

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Run one forward pass and return its outputs.

        {"layer3": (N,C3,H3,W3), "layer4": (N,C4,H4,W4), "logits": (N,num_classes)}.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, tap: str | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits; with a `tap` ("layer3", "layer4" or "logits"), return (logits, that
        output of the same pass).
        """
        if tap is not None and tap not in self.tap_channels:
            raise ValueError(f"no tap {tap!r}; choose from: {', '.join(self.tap_channels)}")
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
