"""The two patterns of an adversarial image, and the sets of samples that the MI losses are taken over.

An adversarial image x~ of a natural image x is the sum of a natural pattern, x, and an adversarial one, n = x~ - x.
"""
import torch


def natural(x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    """The natural pattern of `x_adv`: the natural image `x` (N, 3, H, W), in [0, 1]."""
    return x


def adversarial(x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    """The adversarial pattern of `x_adv`: the perturbation (N, 3, H, W), as large as the attack's budget allows."""
    return x_adv - x


def select(logits: torch.Tensor, logits_adv: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Which samples the target classifies how, as boolean masks (N,).

    Args:
        logits, logits_adv: of the natural and of the adversarial images, (N, classes).
        y: labels (N,).

    Returns: "C", the natural image is classified correctly; of these "R", the adversarial image is too, and "W", it is
        not: the X' of Eq. 6. R and W part C.
    """
    if logits.dim() != 2 or logits_adv.shape != logits.shape or y.shape != logits.shape[:1]:
        raise ValueError(f"logits (N,classes), twice, and labels (N,) are needed, not {tuple(logits.shape)}, "
                         f"{tuple(logits_adv.shape)} and {tuple(y.shape)}")
    natural_right = logits.argmax(1) == y
    adversarial_right = logits_adv.argmax(1) == y
    return {"C": natural_right, "R": natural_right & adversarial_right, "W": natural_right & ~adversarial_right}
