"""Build the optimizer of a target: SGD or Adam, and what --ema and --awp add to it."""

import torch

from utils.training.averaging import Average
from utils.training.weight_perturbation import WeightPerturbation


def optimisation(target: torch.nn.Module, settings) -> tuple:
    """Build what stages 1 and 3 need to train a target.

    Returns the optimizer; its `WeightPerturbation`, or None; the networks whose state a checkpoint
    holds; and the network that is evaluated and kept, the target or its `Average`.
    """
    training, weights = settings.training, settings.weights
    optimizer = _optimizer(target, training)
    perturbation = WeightPerturbation(target, weights.awp, optimizer) if weights.awp else None
    if not weights.ema:
        return optimizer, perturbation, {"target": target}, target
    average = Average(target, weights.ema, optimizer)
    return optimizer, perturbation, {"target": target, "average": average}, average.module


def _optimizer(target: torch.nn.Module, training) -> torch.optim.Optimizer:
    """Build the optimizer of --optimizer; Adam has no --momentum."""
    options = {"lr": training.lr, "weight_decay": training.weight_decay, "fused": True}
    if training.optimizer == "adam":
        return torch.optim.Adam(target.parameters(), **options)
    return torch.optim.SGD(target.parameters(), momentum=training.momentum, **options)
