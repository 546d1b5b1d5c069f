"""Measure accuracies and mutual information on held-out images after an epoch."""

from collections.abc import Iterable

import torch

from data.batches import in_order
from utils import distributed
from utils.attacks.projected_gradient import frozen, pgd
from utils.devices import Compute
from utils.mi import patterns
from utils.mi.estimator import MIEstimator
from utils.mi.values import Examples, mi_values
from utils.settings.options import Attack, Training
from utils.training.stages import Stage


def examples(  # noqa: PLR0913
    target: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    attack: Attack,
    compute: Compute,
    representation: str = "logits",
    *,
    batch_size: int,
    seed: int,
) -> Iterable[Examples]:
    """Attack held-out images batch by batch, in float32, with the target in eval mode.

    Several processes attack different batches.

    Args:
        images, labels: uint8 (N,3,H,W) and int64 (N,).
        attack: the threat model and the step size of PGD, which takes `eval_steps` steps.
        representation: which output of the target the estimators see.
        batch_size: images attacked at once; the others are a sample's negatives.
        seed: seed of PGD's starts.
    """
    for number, (x, y) in enumerate(in_order(images, labels, batch_size, compute.device)):
        if number % distributed.count() != distributed.rank():
            continue
        with distributed.alone(), compute.eager():
            generator = compute.generator(seed, number)
            x_adv = pgd(target, x, y, *attack.eval_budget, generator=generator)
        with frozen(target), torch.no_grad(), compute.eager():
            logits, output = target(x, tap=representation)
            logits_adv, output_adv = target(x_adv, tap=representation)
        yield Examples(x, y, x_adv, logits, logits_adv, output, output_adv)


def held_out_examples(
    target: torch.nn.Module,
    stage: Stage,
    attack: Attack,
    training: Training,
    representation: str = "logits",
) -> Iterable[Examples]:
    """Attack the images that a stage holds out, as `examples` does."""
    return examples(
        *(target, stage.holdout_images, stage.holdout_labels, attack, stage.compute),
        representation,
        batch_size=training.batch_size,
        seed=training.seed,
    )


def held_out(batches: Iterable[Examples], estimators: dict[str, MIEstimator] | None = None) -> dict:
    """Measure accuracies and MI over the batches of all processes.

    Returns accuracies in percent, their mean ("score"), the largest fraction of images with the
    same predicted label, the mean Euclidean norm of the natural logits, and for each of the four MI
    values the means over W and over R and the deviation over W. A mean or deviation over no sample
    is None.

    batches: this process's. estimators: {"natural": E_n, "adversarial": E_a}, each (pattern,
    output) -> (N,), run in eval mode.
    """
    parts = []
    for batch in batches:
        with distributed.alone():
            parts.append(_counts(batch, estimators))
    parts = [part for each in distributed.together(parts) for part in each]
    if not parts:
        return {}
    n = sum(part["n"] for part in parts)
    natural = sum(part["natural"] for part in parts)
    robust = sum(part["robust"] for part in parts)
    largest = max(map(sum, zip(*(part["predicted"] for part in parts))))
    values = {
        "natural_accuracy": 100 * natural / n,
        "robust_accuracy": 100 * robust / n,
        "score": 50 * (natural + robust) / n,
        "largest_class": largest / n,
        "logit_norm": sum(part["norms"] for part in parts) / n,
    }
    return values | _mi_statistics([entry for part in parts for entry in part["mi"]])


def _counts(batch: Examples, estimators: dict[str, MIEstimator] | None) -> dict:
    """Count the correct labels, predicted classes and MI sums of a batch, as plain data."""
    predicted = batch.logits.argmax(1)
    return {
        "n": len(batch.y),
        "natural": (predicted == batch.y).sum().item(),
        "robust": (batch.logits_adv.argmax(1) == batch.y).sum().item(),
        "predicted": torch.bincount(predicted, minlength=batch.logits.shape[1]).tolist(),
        "norms": batch.logits.double().norm(dim=1).sum().item(),
        "mi": list(_mi_sums(batch, estimators)) if estimators and len(batch.y) > 1 else [],
    }


def _mi_statistics(entries: list[tuple]) -> dict:
    """Compute means, and deviations over W, from the entries that `_mi_sums` yields."""
    sums: dict[str, list] = {}
    values: dict[str, float | None] = {}
    for name, *entry in entries:
        sums[name] = [a + b for a, b in zip(sums.get(name, (0.0, 0.0, 0)), entry)]
    for name, (total, squares, count) in sums.items():
        values[name] = total / count if count else None
        if name.endswith("_W"):
            variance = max(squares / count - (total / count) ** 2, 0.0) if count else None
            values[f"{name}_deviation"] = None if variance is None else variance**0.5
    return values


def _mi_sums(batch: Examples, estimators: dict[str, MIEstimator]):
    """Yield (column, sum over the selected samples, sum of squares, their number).

    There is one tuple for each MI value and each of W and R.
    """
    masks = patterns.select(batch.logits, batch.logits_adv, batch.y)
    for name, mi in mi_values(batch, estimators).items():
        for chosen in ("W", "R"):
            mask = masks[chosen]
            some = torch.where(mask, mi, 0).double()
            total, squares = some.sum().item(), some.square().sum().item()
            yield f"{name}_{chosen}", total, squares, mask.sum().item()
