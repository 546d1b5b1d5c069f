"""--preset released: one whole step of each stage against a computation of its own, in float64."""

import copy
import math

import one_batch
import pytest
import torch
import torch.nn.functional as F
from conftest import succeed

import models
import train_MI_estimator
import train_MI_estimator_only_max
import train_MIAT
import train_standard
from models import mi
from utils.devices import Compute
from utils.mi.estimator import MIEstimator
from utils.settings.command_line import parse

COMPUTE = Compute(torch.device("cpu"), "fp32")
N, UNITS, STEP = 8, 6, 0.007


@pytest.fixture
def networks():
    """A narrow target whose labels are partly its own, so that no set is empty, and both estimators."""
    torch.manual_seed(5)
    target = models.build("resnet18", width=4).double()
    nets = {
        kind: MIEstimator(mi.LocalNet(UNITS), mi.GlobalNet(10, UNITS), "dv-released").double()
        for kind in ("natural", "adversarial")
    }
    x = torch.rand(N, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        y = target.train()(x).log_softmax(0).argmax(1)
    y[-1] = (y[-1] + 1) % 10
    return target, nets, x, y


def released_attack(target, x, y, steps, epsilon=8 / 255):
    """PGD as the released scripts have it under Linf, from the same start as ours."""
    target.eval()
    noise = 0.001 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(9))
    x_adv = (x + noise.clamp(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(target(x_adv), y), x_adv)
        x_adv = (
            (x_adv.detach() + STEP * gradient.sign()).clamp(x - epsilon, x + epsilon).clamp(0, 1)
        )
    return x_adv.detach()


def released_dv(estimator, pattern, output):
    """The released bound, sample by sample: the positive pair enters each sum as exp(0)."""
    local, encoded = estimator.local_net(pattern), estimator.global_net(output)[:, :, 0]
    values = []
    for i in range(N):
        u = torch.stack(
            [
                torch.stack([encoded[i] @ local[j, :, place] for place in range(local.shape[2])])
                for j in range(N)
            ]
        )
        negatives = torch.stack([torch.zeros_like(u[0]) if j == i else u[j] for j in range(N)])
        values.append((u[i] - negatives.exp().sum(0).log() + math.log(N - 1)).mean())
    return torch.stack(values)


def released_labels(logits):
    return (logits.exp() / logits.exp().sum(0)).argmax(1)


def cosine(a, b, mask):
    a, b = a * mask, b * mask
    return (a @ b) / (a.norm() * b.norm())


def gradient_of(loss, parameters):
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)])


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_stage_1(networks):
    target, _, x, y = networks
    again = copy.deepcopy(target)  # a step moves the batch-norm statistics, which the attack sees
    settings = parse(train_standard.Settings, "", ["--preset", "released"])
    loss = one_batch.stage_1(x, y, target.train(), settings, torch.Generator().manual_seed(9))
    weights = list(target.parameters())
    found = loss.detach(), gradient_of(loss, weights)
    x_adv = released_attack(again, x, y, 10)
    loss = F.cross_entropy(again.train()(x_adv), y)
    same(found, (loss.detach(), gradient_of(loss, list(again.parameters()))))


