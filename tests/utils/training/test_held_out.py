"""What a stage records of held-out images, against its definition."""

import pytest
import torch
from torch import nn

from models.mi import GlobalNet, LocalNet
from utils.mi.estimator import MIEstimator
from utils.mi.patterns import select
from utils.mi.values import Examples
from utils.training.held_out import held_out


def batch(n: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 8, 8, generator=generator)
    x_adv = (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    logits, logits_adv = (
        torch.randn(n, 4, generator=generator),
        torch.randn(n, 4, generator=generator),
    )
    y = logits.argmax(1).where(
        torch.rand(n, generator=generator) < 0.7, torch.zeros(n, dtype=torch.int64)
    )
    return Examples(x, y, x_adv, logits, logits_adv, logits, logits_adv)


@pytest.fixture
def estimators():
    torch.manual_seed(0)
    return {
        kind: MIEstimator(LocalNet(8), GlobalNet(4, 8)).eval()
        for kind in ("natural", "adversarial")
    }


def test_means_and_deviations_are_over_the_samples_of_all_batches(estimators):
    batches = [batch(20, 1), batch(30, 2)]
    found = held_out(batches, estimators)
    values = {}
    with torch.no_grad():
        for each in batches:
            sets = select(each.logits, each.logits_adv, each.y)
            for name, mi in {
                "natural_mi_of_adversarial": estimators["natural"](each.x, each.output_adv),
                "adversarial_mi_of_natural": estimators["adversarial"](
                    each.x_adv - each.x, each.output
                ),
            }.items():
                for chosen in "WR":
                    values.setdefault(f"{name}_{chosen}", []).append(mi[sets[chosen]])
    for name, parts in values.items():
        assert found[name] == pytest.approx(torch.cat(parts).double().mean().item(), abs=1e-5)
        if name.endswith("_W"):
            assert found[f"{name}_deviation"] == pytest.approx(
                torch.cat(parts).double().std(correction=0).item(), abs=1e-5
            )
    assert found["logit_norm"] == pytest.approx(
        torch.cat([each.logits for each in batches]).norm(dim=1).mean().item(), rel=1e-5
    )
    counts = torch.cat([each.logits for each in batches]).argmax(1).bincount()
    assert found["largest_class"] == counts.max().item() / 50


def test_over_no_sample_there_is_no_value(estimators):
    each = batch(10, 3)
    each.logits_adv = each.logits  # nobody is fooled
    found = held_out([each], estimators)
    assert (
        found["natural_mi_of_natural_W"] is found["natural_mi_of_natural_W_deviation"] is None
        and found["natural_mi_of_natural_R"] is not None
    )


def test_a_large_offset_leaves_the_deviation_whole(estimators):
    """The mean of squares less the square of the mean, of values about 1,000 that differ by about 0.01."""
    each = batch(20, 4)

    class Offset(nn.Module):
        encode_pattern = encode_output = staticmethod(lambda tensor: tensor)

        def mi(self, local, output):
            return 1000 + 0.01 * output[:, 0]

    found = held_out([each], {"natural": Offset()})
    mask = select(each.logits, each.logits_adv, each.y)["W"]
    spread = (1000 + 0.01 * each.output[:, 0])[mask].double().std(correction=0).item()
    assert found["natural_mi_of_natural_W_deviation"] == pytest.approx(spread, rel=1e-3)
