"""Patterns of an adversarial image and the selection of Eq. 6."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from utils.mi import patterns


def test_the_two_patterns_make_the_adversarial_image():
    x, x_adv = torch.rand(2, 4, 3, 8, 8)
    assert patterns.natural(x, x_adv) is x
    torch.testing.assert_close(patterns.natural(x, x_adv) + patterns.adversarial(x, x_adv), x_adv)
    assert not patterns.adversarial(x, x).any()


def one_hot_logits(labels, classes=3):
    """Logits with their maximum at the given labels, though every column is greatest in the last row of the batch."""
    logits = torch.eye(classes)[torch.tensor(labels)]
    return logits + 10 * torch.arange(len(labels)).unsqueeze(1)


def test_selection_by_hand():
    y = torch.tensor([0, 1, 2, 0, 1])
    masks = patterns.select(one_hot_logits([0, 1, 2, 1, 0]), one_hot_logits([0, 2, 1, 0, 0]), y)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "C": [True, True, True, False, False],
        "R": [True, False, False, False, False],
        "W": [False, True, True, False, False],
        "fooled": [False, True, True, False, True],
    }


def test_the_released_selection_by_hand():
    """A softmax over the batch: an image's label is the class in which it stands out of the batch."""
    y = torch.tensor([1, 0])
    logits = torch.tensor(
        [[3.0, 2.0], [3.0, 0.0]]
    )  # image 0 has 1/2 of class 0 and 0.88 of class 1; image 1 has 1/2 and 0.12
    assert patterns.predicted(logits).tolist() == [0, 0] and patterns.predicted(
        logits, "released"
    ).tolist() == [1, 0]
    masks = patterns.select(logits, logits.flip(1), y, "released")
    assert (
        masks["C"].tolist() == masks["W"].tolist() == masks["fooled"].tolist() == [True, True]
        and not masks["R"].any()
    )
    assert patterns.select(logits, logits.flip(1), y)["C"].tolist() == [False, True]
    with pytest.raises(ValueError, match="choose one of eq6, released"):
        patterns.predicted(logits, "other")


def test_the_released_selection_is_a_softmax_over_the_batch():
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    batchwise = torch.tensor(
        [[logits[i, k].exp() / logits[:, k].exp().sum() for k in range(10)] for i in range(50)]
    )
    assert torch.equal(patterns.predicted(logits, "released"), batchwise.argmax(1))
    assert (patterns.predicted(logits, "released") != logits.argmax(1)).any()


def test_robust_and_fooled_part_the_correct():
    generator = torch.Generator().manual_seed(0)
    logits, logits_adv = torch.randn(2, 200, 3, generator=generator)
    y = torch.randint(3, (200,), generator=generator)
    masks = patterns.select(logits, logits_adv, y)
    assert torch.equal(masks["R"] | masks["W"], masks["C"])
    assert not (masks["R"] & masks["W"]).any()
    for i in range(200):
        assert masks["W"][i].item() == (
            logits[i].argmax() == y[i] and logits_adv[i].argmax() != y[i]
        )
    assert all(mask.any() for mask in masks.values())


def test_selection_never_asks_for_a_value():
    with FakeTensorMode():
        masks = patterns.select(
            torch.empty(4, 3), torch.empty(4, 3), torch.empty(4, dtype=torch.long)
        )
        assert all(mask.shape == (4,) and mask.dtype == torch.bool for mask in masks.values())


@pytest.mark.parametrize(
    "shapes",
    [
        ((4,), (4,), (4,)),
        ((4, 3), (4, 2), (4,)),
        ((4, 3), (4, 3), (4, 1)),
        ((4, 3), (5, 3), (4,)),
        ((4, 3), (4, 3), (3,)),
    ],
)
def test_shapes_that_do_not_fit(shapes):
    logits, logits_adv, y = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="labels"):
        patterns.select(logits, logits_adv, y.long())
