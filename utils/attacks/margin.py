"""PGD on the margin of the logits: a check for networks whose cross-entropy saturates."""

import torch

from utils.attacks.iterative import pgd


def pgd_margin(
    model,
    x,
    y,
    norm,
    epsilon,
    steps=100,
    step_size=None,
    restarts=1,
    seed=0,
    rounded=False,
    until_fooled=False,
) -> torch.Tensor:
    """Attack by PGD from `restarts` starts on max_{k != y} z_k - z_y, with z the logits.

    A step has the same direction however large the logits are, where the gradient of the
    cross-entropy is rounded to 0 for large ones.
    """
    more = {"rounded": rounded, "until_fooled": until_fooled, "loss": "margin"}
    return pgd(model, x, y, norm, epsilon, steps, step_size, restarts, seed, **more)
