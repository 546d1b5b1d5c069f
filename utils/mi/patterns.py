"""The two patterns of an adversarial image, and the sets of samples that MI losses are taken over.

An adversarial image x~ of a natural image x is the sum of a natural pattern, x, and an adversarial
one, n = x~ - x.
"""

import torch

from utils.mi.names import SELECTIONS


def natural(x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    """Return the natural pattern of `x_adv`: the natural image `x` (N, 3, H, W), in [0, 1]."""
    return x


def adversarial(x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    """Compute the adversarial pattern of `x_adv`: the perturbation (N, 3, H, W), as large as the
    attack's budget allows."""
    return x_adv - x


def predicted(logits: torch.Tensor, selection: str = "eq6") -> torch.Tensor:
    """Return the labels (N,) that the selection of samples goes by, from logits (N, classes).

    selection: "eq6", the class of the largest logit; "released", as the released code has it: the
    class of the largest entry of a softmax over the batch, so that a sample's label depends on the
    other samples. Raises ValueError for another.
    """
    if selection not in SELECTIONS:
        raise ValueError(
            f"selection {selection!r} is unknown; choose one of {', '.join(SELECTIONS)}"
        )
    return (logits if selection == "eq6" else logits.log_softmax(0)).argmax(1)


def select(
    logits: torch.Tensor, logits_adv: torch.Tensor, y: torch.Tensor, selection: str = "eq6"
) -> dict[str, torch.Tensor]:
    """Select the samples that the MI losses are taken over, as boolean masks (N,).

    Args:
        logits, logits_adv: of the natural and of the adversarial images, (N, classes).
        y: labels (N,).
        selection: how labels are predicted; see `predicted`.

    Returns: "C", the natural image is classified correctly; of these "R", the adversarial image is
        too, and "W", it is not: the X' of Eq. 6. C consists of R and W. "fooled", the adversarial
        image is misclassified, whatever the natural one is.
    """
    if logits.dim() != 2 or logits_adv.shape != logits.shape or y.shape != logits.shape[:1]:
        raise ValueError(
            f"logits (N,classes), twice, and labels (N,) are needed, not {tuple(logits.shape)}, "
            f"{tuple(logits_adv.shape)} and {tuple(y.shape)}"
        )
    natural_right = predicted(logits, selection) == y
    adversarial_right = predicted(logits_adv, selection) == y
    return {
        "C": natural_right,
        "R": natural_right & adversarial_right,
        "W": natural_right & ~adversarial_right,
        "fooled": ~adversarial_right,
    }
