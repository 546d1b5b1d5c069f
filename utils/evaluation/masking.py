"""Warnings: signs that attacks failed, rather than that a network is robust."""

import math

import torch

from utils.attacks import registry
from utils.attacks.projected_gradient import frozen

SLACK = 0.01  # share of the images by which two counts must differ


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


def of_sweep(name: str, points: list[tuple[float, dict]]) -> list[str]:
    """Warn where an attack fools fewer images with a larger budget.

    points: (budget, row), from the smallest budget up.
    """
    for (small, before), (large, after) in zip(points, points[1:]):  # noqa: RUF007
        if after["correct"] - before["correct"] > max(1, SLACK * after["n"]):
            return [
                f"{name} leaves {after['accuracy']:.1f} % at {large:.4g} and "
                f"{before['accuracy']:.1f} % at {small:.4g}: accuracy does not fall with the "
                "budget; gradients are masked or the attack is broken"
            ]
    return []


def of_fresh(name: str, row: dict, predictor: str) -> list[str]:
    """Warn where images that fool one classifier of a stochastic network do not fool another.

    The accuracy on single fresh draws exceeds that of the attacked classifier by more than 1 % and
    by 4 standard errors.
    """
    if name == "none" or row.get("accuracy_fresh") is None:
        return []
    share, n = row["accuracy"] / 100, row["n"]
    slack = max(SLACK, 4 * math.sqrt(share * (1 - share) / n))
    if row["accuracy_fresh"] / 100 - share <= slack:
        return []
    return [
        f"{name}: images made for {predictor} leave {row['accuracy']:.1f} % there and "
        f"{row['accuracy_fresh']:.1f} % on single fresh draws; try --predictor fresh as well"
    ]
