"""The grey image, which bounds any classifier's accuracy under a large Linf budget."""

import torch

from utils.attacks.projected_gradient import project


def grey(model, x, y, epsilon) -> torch.Tensor:
    """Move each pixel as far towards 1/2 as the Linf budget allows.

    From epsilon = 1/2 on every image becomes the same, so that no classifier is right on more of
    them than have its largest class. Nothing is asked of the model.
    """
    return x + project(0.5 - x, "linf", epsilon)
