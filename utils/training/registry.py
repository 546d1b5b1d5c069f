"""Register the adversarial losses. Nothing here imports torch: the command line needs the names."""

import importlib
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class AdversarialLoss:
    """Describe how a defense trains.

    function: dotted path of (logits, logits_adv, y) -> scalar, with `beta` where it takes one.
    attack: what its attack maximises, "ce" or "kl". natural_pass: whether it uses h(x).
    """

    function: str
    attack: str
    natural_pass: bool
    takes_beta: bool

    @cached_property
    def _function(self):
        """Import the function."""
        module, _, name = self.function.rpartition(".")
        return getattr(importlib.import_module(module), name)

    def __call__(self, logits, logits_adv, y, beta: float):
        """Compute the loss of logits h(x) and h(x~), (N,C), and labels y (N,)."""
        return self._function(logits, logits_adv, y, **({"beta": beta} if self.takes_beta else {}))


_HERE = "utils.training.losses"
LOSSES = {
    "ce": AdversarialLoss(f"{_HERE}.ce", "ce", natural_pass=False, takes_beta=False),
    "trades": AdversarialLoss(f"{_HERE}.trades", "kl", natural_pass=True, takes_beta=True),
    "mart": AdversarialLoss(f"{_HERE}.mart", "ce", natural_pass=True, takes_beta=True),
}
