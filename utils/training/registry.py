"""Register the adversarial losses. Nothing here imports torch: the command line needs the names."""

import importlib
from dataclasses import dataclass, replace
from functools import cached_property


@dataclass(frozen=True)
class AdversarialLoss:
    """Describe how a defense trains.

    function: dotted path of (logits, logits_adv, y) -> scalar, with `beta` where it takes one.
    attack: what its attack maximises, "ce" or "kl". natural_pass: whether it uses h(x).
    takes_smoothing: whether the function has `smoothing`, how much of a label is spread over all
    classes.
    """

    function: str
    attack: str
    natural_pass: bool
    takes_beta: bool
    takes_smoothing: bool = False
    smoothing: float = 0.0

    def smoothed(self, smoothing: float) -> "AdversarialLoss":
        """Return the loss with smoothed labels; a loss without cross-entropy as it is."""
        return replace(self, smoothing=smoothing) if self.takes_smoothing else self

    @cached_property
    def _function(self):
        """Import the function."""
        module, _, name = self.function.rpartition(".")
        return getattr(importlib.import_module(module), name)

    def __call__(self, logits, logits_adv, y, beta: float):
        """Compute the loss of logits h(x) and h(x~), (N,C), and labels y (N,)."""
        options = {"beta": beta} if self.takes_beta else {}
        options |= {"smoothing": self.smoothing} if self.takes_smoothing else {}
        return self._function(logits, logits_adv, y, **options)


_HERE = "utils.training.losses"
LOSSES = {
    "ce": AdversarialLoss(
        f"{_HERE}.ce", "ce", natural_pass=False, takes_beta=False, takes_smoothing=True
    ),
    "trades": AdversarialLoss(
        f"{_HERE}.trades", "kl", natural_pass=True, takes_beta=True, takes_smoothing=True
    ),
    "mart": AdversarialLoss(f"{_HERE}.mart", "ce", natural_pass=True, takes_beta=True),
}
