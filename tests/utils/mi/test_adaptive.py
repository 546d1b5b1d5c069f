"""The adaptive attack: its objective written out, the ball, PGD as a special case, images that
leave."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import InputError
from models.mi import GlobalNet, LocalNet
from utils.attacks.registry import attack, parse, settings_of
from utils.devices import Compute
from utils.evaluation.counted import Counted
from utils.mi.adaptive import Known, _Objective
from utils.mi.estimator import MIEstimator
from utils.mi.names import adaptive_terms

EPSILON = {"linf": 0.1, "l2": 0.8}


class Network(nn.Module):
    """Three classes, batch norm, and a feature map of the same pass."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)
        self.linear = nn.Linear(36, 3)

    def forward(self, x, tap=None):
        features = self.norm(self.convolution(x)).tanh()
        logits = self.linear(features.flatten(1))
        return logits if tap is None else (logits, features)


class OfMap(nn.Module):
    """A global network for the feature map."""

    representation = "layer3"

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(36, 8)

    def forward(self, x):
        return self.linear(x.flatten(1))[:, :, None]


def estimator(global_net=None) -> MIEstimator:
    """An estimator with scores of the order of 1, so that no value saturates."""
    return MIEstimator(LocalNet(8), global_net or GlobalNet(3, 8), scaled=True).eval()


@pytest.fixture
def case():
    """A network, estimators, and images with labels: all float64."""
    torch.manual_seed(0)
    model = Network().double().eval()
    kinds = ("natural", "adversarial", "standard")
    estimators = {kind: estimator().double() for kind in kinds}
    x = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    return model, estimators, x, model(x).argmax(1)


def dv(estimator, pattern, output):
    """The Donsker-Varadhan value of each sample, as written: a log-mean-exp over the other
    samples."""
    local, vectors = estimator.local_net(pattern), estimator.global_net(output)[:, :, 0] / 8**0.5
    u = torch.einsum("iu,jul->ijl", vectors, local)
    others = ~torch.eye(len(u), dtype=torch.bool)
    values = []
    for i in range(len(u)):
        mean = u[i][others[i]].exp().mean(0).log()
        values.append((u[i, i] - mean).mean())
    return torch.stack(values)


def objective(model, nets, x, x_adv, y, ce_weight, weight, over=slice(None)):
    """J, written out, summed over the images `over`."""
    logits = model(x_adv)
    m = torch.zeros(len(x), dtype=x.dtype)
    if "natural" in nets:
        m = m - dv(nets["natural"], x, logits)
    if "adversarial" in nets:
        m = m + dv(nets["adversarial"], x_adv - x, logits)
    if "standard" in nets:
        m = m - dv(nets["standard"], x_adv, logits)
    ce = F.cross_entropy(logits, y, reduction="none")
    return (ce_weight * ce + weight * m)[over].sum()


@pytest.mark.parametrize("kinds", [("natural", "adversarial"), ("adversarial",), ("standard",)])
@pytest.mark.parametrize("weight, weights", [(0.5, (1, 0.5)), (float("inf"), (0, 1))])
def test_the_gradient_is_that_of_the_written_objective(case, kinds, weight, weights):
    model, estimators, x, y = case
    nets = {kind: estimators[kind] for kind in kinds}
    x_adv = (x + 0.05 * torch.randn_like(x)).requires_grad_(True)
    (expected,) = torch.autograd.grad(objective(model, nets, x, x_adv, y, *weights), x_adv)
    found, logits = _Objective(model, nets, x, y, weight).differentiate(x_adv.detach(), slice(None))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(logits, model(x_adv))


