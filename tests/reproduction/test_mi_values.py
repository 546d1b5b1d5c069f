"""The MI of Figures 2 and 4 against its definition."""

import pytest
import torch

from models import mi
from reproduction.mi_values import measure
from utils.mi.estimator import MIEstimator
from utils.mi.values import Examples


def test_the_values_are_means_over_the_fooled():
    """Two batches, each with right, fooled and wrong images: E_n(x; h(x~)), E_n(x~; h(x~)), ..., over the images that are right
    before and wrong after, with all of their batch as negatives."""
    torch.manual_seed(0)
    estimators = {
        kind: MIEstimator(mi.LocalNet(8), mi.GlobalNet(4, 8)).eval()
        for kind in ("natural", "adversarial")
    }
    examples = []
    for n in (7, 9):
        x, logits, logits_adv = torch.rand(n, 3, 16, 16), torch.randn(n, 4), torch.randn(n, 4)
        y = torch.where(torch.arange(n) < 5, logits.argmax(1), 3 - logits.argmax(1))
        examples.append(Examples(x, y, torch.rand_like(x), logits, logits_adv, logits, logits_adv))
    chosen = [
        (batch.logits.argmax(1) == batch.y) & (batch.logits_adv.argmax(1) != batch.y)
        for batch in examples
    ]
    assert all(0 < mask.sum() < len(mask) for mask in chosen)

    def mean(kind, pattern, output):
        with torch.no_grad():
            parts = [
                estimators[kind](pattern(batch), output(batch))[mask]
                for batch, mask in zip(examples, chosen)
            ]
        return torch.cat(parts).mean().item()

    def natural(batch):
        return batch.logits

    def adversarial(batch):
        return batch.logits_adv

    found = measure(examples, estimators)
    assert found.pop("n") == sum(mask.sum() for mask in chosen)
    assert found == pytest.approx(
        {
            "standard_mi_of_adversarial": mean("natural", lambda batch: batch.x_adv, adversarial),
            "natural_mi_of_natural": mean("natural", lambda batch: batch.x, natural),
            "natural_mi_of_adversarial": mean("natural", lambda batch: batch.x, adversarial),
            "adversarial_mi_of_natural": mean(
                "adversarial", lambda batch: batch.x_adv - batch.x, natural
            ),
            "adversarial_mi_of_adversarial": mean(
                "adversarial", lambda batch: batch.x_adv - batch.x, adversarial
            ),
        },
        rel=1e-4,
    )
    assert len({round(value, 6) for value in found.values()}) == 5


def test_no_fooled_image_leaves_no_value():
    estimators = {
        kind: MIEstimator(mi.LocalNet(4), mi.GlobalNet(4, 4)).eval()
        for kind in ("natural", "adversarial")
    }
    x, logits = torch.rand(5, 3, 16, 16), torch.randn(5, 4)
    found = measure([Examples(x, logits.argmax(1), x, logits, logits, logits, logits)], estimators)
    assert found.pop("n") == 0 and set(found.values()) == {None}