@pytest.mark.parametrize("script", [train_MI_estimator, train_MI_estimator_only_max])
def test_stage_2(script, networks):
    target, nets, x, y = networks
    settings = parse(
        script.Settings, "", ["--preset", "released", "--epsilon", "0.004"]
    )  # leaves some images right
    assert settings.estimation.bound == "dv-released" and settings.estimation.n_units == 2048
    with torch.no_grad():
        y = released_labels(target.eval()(x))
    y[-1] = (y[-1] + 1) % 10
    plain = script is train_MI_estimator_only_max
    objectives = script.OBJECTIVES if plain else script.OBJECTIVES["cosine"]
    for net in nets.values():
        net.train()
    losses = one_batch.stage_2(
        *(x, y, target.eval(), nets, objectives, settings.attack, settings.estimation.selection),
        compare=not plain,
        generator=torch.Generator().manual_seed(9),
    )
    loss = sum(losses.values())
    weights = [weight for net in nets.values() for weight in net.parameters()]
    found = loss.detach(), gradient_of(loss, weights)

    x_adv = released_attack(target, x, y, 20, 0.004)
    with torch.no_grad():
        logits, logits_adv = target(x), target(x_adv)
    correct, fooled = released_labels(logits) == y, released_labels(logits_adv) != y
    wrong, right = correct & fooled, correct & ~fooled
    assert wrong.sum() > 1 and right.sum() > 1 and not torch.equal(correct, logits.argmax(1) == y)
    own_n = released_dv(nets["natural"], x, logits)
    own_a = released_dv(nets["adversarial"], x_adv - x, logits_adv)
    if plain:
        loss = -(own_n * correct).sum() / correct.sum() - (own_a * fooled).sum() / fooled.sum()
    else:
        other_n = released_dv(nets["natural"], x, logits_adv)
        other_a = released_dv(nets["adversarial"], x_adv - x, logits)
        natural = (
            5 * cosine(own_n, other_n, wrong).abs()
            - (own_n * wrong).sum() / correct.sum()
            + 0.5
            * (
                5 * (1 - cosine(own_n, other_n, right)).abs()
                - (own_n * right).sum() / correct.sum()
            )
        )
        adversarial = (
            5 * cosine(own_a, other_a, wrong).abs()
            - (own_a * wrong).sum() / wrong.sum()
            + 0.5
            * (
                8 * (1 - cosine(own_a, other_a, right)).abs()
                + 0.1 * (own_a * right).sum() / right.sum()
            )
        )
        loss = natural + adversarial
    same(found, (loss.detach(), gradient_of(loss, weights)))


def test_stage_3(networks):
    target, nets, x, y = networks
    again = copy.deepcopy(target)
    settings = parse(train_MIAT.Settings, "", ["--preset", "released"])
    for net in nets.values():
        net.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(9)
    loss, logged, *_ = one_batch.stage_3(x, y, target.train(), nets, settings, generator)
    weights = list(target.parameters())
    found = loss.detach(), gradient_of(loss, weights)

    x_adv = released_attack(again, x, y, 40)
    logits, logits_adv = again.train()(x), again(x_adv)
    wrong = (released_labels(logits) == y) & (released_labels(logits_adv) != y)
    assert wrong.sum() > 1 and not torch.equal(
        wrong, (logits.argmax(1) == y) & (logits_adv.argmax(1) != y)
    )
    assert logged["selected"] == wrong.double().mean()
    mi_loss = 0
    for kind, pattern in (("natural", x), ("adversarial", x_adv - x)):
        a, b = (released_dv(nets[kind], pattern, output) for output in (logits, logits_adv))
        mi_loss = mi_loss + (1 - cosine(a, b, wrong)).abs()
    loss = F.cross_entropy(logits_adv, y) + 5 * mi_loss
    same(found, (loss.detach(), gradient_of(loss, list(again.parameters()))))


def test_the_learning_rate_falls_before_the_released_epochs():
    """Its epochs count from 1; stage 3 has two warm-up epochs before them."""
    from utils.schedules import learning_rate

    for script, before in ((train_standard, 0), (train_MIAT, 2)):
        training = parse(script.Settings, "", ["--preset", "released"]).training
        assert training.epochs == 100 + before
        for epoch, expected in ((74, 0.1), (75, 0.01), (89, 0.01), (90, 0.001), (100, 0.001)):
            assert learning_rate(training, before + epoch - 1, 0, 196) == pytest.approx(expected), (
                script,
                epoch,
            )


def test_a_run_with_the_released_selection_says_so_and_differs(chain, tmp_path):
    from conftest import ESTIMATOR, same_bits

    words = [*ESTIMATOR, "--epochs", 1, "--pre-target", chain / "standard/best_model.pth"]
    for selection in ("eq6", "released"):
        succeed(
            "train_MI_estimator.py",
            *words,
            "--selection",
            selection,
            "--model-dir",
            tmp_path / selection,
        )
    assert not same_bits(
        tmp_path / "eq6/local_n_model.pth", tmp_path / "released/local_n_model.pth"
    )
