"""What every target network offers: logits, and on request a feature map of the same forward pass."""

from typing import ClassVar

from torch import Tensor, nn


class Target(nn.Module):
    """Base of the target networks h: images in [0, 1], (N,3,H,W), to logits (N,num_classes).

    Global average pooling stands before the classifier, so any H and W from 16 up do. A subclass provides `maps`.
    `models.build` adds ``arch``, ``options`` and ``about``.

    Attributes:
        tap_channels: {"logits": num_classes, "stage3": C3, "stage4": C4}, the channels of what `forward` can return.
    """

    # Which entry of a state dict has the size of an option as its first dimension, for files that do not say it.
    SIZES: ClassVar[dict[str, str]] = {}

    def __init__(self, num_classes: int, stage3: int, stage4: int):
        super().__init__()
        self.tap_channels = {"logits": num_classes, "stage3": stage3, "stage4": stage4}

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """One forward pass: {"stage3": (N,C3,H3,W3), "stage4": (N,C4,H4,W4), "logits": (N,num_classes)}."""
        raise NotImplementedError

    def forward(self, x: Tensor, tap: str | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The logits; with a `tap` ("stage3", "stage4" or "logits"), the pair (logits, that map) from the same pass."""
        if tap is not None and tap not in self.tap_channels:
            raise ValueError(f"no tap {tap!r}; choose from: {', '.join(self.tap_channels)}")
        maps = self.maps(x)
        return maps["logits"] if tap is None else (maps["logits"], maps[tap])

    @staticmethod
    def adapt(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict under the names used here."""
        return state
