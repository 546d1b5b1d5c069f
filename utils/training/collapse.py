"""Measure whether the MI part dominates the loss of stage 3, and warn of it and of collapse."""

import torch

from utils import distributed
from utils.attacks.projected_gradient import at_least_float32

# The gradient ratio above which a warning is printed. In results/cifar10-small the ratio was 0.7 to
# 1.9 in the run that learned and 4.6 in the first adversarial epoch of the run that collapsed.
DOMINANT = 3
# The fraction of held-out images with the same predicted label above which a warning is printed.
COLLAPSED = 0.9


def gradient_norm(loss: torch.Tensor, outputs: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
    """Compute the Euclidean norm of the gradient of `loss` in the target's outputs together.

    outputs: natural (None where the target did not see x) and adversarial ones.
    """
    if not loss.requires_grad:
        return torch.zeros_like(loss)
    seen = [output for output in outputs if output is not None]
    gradients = torch.autograd.grad(loss, seen, retain_graph=True, allow_unused=True)
    used = [gradient for gradient in gradients if gradient is not None]
    squares = (at_least_float32(gradient).square().sum() for gradient in used)
    square = sum(squares, torch.zeros_like(loss))  # 0 where the loss uses none of the outputs
    return distributed.add(square).sqrt() / distributed.count()


def gradient_norms(
    parts: dict[str, torch.Tensor], outputs: tuple[torch.Tensor | None, ...]
) -> dict[str, torch.Tensor]:
    """Compute `gradient_norm` of each part of a loss, as the log names it: {"gradient_NAME"}."""
    return {f"gradient_{name}": gradient_norm(part, outputs) for name, part in parts.items()}


def warnings(row: dict) -> list[str]:
    """Return the warnings that a row of the log calls for."""
    found = []
    ratio = row.get("gradient_mi", 0) / max(row.get("gradient_adv", 1), 1e-12)
    if ratio > DOMINANT:
        found.append(
            f"the gradient of alpha L_mi at the target's outputs is {ratio:.1f} times that of "
            "L_adv; a smaller --alpha or an --alpha-ramp may help"
        )
    largest = row.get("largest_class", 0)
    if largest > COLLAPSED:
        found.append(
            f"{100 * largest:.0f}% of the held-out images get the same label: the logits have "
            "collapsed; a smaller --alpha, --lam 0, an --alpha-ramp or --init may help"
        )
    return found
