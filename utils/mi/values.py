"""The four MI values of each sample: either estimator, with the output for either image."""

from dataclasses import dataclass

import torch

from utils.attacks.projected_gradient import frozen
from utils.mi import patterns
from utils.mi.estimator import MIEstimator

PAIRS = {  # name in logs and tables -> (which estimator, which output); paper, section 3
    "natural_mi_of_natural": ("natural", "output"),
    "natural_mi_of_adversarial": ("natural", "output_adv"),
    "adversarial_mi_of_natural": ("adversarial", "output"),
    "adversarial_mi_of_adversarial": ("adversarial", "output_adv"),
}


@dataclass
class Examples:
    """Hold a batch of images and what a target makes of them: x, x_adv (N,3,H,W) in [0,1]; labels
    y (N,); logits (N,C); and the representation that the estimators see."""

    x: torch.Tensor
    y: torch.Tensor
    x_adv: torch.Tensor
    logits: torch.Tensor
    logits_adv: torch.Tensor
    output: torch.Tensor
    output_adv: torch.Tensor


@torch.no_grad()
def mi_values(batch: Examples, estimators: dict[str, MIEstimator]) -> dict[str, torch.Tensor]:
    """Compute {name in PAIRS: MI of each sample (N,), in nats}.

    The estimators run in eval mode; the negatives of a sample are the others of its batch.
    """
    values = {}
    pattern = {
        "natural": patterns.natural(batch.x, batch.x_adv),
        "adversarial": patterns.adversarial(batch.x, batch.x_adv),
    }
    for kind, estimator in estimators.items():
        with frozen(estimator):
            local = estimator.encode_pattern(pattern[kind])
            for name, (which, output) in PAIRS.items():
                if which == kind:
                    encoded = estimator.encode_output(getattr(batch, output))
                    values[name] = estimator.mi(local, encoded)
    return values
