"""CE, TRADES and MART against plain-Python arithmetic and at extreme logits."""

import itertools
import math
from typing import get_args, get_type_hints

import pytest
import torch

from utils.training.losses import ce, mart, trades
from utils.training.registry import LOSSES

N, CLASSES = 5, 4


def batch(scale=2.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(2, N, CLASSES, generator=generator, dtype=torch.float64)).to(
        dtype
    )
    return logits[0], logits[1], torch.tensor([0, 3, 1, 1, 2])


def softmax(row):
    top = max(row)
    weights = [math.exp(v - top) for v in row]
    return [w / sum(weights) for w in weights]


def plain(logits, logits_adv, y, name, beta):
    """The mean over samples of the papers' formulas, with nothing but math."""
    total = 0.0
    for row, row_adv, label in zip(logits.tolist(), logits_adv.tolist(), y.tolist()):
        p, q = softmax(row), softmax(row_adv)
        kl = sum(a * math.log(a / b) for a, b in zip(p, q))
        if name == "ce":
            total += -math.log(q[label])
        elif name == "trades":
            total += -math.log(p[label]) + beta * kl
        else:
            wrong = max(v for k, v in enumerate(q) if k != label)
            total += (
                -math.log(q[label]) - math.log(1.0001 - wrong + 1e-12) + beta * kl * (1 - p[label])
            )
    return total / len(y)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(name, seed):
    logits, logits_adv, y = batch(seed=seed)
    value = LOSSES[name](logits, logits_adv, y, beta=6.0)
    assert value.item() == pytest.approx(plain(logits, logits_adv, y, name, 6.0), rel=1e-12)


@pytest.mark.parametrize("function", [trades, mart])
def test_beta_weighs_the_regulariser(function):
    logits, logits_adv, y = batch()
    values = [function(logits, logits_adv, y, beta=beta).item() for beta in (0, 1, 2)]
    assert (
        values[2] - values[1] == pytest.approx(values[1] - values[0], rel=1e-9)
        and values[1] > values[0]
    )
    assert function(logits, logits, y, beta=0).item() == pytest.approx(
        function(logits, logits, y, beta=9).item()
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    logits, logits_adv, y = batch()
    logits.requires_grad_(LOSSES[name].natural_pass)
    assert torch.autograd.gradcheck(
        lambda a, b: LOSSES[name](a, b, y, beta=2.0), (logits, logits_adv.requires_grad_())
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_for_logits_of_a_thousand(name, dtype):
    logits, logits_adv, y = batch(scale=1000, dtype=dtype)
    logits.requires_grad_(), logits_adv.requires_grad_()
    value = LOSSES[name](logits, logits_adv, y, beta=6.0)
    value.backward()
    assert value.dtype == torch.float32 and torch.isfinite(value)
    assert torch.isfinite(logits_adv.grad).all()
    assert logits.grad is None or torch.isfinite(logits.grad).all()


def test_ce_does_not_look_at_the_natural_logits():
    _, logits_adv, y = batch()
    assert torch.equal(ce(None, logits_adv, y), torch.nn.functional.cross_entropy(logits_adv, y))


def test_the_command_line_offers_exactly_these():
    import train_MIAT
    import train_standard

    assert set(get_args(get_type_hints(train_MIAT.Settings)["adv_loss"])) == set(LOSSES)
    defenses = set(get_args(get_type_hints(train_standard.Settings)["defense"]))
    assert defenses == {"natural", "standard"} | (set(LOSSES) - {"ce"})


def test_mart_at_logits_of_plus_and_minus_a_thousand():
    """Every pair of predictions from logits -1000, 0 and 1000 with every label: the value of each sample against arithmetic in
    log-probabilities, and finite gradients."""
    rows = list(itertools.product((-1000.0, 0.0, 1000.0), repeat=3))
    cases = list(itertools.product(rows, rows, range(3)))
    logits, logits_adv = (
        torch.tensor([case[i] for case in cases], requires_grad=True) for i in (0, 1)
    )
    y = torch.tensor([label for *_, label in cases])

    def log_softmax(row):
        top = max(row)
        return [v - top - math.log(sum(math.exp(w - top) for w in row)) for v in row]

    for i, (row, row_adv, label) in enumerate(cases):
        log_p, log_q = log_softmax(row), log_softmax(row_adv)
        kl = sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q))
        wrong = max(math.exp(v) for k, v in enumerate(log_q) if k != label)
        expected = (
            -log_q[label] - math.log(1.0001 - wrong + 1e-12) + 6 * kl * (1 - math.exp(log_p[label]))
        )
        value = mart(logits[i : i + 1], logits_adv[i : i + 1], y[i : i + 1])
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=2e-3), cases[
            i
        ]  # 1.0001 - 1 keeps 3 digits in float32
    mart(logits, logits_adv, y).backward()
    assert torch.isfinite(logits.grad).all() and torch.isfinite(logits_adv.grad).all()


@pytest.mark.parametrize("name", ["ce", "trades"])
def test_smoothed_labels_are_torchs(name):
    """And the smoothing of 0 leaves the bits; MART, which has no cross-entropy of p_y alone,
    none."""
    torch.manual_seed(0)
    logits, logits_adv = torch.randn(2, 7, 5, dtype=torch.float64)
    y = torch.arange(7) % 5
    loss = LOSSES[name].smoothed(0.3)
    value, plain = (
        loss(logits, logits_adv, y, beta=2.0),
        LOSSES[name](logits, logits_adv, y, beta=2.0),
    )
    seen = logits_adv if name == "ce" else logits
    more = torch.nn.functional.cross_entropy(seen, y, label_smoothing=0.3)
    assert value - plain == pytest.approx(
        (more - torch.nn.functional.cross_entropy(seen, y)).item(), rel=1e-12
    )
    assert torch.equal(LOSSES[name].smoothed(0.0)(logits, logits_adv, y, beta=2.0), plain)
    assert not LOSSES["mart"].takes_smoothing
