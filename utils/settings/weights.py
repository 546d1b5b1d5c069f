"""Declare the options that change the training of a target besides gradient descent."""

from dataclasses import dataclass

from utils.settings.values import need


@dataclass
class Weights:
    """Changes to the training of the target besides gradient descent. The paper uses none."""

    ema: float = 0.0
    """Decay of an exponential moving average of the weights and batch-norm statistics, say 0.999;
    0: off. The average is evaluated and kept instead of the network itself. After t steps the decay
    is min(EMA, (1+t)/(10+t)), so that the average of a short run does not consist of its first
    weights.
    """
    awp: float = 0.0
    """gamma of adversarial weight perturbation (Wu et al. 2020; its authors: 0.005 to 0.01); 0:
    off. Gradients and the logged loss are taken at weights moved up the loss by this fraction of
    each layer's norm.
    """
    awp_warmup: int = 0
    """Epochs at the beginning without weight perturbation (its authors begin late, say after 10 of
    200).
    """
    label_smoothing: float = 0.0
    """How much of a label is spread over all classes, in the cross-entropies of the loss (Pang et
    al. 2021: 0.1 to 0.3); 0: off. The attack sees the labels as they are.
    """

    def check(self) -> None:
        smoothing = self.label_smoothing
        need(0 <= smoothing < 1, "label_smoothing", smoothing, "give a share from 0 to below 1")
        need(0 <= self.ema < 1, "ema", self.ema, "give a decay from 0 (off) to below 1, say 0.999")
        need(
            0 <= self.awp < 1,
            "awp",
            self.awp,
            "give a fraction of the weights' norm from 0 (off) to below 1, say 0.005",
        )
        need(self.awp_warmup >= 0, "awp_warmup", self.awp_warmup, "give 0 or more epochs")

    def check_loss(self, loss) -> None:
        """Refuse smoothed labels for a loss (`utils.training.registry`) that has none."""
        need(
            loss.takes_smoothing or self.label_smoothing == 0,
            "label_smoothing",
            self.label_smoothing,
            "applies to the cross-entropy and TRADES; give 0",
        )
