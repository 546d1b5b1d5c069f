"""What a stage measures on held-out images after an epoch: accuracies and mutual information, over samples."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from data.batches import in_order
from utils import distributed
from utils.attacks.projected_gradient import frozen, pgd
from utils.devices import Compute
from utils.mi import patterns

PAIRS = {  # column of the record -> (which estimator, which output); paper, section 3
    "natural_mi_of_natural": ("natural", "output"),
    "natural_mi_of_adversarial": ("natural", "output_adv"),
    "adversarial_mi_of_natural": ("adversarial", "output"),
    "adversarial_mi_of_adversarial": ("adversarial", "output_adv"),
}


@dataclass
class Examples:
    """A batch of images with what a target says of them: x, x_adv (N,3,H,W) in [0,1]; labels y (N,); logits (N,C); and the
    representation that the estimators see."""

    x: torch.Tensor
    y: torch.Tensor
    x_adv: torch.Tensor
    logits: torch.Tensor
    logits_adv: torch.Tensor
    output: torch.Tensor
    output_adv: torch.Tensor


def examples(
    target: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings,
    compute: Compute,
    representation: str = "logits",
) -> Iterable[Examples]:
    """Attack held-out images (uint8) batch by batch with PGD of --eval-steps steps, in float32, the target in eval mode. Where
    there are several processes, each takes batches of its own."""
    attack = settings.attack
    for number, (x, y) in enumerate(
        in_order(images, labels, settings.training.batch_size, compute.device)
    ):
        if number % distributed.count() != distributed.rank():
            continue
        with distributed.alone(), compute.eager():
            x_adv = pgd(
                target,
                x,
                y,
                attack.norm,
                attack.epsilon,
                attack.eval_steps,
                attack.step_size,
                generator=compute.generator(settings.training.seed, number),
            )
        with frozen(target), torch.no_grad(), compute.eager():
            logits, output = target(x, tap=representation)
            logits_adv, output_adv = target(x_adv, tap=representation)
        yield Examples(x, y, x_adv, logits, logits_adv, output, output_adv)


def held_out(
    batches: Iterable[Examples], estimators: dict[str, torch.nn.Module] | None = None
) -> dict:
    """Accuracies in percent, their mean ("score"), the largest share of images that get one same label, the mean Euclidean norm
    of the natural logits, and of the four MI values the means over W and over R and the deviations over W; a mean or deviation
    over no sample is None.

    batches: this process's; the values are those over the batches of all. estimators: {"natural": E_n, "adversarial": E_a},
    each (pattern, output) -> (N,); run in eval mode.
    """
    parts = []
    for batch in batches:
        with distributed.alone():
            predicted = batch.logits.argmax(1)
            parts.append(
                {
                    "n": len(batch.y),
                    "natural": (predicted == batch.y).sum().item(),
                    "robust": (batch.logits_adv.argmax(1) == batch.y).sum().item(),
                    "predicted": torch.bincount(
                        predicted, minlength=batch.logits.shape[1]
                    ).tolist(),
                    "norms": batch.logits.double().norm(dim=1).sum().item(),
                    "mi": list(_mi_sums(batch, estimators))
                    if estimators and len(batch.y) > 1
                    else [],
                }
            )
    parts = [part for each in distributed.together(parts) for part in each]
    if not parts:
        return {}
    n, natural, robust = (sum(part[name] for part in parts) for name in ("n", "natural", "robust"))
    largest = max(map(sum, zip(*(part["predicted"] for part in parts))))
    values = {
        "natural_accuracy": 100 * natural / n,
        "robust_accuracy": 100 * robust / n,
        "score": 50 * (natural + robust) / n,
        "largest_class": largest / n,
        "logit_norm": sum(part["norms"] for part in parts) / n,
    }
    sums = {}
    for name, *entry in (entry for part in parts for entry in part["mi"]):
        sums[name] = [a + b for a, b in zip(sums.get(name, (0.0, 0.0, 0)), entry)]
    for name, (total, squares, count) in sums.items():
        values[name] = total / count if count else None
        if name.endswith("_W"):
            values[f"{name}_deviation"] = (
                max(squares / count - (total / count) ** 2, 0.0) ** 0.5 if count else None
            )
    return values


@torch.no_grad()
def mi_values(batch: Examples, estimators: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """{name in PAIRS: MI of each sample (N,), in nats}; the estimators run in eval mode, the negatives are the batch's."""
    values = {}
    pattern = {
        "natural": patterns.natural(batch.x, batch.x_adv),
        "adversarial": patterns.adversarial(batch.x, batch.x_adv),
    }
    for kind, estimator in estimators.items():
        with frozen(estimator):
            local = estimator.encode_pattern(pattern[kind])
            for name, (which, output) in PAIRS.items():
                if which == kind:
                    values[name] = estimator.mi(
                        local, estimator.encode_output(getattr(batch, output))
                    )
    return values


def _mi_sums(batch: Examples, estimators: dict[str, torch.nn.Module]):
    """(column, sum over the selected samples, sum of squares, their number) for each MI value and each of W and R."""
    masks = patterns.select(batch.logits, batch.logits_adv, batch.y)
    for name, mi in mi_values(batch, estimators).items():
        for chosen in ("W", "R"):
            mask = masks[chosen]
            some = torch.where(mask, mi, 0).double()
            yield (
                f"{name}_{chosen}",
                some.sum().item(),
                some.square().sum().item(),
                mask.sum().item(),
            )
