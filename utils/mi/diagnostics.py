"""How MI tells natural from adversarial samples: values of each image, histograms, ROC curves.

Both kinds of MI need the natural image itself (the pattern x, or n = x~ - x), so what is measured
here is how far the values differ, not a detector that one could deploy. The values of the images of
a batch share their negatives.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from utils.mi.estimator import MIEstimator
from utils.mi.values import PAIRS, Examples, mi_values
from utils.plots import COLOURS, STYLES, save_figure

# kind of MI: (of natural samples, of adversarial samples, which way the paper expects adversarial
# samples to lie: section 3)
KINDS = {
    "natural": ("natural_mi_of_natural", "natural_mi_of_adversarial", "lower"),
    "adversarial": ("adversarial_mi_of_natural", "adversarial_mi_of_adversarial", "higher"),
}
SETS = {"all": "all images", "C": "right without attack", "R": "robust", "W": "fooled"}


def sample_values(
    batches: Iterable[Examples], estimators: dict[str, MIEstimator]
) -> dict[str, numpy.ndarray]:
    """Compute columns with an entry for each image, in the order of the images: "batch" (its
    number), "label", "prediction" (of x), "prediction_adversarial" (of x~), and the four MI values
    in nats under the names of `utils.mi.values.PAIRS`.

    estimators: {"natural": E_n, "adversarial": E_a}, each a `utils.mi.MIEstimator`; run in eval
    mode. An image's negatives are the others of its batch. Raises ValueError for a batch of a
    single image.
    """
    parts = []
    for number, batch in enumerate(batches):
        part = {
            "batch": torch.full_like(batch.y, number),
            "label": batch.y,
            "prediction": batch.logits.argmax(1),
            "prediction_adversarial": batch.logits_adv.argmax(1),
        }
        parts.append(part | mi_values(batch, estimators))
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


def masks(values: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """Select all images, and C, R and W as `utils.mi.patterns.select` defines them: {key of SETS:
    boolean (N,)}."""
    right, right_adv = (
        values[name] == values["label"] for name in ("prediction", "prediction_adversarial")
    )
    return {
        "all": numpy.ones_like(right),
        "C": right,
        "R": right & right_adv,
        "W": right & ~right_adv,
    }


def describe(values: dict[str, numpy.ndarray]) -> dict[str, dict[str, dict]]:
    """Describe the values: {name in PAIRS: {set: n, mean, sd and quantiles in nats}}.

    The sd of fewer than 2 images and all else of none is None.
    """
    found: dict[str, dict[str, dict]] = {}
    for name in PAIRS:
        found[name] = {}
        for chosen, mask in masks(values).items():
            some = values[name][mask].astype(numpy.float64)
            quantiles = None
            if len(some):
                quantiles = {q: numpy.quantile(some, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
            found[name][chosen] = {
                "n": len(some),
                "mean": some.mean() if len(some) else None,
                "sd": some.std(ddof=1) if len(some) > 1 else None,
                "quantiles": quantiles,
            }
    return found


def area(
    negatives: numpy.ndarray, positives: numpy.ndarray, z: float = 1.959964
) -> tuple[float, tuple[float, float] | None]:
    """Compute the area under the ROC curve of scores (N,) of natural and of adversarial samples,
    positives[i] of the same image as negatives[i], and its interval (95 % for the default z).

    The interval is DeLong's (1988) in its form for clustered data, the two samples of an image
    being one cluster (Obuchowski 1997), taken on the logit scale so that it stays within [0, 1].
    None where the two are separated completely: the estimated variance is then 0, which says
    nothing.
    """
    n = len(negatives)
    value = float(roc_auc_score(numpy.repeat([0, 1], n), numpy.concatenate([negatives, positives])))
    if n < 2 or not 0 < value < 1:
        return value, None

    def placement(some, among):
        """Compute the share of `among` below each of `some`, ties by half."""
        among = numpy.sort(among)
        return (
            numpy.searchsorted(among, some, "left") + numpy.searchsorted(among, some, "right")
        ) / (2 * n)

    influence = placement(positives, negatives) + 1 - placement(negatives, positives)
    logit, half = (
        math.log(value / (1 - value)),
        z * math.sqrt(influence.var(ddof=1) / n) / (value * (1 - value)),
    )
    return value, (1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit)))


def detection(values: dict[str, numpy.ndarray]) -> dict[str, dict[str, dict]]:
    """Measure how well each kind of MI tells adversarial from natural samples.

    Returns {kind of MI: {set: n (pairs of a natural and an adversarial sample), auc and interval;
    None of an empty set}}. The scores are signed as KINDS says: an area above 1/2 is what the paper
    expects, one below the reverse.
    """
    found: dict[str, dict[str, dict]] = {kind: {} for kind in KINDS}
    for kind, chosen, natural, adversarial in _scores(values):
        value, interval = area(natural, adversarial) if len(natural) else (None, None)
        found[kind][chosen] = {"n": len(natural), "auc": value, "interval": interval}
    return found


def _scores(values):
    """List (kind, set, scores of its natural samples, scores of its adversarial ones), the higher
    the more adversarial."""
    for kind, (natural, adversarial, side) in KINDS.items():
        sign = -1 if side == "lower" else 1
        for chosen, mask in masks(values).items():
            if chosen != "C":  # C is R and W together
                yield kind, chosen, sign * values[natural][mask], sign * values[adversarial][mask]


def plot_histograms(values: dict[str, numpy.ndarray], path: Path, title: str) -> None:
    """Plot histograms of natural and of adversarial MI to a PNG file: natural against adversarial
    samples, and both split into those that the network classifies correctly and wrongly.

    Values beyond the 0.5 % and 99.5 % quantiles are in the outermost bins.
    """
    right, right_adv = (
        values[name] == values["label"] for name in ("prediction", "prediction_adversarial")
    )
    figure, axes = plt.subplots(3, 2, figsize=(10, 9.5), sharex="col", layout="constrained")
    for column, (kind, (of_natural, of_adversarial, _)) in enumerate(KINDS.items()):
        natural, adversarial = values[of_natural], values[of_adversarial]
        low, high = numpy.quantile(numpy.concatenate([natural, adversarial]), (0.005, 0.995))
        panels = [
            {"natural samples": natural, "adversarial samples": adversarial},
            {"natural samples, right": natural[right], "natural samples, wrong": natural[~right]},
            {
                "adversarial samples, right": adversarial[right_adv],
                "adversarial samples, wrong": adversarial[~right_adv],
            },
        ]
        for row, (axis, groups) in enumerate(zip(axes[:, column], panels)):
            groups = {name: some for name, some in groups.items() if len(some)}
            bins = math.ceil(2 * min(map(len, groups.values())) ** (1 / 3))  # Rice's rule
            edges = numpy.histogram_bin_edges([low, high], bins)
            for i, (name, some) in enumerate(groups.items(), start=2 * row):
                axis.hist(
                    numpy.clip(some, low, high),
                    edges,
                    weights=numpy.full(len(some), 100 / len(some)),
                    histtype="step",
                    color=COLOURS[i],
                    linestyle=STYLES[i % 2],
                    linewidth=1.6,
                    label=f"{name} (n = {len(some)})",
                )
            axis.set(ylabel="% of the group", xlabel=f"{kind} MI (nats)" if row == 2 else None)
            axis.set_ylim(top=1.25 * axis.get_ylim()[1])  # room for the legend
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8, loc="upper left")
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def plot_roc(values: dict[str, numpy.ndarray], path: Path, title: str) -> None:
    """Plot ROC curves of telling adversarial from natural samples by each kind of MI (PNG)."""
    found = detection(values)
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for axis, (kind, (_, _, side)) in zip(axes, KINDS.items()):
        curves = [
            (chosen, natural, adversarial)
            for each, chosen, natural, adversarial in _scores(values)
            if each == kind and len(natural)
        ]
        for i, (chosen, natural, adversarial) in enumerate(curves):
            false, true, _ = roc_curve(
                numpy.repeat([0, 1], len(natural)), numpy.concatenate([natural, adversarial])
            )
            label = f"{SETS[chosen]}: AUC {interval_text(found[kind][chosen])}, n = {len(natural)}"
            axis.plot(
                false, true, color=COLOURS[i], linestyle=STYLES[i], linewidth=1.6, label=label
            )
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        axis.set(
            xlabel="natural samples called adversarial",
            ylabel="adversarial samples called adversarial",
            title=f"{kind} MI, {side} = adversarial",
            aspect="equal",
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower right")
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def interval_text(entry: dict) -> str:
    """Write an entry of `detection` as text: "0.612 (0.570-0.652)"."""
    if entry["auc"] is None:
        return "none"
    low_high = (
        "(separated)" if entry["interval"] is None else "({:.3f}-{:.3f})".format(*entry["interval"])
    )
    return f"{entry['auc']:.3f} {low_high}"