def test_an_image_that_left_stays_a_negative(case):
    model, estimators, x, y = case
    nets = {kind: estimators[kind] for kind in ("natural", "adversarial")}
    one = _Objective(model, nets, x, y, 0.5)
    first = x + 0.05 * torch.randn_like(x)
    one.differentiate(first.clone(), torch.arange(5))
    left, index = torch.tensor([0, 3]), torch.tensor([1, 2, 4])
    x_adv = (x + 0.05 * torch.randn_like(x)).requires_grad_(True)
    found, _ = one.differentiate(x_adv[index].detach(), index)
    fixed = torch.zeros(5, 1, 1, 1, dtype=torch.bool).index_fill(0, left, True)
    whole = torch.where(fixed, first, x_adv)
    written = objective(model, nets, x, whole, y, 1, 0.5, over=index)
    (expected,) = torch.autograd.grad(written, x_adv)
    torch.testing.assert_close(found, expected[index], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", EPSILON)
@pytest.mark.parametrize("name", ["mi-6", "mi-values-6"])
def test_it_stays_in_the_ball_and_the_box_and_raises_its_objective(case, name, norm):
    model, estimators, x, y = case
    nets = {kind: estimators[kind] for kind in ("natural", "adversarial")}
    known, epsilon = Known(nets, {}), EPSILON[norm]
    x_adv = attack(name, model, x, y, norm, epsilon, estimators=known)
    delta = (x_adv - x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert (size <= epsilon * (1 + 1e-9)).all() and x_adv.min() >= 0 and x_adv.max() <= 1
    weights = (1, 0.5) if name == "mi-6" else (0, 1)
    start = attack(name.replace("6", "1"), model, x, y, norm, epsilon, estimators=known)
    values = [objective(model, nets, x, each, y, *weights) for each in (start, x_adv)]
    assert values[1] > values[0]
    assert all(net.training is False for net in nets.values())
    assert all(p.requires_grad for net in nets.values() for p in net.parameters())


def test_with_weight_0_or_a_single_image_it_is_pgd(case):
    model, estimators, x, y = case
    known = Known({"natural": estimators["natural"]}, {})
    pgd = attack("pgd-5", model, x, y, "linf", 0.1, seed=7)
    without = attack("mi-5", model, x, y, "linf", 0.1, seed=7, estimators=known, weight=0.0)
    assert torch.equal(without, pgd)
    assert not torch.equal(attack("mi-5", model, x, y, seed=7, estimators=known), pgd)
    alone = [
        attack(name, model, x[:1], y[:1], "linf", 0.1, seed=7, **more)
        for name, more in (("pgd-5", {}), ("mi-5", {"estimators": known}))
    ]
    assert torch.equal(*alone)


def test_images_leave_at_the_first_iterate_that_fools(case):
    model, estimators, x, y = case
    known = Known({"natural": estimators["natural"], "adversarial": estimators["adversarial"]}, {})
    run = {"norm": "l2", "epsilon": 1.5, "estimators": known, "until_fooled": True}
    after = {n: attack(f"mi-{n}", model, x, y, **run) for n in (1, 4, 12)}
    fooled = {n: model(each).argmax(1) != y for n, each in after.items()}
    assert fooled[12].any() and fooled[1].sum() < fooled[12].sum()
    assert torch.equal(after[4][fooled[4]], after[12][fooled[4]])


def test_the_feature_map_that_the_estimators_take(case):
    """It comes from the pass that gives the logits, which is counted once, and so is its
    gradient."""
    _, _, x, y = case
    x, model = x.float(), Network().eval()
    nets = {kind: estimator(OfMap()) for kind in ("natural", "adversarial")}
    counted = Counted(model, Compute(torch.device("cpu"), "fp32", False)).eval()
    for name in ("mi-3", "mi-values-3"):
        counted.forwards = counted.backwards = 0
        attack(name, counted, x, y, "linf", 0.1, estimators=Known(nets, {}))
        assert (counted.forwards, counted.backwards) == (15, 15)
    x_adv = (x + 0.01).requires_grad_(True)
    features = model(x_adv, tap="layer3")[1]
    m = nets["adversarial"](x_adv - x, features) - nets["natural"](x, features)
    (expected,) = torch.autograd.grad(m.sum(), x_adv)
    one = _Objective(model, nets, x, y, float("inf"))
    found, _ = one.differentiate(x_adv.detach(), slice(None))
    torch.testing.assert_close(found, expected)


def test_what_is_known_of_it():
    assert parse("mi").name == "mi-40" and parse("mi-values-7").family == "mi-values"
    assert settings_of("mi-9", "l2", 0.5, estimators=Known({}, {"pre_local_n": "c0ffee"})) == {
        **{"norm": "l2", "epsilon": 0.5, "steps": 9, "step_size": 0.125, "weight": 0.5},
        "estimators": {"pre_local_n": "c0ffee"},
    }
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(InputError, match="--estimator-dir"):
        attack("mi-3", Network(), x, torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    "options, kinds",
    [
        ({}, {"natural": "n", "adversarial": "a"}),
        ({"mi_loss": "namid", "without": None}, {"natural": "n", "adversarial": "a"}),
        ({"mi_loss": "namid", "without": "natural"}, {"adversarial": "a"}),
        ({"mi_loss": "wmim", "without": None}, {"standard": "n"}),
        ({"defense": "wmim-ce"}, {"standard": "n"}),  # a model file by itself
        ({"defense": "standard"}, {"natural": "n", "adversarial": "a"}),
    ],
)
def test_the_terms_are_those_that_the_defense_used(options, kinds):
    assert adaptive_terms(options) == kinds
