"""Signs that attacks failed, and the classifiers that a stochastic network is evaluated as."""

import pytest
import torch

import models
from common.errors import InputError
from utils.evaluation import masking
from utils.evaluation.predictors import FRESH_DRAWS, predictors


def row(accuracy, n=1000, **more):
    return {"accuracy": accuracy, "correct": round(accuracy * n / 100), "n": n, **more}


class Constant(torch.nn.Module):
    """Says class 3 for every image."""

    def forward(self, x):
        return torch.eye(10)[3].expand(len(x), 10)


def test_the_grey_image_leaves_the_class_that_is_predicted_for_it():
    labels = torch.tensor([3, 3, 1, 3, 2])
    right = torch.tensor([True, False, True, True, False])
    assert masking.grey_limit(Constant(), labels, right, (4, 4), "cpu") == 2


@pytest.mark.parametrize(
    "name, accuracy, norm, epsilon, rounded, warns",
    [
        ("fgsm", 40.6, "linf", 0.5, False, True),
        ("pgd-40", 11.5, "linf", 0.7, False, True),
        ("fgsm", 11.4, "linf", 0.5, False, False),
        ("fgsm", 40.6, "linf", 0.49, False, False),
        ("fgsm", 40.6, "l2", 0.5, False, False),
        ("none", 98.0, "linf", 0.5, False, False),
        ("deepfool", 98.0, "linf", 0.5, False, False),
        ("fgsm", 40.6, "linf", 0.5, True, False),
        ("fgsm", 40.6, "linf", 0.51, True, True),
    ],
)
def test_more_than_the_grey_image_leaves_is_no_robustness(
    name, accuracy, norm, epsilon, rounded, warns
):
    found = masking.of_grey(name, row(accuracy), 114, norm, epsilon, rounded)
    assert bool(found) == warns
    if warns:
        assert f"{name} leaves {accuracy:.2f} %" in found[0] and "11.40 %" in found[0]


def test_accuracy_that_does_not_fall_with_the_budget():
    falling = [row(60, epsilon=0.1), row(40, epsilon=0.2), row(40.5, epsilon=0.3)]
    assert masking.of_sweep("fgsm", falling) == []
    (text,) = masking.of_sweep("fgsm", [*falling, row(55, epsilon=0.4)])
    assert "fgsm leaves 55.0 % at 0.4 and 40.5 % at 0.3" in text


def test_images_that_fool_the_bank_alone():
    assert masking.of_fresh("pgd-40", row(10.0, accuracy_fresh=11.0), "bank") == []
    (text,) = masking.of_fresh("pgd-40", row(10.0, accuracy_fresh=30.0), "bank")
    assert "images made for bank leave 10.0 % there and 30.0 % on single fresh draws" in text
    assert masking.of_fresh("none", row(90.0, accuracy_fresh=99.0), "bank") == []
    assert masking.of_fresh("pgd-40", row(10.0), "bank") == []


def network():
    torch.manual_seed(0)
    net = models.build("vib-mlp", width=16, layers=1, bottleneck=8, side=16).eval()
    with torch.no_grad():
        net.code.bias[8:] += 8  # a large sigma
    return net


def test_each_predictor_is_judged_and_attacked_as_it_should_be():
    net, x = network(), torch.rand(6, 3, 16, 16)
    for name in ("bank", "mean"):
        found = predictors(net, name, samples=5)
        assert found.judged is found.attacked and not found.random
        assert torch.equal(found.judged(x), found.judged(x))
    assert torch.equal(predictors(net, None).judged(x), net(x))
    found = predictors(net, "fresh", samples=5, attack_samples=7)
    assert found.random and found.judged is not found.attacked
    assert (found.judged.predictor.samples, found.attacked.predictor.samples) == (5, 7)
    found.restart(1)
    first = found.judged(x)
    assert not torch.equal(found.judged(x), first)
    found.restart(1)
    assert torch.equal(found.judged(x), first)


def test_single_draws_are_counted_one_by_one():
    net, x = network(), torch.rand(6, 3, 16, 16)
    y = net(x).argmax(1)
    found = predictors(net, "bank")
    found.restart(5)
    count = found.right(x, y)
    found.restart(5)
    by_hand = sum(
        int(a == b) for _ in range(FRESH_DRAWS) for a, b in zip(found.single(x).argmax(1), y)
    )
    assert count == by_hand and 0 < count < FRESH_DRAWS * 6


def test_a_predictor_for_a_network_without_a_bottleneck_is_refused():
    plain = models.build("resnet18", width=2)
    assert predictors(plain, None) is None
    with pytest.raises(InputError, match="--predictor fresh: this network has no bottleneck"):
        predictors(plain, "fresh")
