"""Warnings: signs that attacks failed, rather than that a network is robust."""

import itertools
import math

import torch

from utils.attacks import registry
from utils.attacks.projected_gradient import frozen
from utils.evaluation.counting import Evaluation

SLACK = 0.01  # share of the images by which two counts must differ
FRESH_SLACK = 0.05  # the same for a mean over draws of the noise


def of_row(evaluation: Evaluation, name: str, row: dict, epsilon: float) -> list[str]:
    """Warn of a row with all its images, of an attack with the budget epsilon."""
    found = []
    if evaluation.threat.norm == "linf" and epsilon >= 0.5:
        right = torch.tensor([outcome != "w" for outcome in row["outcomes"]])
        size, device = tuple(evaluation.images.shape[2:]), evaluation.compute.device
        kept = grey_limit(evaluation.model, evaluation.labels, right, size, device)
        found += of_grey(name, row, kept, "linf", epsilon, evaluation.rounded)
    if evaluation.predictors:
        found += of_fresh(name, row, evaluation.predictors.name)
    return found


def grey_limit(model, labels: torch.Tensor, right: torch.Tensor, size: tuple, device) -> int:
    """Count the images that a network keeps when every image is the same grey.

    Args:
        model: images (1,3,H,W) -> logits.
        labels, right: (N,), and which natural images the network gets right.
        size: (H, W).
    """
    with frozen(model), torch.no_grad():
        said = model(torch.full((1, 3, *size), 0.5, device=device)).argmax(1).item()
    return int((right & (labels == said)).sum())


def of_grey(name: str, row: dict, kept: int, norm: str, epsilon: float, rounded: bool) -> list[str]:
    """Warn where a bounded attack at Linf >= 1/2 leaves more images than the grey image does.

    kept: of `grey_limit`. With images rounded to 256 levels the grey image needs 128/255.
    """
    least = 128 / 255 if rounded else 0.5
    applies = norm == "linf" and epsilon >= least and registry.kind_of(name) == "bounded"
    if not applies or row["correct"] <= kept:
        return []
    return [
        f"{name} leaves {row['accuracy']:.2f} % at linf {epsilon:.4g}, where the grey image leaves "
        f"{100 * kept / row['n']:.2f} %: every image can be made the same grey, so the attack has "
        "failed, and this is not robustness"
    ]


def of_sweep(name: str, points: list[dict]) -> list[str]:
    """Warn where an attack fools fewer images with a larger budget.

    points: {"epsilon", "accuracy", "n"}, from the smallest budget up.
    """
    for before, after in itertools.pairwise(points):
        slack = max(100 / after["n"], 100 * SLACK)
        if after["accuracy"] - before["accuracy"] > slack:
            return [
                f"{name} leaves {after['accuracy']:.1f} % at {after['epsilon']:.4g} and "
                f"{before['accuracy']:.1f} % at {before['epsilon']:.4g}: accuracy does not fall "
                "with the budget; gradients are masked or the attack is broken"
            ]
    return []


def of_fresh(name: str, row: dict, predictor: str) -> list[str]:
    """Warn where images that fool one classifier of a stochastic network do not fool another.

    The accuracy on single fresh draws exceeds that of the attacked classifier by more than 5 % and
    by 4 standard errors.
    """
    if name == "none" or row.get("accuracy_fresh") is None:
        return []
    share, n = row["accuracy"] / 100, row["n"]
    slack = max(FRESH_SLACK, 4 * math.sqrt(share * (1 - share) / n))
    if row["accuracy_fresh"] / 100 - share <= slack:
        return []
    return [
        f"{name}: images made for {predictor} leave {row['accuracy']:.1f} % there and "
        f"{row['accuracy_fresh']:.1f} % on single fresh draws; try --predictor fresh as well"
    ]
