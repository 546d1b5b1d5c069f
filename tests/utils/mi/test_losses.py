"""The objectives of stages 2 and 3 against plain Python on the selected values, over every pattern of empty sets."""

import itertools
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from utils.mi import losses
from utils.mi.losses import (
    cosine_adversarial,
    cosine_natural,
    difference,
    maximum,
    namid,
    namid_parts,
)

# Each of 4 samples is W(rong after the attack), R(obust) or neither: all 81 batches, so every set is empty somewhere,
# and has exactly one sample somewhere.
BATCHES = ["".join(kinds) for kinds in itertools.product("WR-", repeat=4)]
STAGE_2 = {
    "natural": cosine_natural,
    "adversarial": cosine_adversarial,
    "difference": difference,
    "maximum": maximum,
}


def masks_of(batch):
    masks = {
        "W": torch.tensor([kind == "W" for kind in batch]),
        "R": torch.tensor([kind == "R" for kind in batch]),
    }
    return masks | {"C": masks["W"] | masks["R"]}


def values(n=4, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        each.requires_grad_()
        for each in 1 + 2 * torch.randn(count, n, generator=generator, dtype=torch.float64)
    ]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)


def mean(a):
    return sum(a) / len(a)


def expected_stage_2(name, a, b, batch):
    """The formulas of the method, on lists."""

    def chosen(values, kinds):
        return [value for value, kind in zip(values, batch) if kind in kinds]

    correct, a_w, b_w, a_r, b_r = (
        chosen(a, "WR"),
        chosen(a, "W"),
        chosen(b, "W"),
        chosen(a, "R"),
        chosen(b, "R"),
    )
    if name == "difference":
        return -(mean(a_w) - mean(b_w)) if a_w else 0.0
    if name == "maximum":
        return -mean(correct) if correct else 0.0
    if not correct:
        return -mean(a)
    total = 0.0
    if a_w:
        total += 5 * abs(cosine(a_w, b_w)) - (
            sum(a_w) / len(correct) if name == "natural" else mean(a_w)
        )
    if a_r and name == "natural":
        total += 0.5 * (5 * abs(1 - cosine(a_r, b_r)) - sum(a_r) / len(correct))
    if a_r and name == "adversarial":
        total += 0.5 * (8 * abs(1 - cosine(a_r, b_r)) + 0.1 * mean(a_r))
    return total


@pytest.mark.parametrize("name", STAGE_2)
def test_stage_2_on_every_batch(name):
    for seed, batch in enumerate(BATCHES):
        a, b = values(seed=seed)
        loss = STAGE_2[name](a, b, masks_of(batch))
        assert loss.shape == ()
        assert loss.item() == pytest.approx(
            expected_stage_2(name, a.tolist(), b.tolist(), batch), abs=1e-12
        ), batch
        gradients = torch.autograd.grad(loss, (a, b), allow_unused=True)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients), batch


def test_stage_2_by_hand():
    """W: a = (3, 4), b = (4, 3), cosine 24/25, mean of a 3.5; R: a = (1, 1), b = (1, 0), cosine 1/sqrt 2."""
    a, b = torch.tensor([3.0, 4.0, 1.0, 1.0, 100.0]), torch.tensor([4.0, 3.0, 1.0, 0.0, -100.0])
    masks = masks_of("WWRR-")
    gap = 1 - math.sqrt(0.5)
    expected = {
        "natural": (5 * 0.96 - 7 / 4) + 0.5 * (5 * gap - 2 / 4),
        "adversarial": (5 * 0.96 - 3.5) + 0.5 * (8 * gap + 0.1),
        "difference": -(3.5 - 3.5),
        "maximum": -9 / 4,
    }
    for name, function in STAGE_2.items():
        assert function(a, b, masks).item() == pytest.approx(expected[name], abs=1e-6)
    assert difference(a, b - 1, masks).item() == pytest.approx(-1)
    assert difference(a, b, masks_of("-WWR-")).item() == pytest.approx(-(2.5 - 2))


def test_maximum_over_a_set_of_the_caller():
    a = torch.tensor([1.0, 2.0, 4.0])
    masks = {"fooled": torch.tensor([True, False, True]), "none": torch.zeros(3, dtype=torch.bool)}
    assert maximum(a, None, masks, over="fooled").item() == pytest.approx(-2.5)
    assert maximum(a, None, masks, over="none").item() == 0


@pytest.mark.parametrize("name", STAGE_2)
@pytest.mark.parametrize("batch", ["WWRR", "WWWR", "WRRR"])
def test_stage_2_gradient(name, batch):
    a, b = values(seed=3)
    assert torch.autograd.gradcheck(lambda a, b: STAGE_2[name](a, b, masks_of(batch)), (a, b))


def expected_namid(four, batch, lam, without):
    natural, natural_adv, adversarial, adversarial_adv = (
        [value for value, kind in zip(each.tolist(), batch) if kind == "W"] for each in four
    )
    if not natural:
        return {"natural": 0.0, "adversarial": 0.0, "difference": 0.0}
    parts = {
        "natural": abs(1 - cosine(natural_adv, natural)),
        "adversarial": abs(1 - cosine(adversarial_adv, adversarial)),
        "difference": lam * mean([p - q for p, q in zip(adversarial_adv, natural_adv)]),
    }
    if without == "natural":
        parts |= {"natural": 0.0, "difference": lam * mean(adversarial_adv)}
    if without == "adversarial":
        parts |= {"adversarial": 0.0, "difference": -lam * mean(natural_adv)}
    return parts


@pytest.mark.parametrize("without", [None, "natural", "adversarial"])
@pytest.mark.parametrize("lam", [0.1, 0.0, 2.0])
def test_namid_on_every_batch(lam, without):
    for seed, batch in enumerate(BATCHES):
        four = values(count=4, seed=seed)
        mask = masks_of(batch)["W"]
        parts = namid_parts(*four, mask, lam=lam, without=without)
        loss = namid(*four, mask, lam=lam, without=without)
        expected = expected_namid(four, batch, lam, without)
        assert parts.keys() == expected.keys()
        for name, part in parts.items():
            assert part.item() == pytest.approx(expected[name], abs=1e-12), (batch, name)
        assert loss.item() == pytest.approx(sum(expected.values()), abs=1e-12)
        gradients = torch.autograd.grad(loss, four, allow_unused=True)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
        if not mask.any():
            assert loss.item() == 0
            assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_namid_by_hand():
    """Cosines 24/25 (natural) and 3/5 (adversarial); means 3.5 of E_n(x;h(x~)) and 1.5 of E_a(n;h(x~)); lambda 0.1."""
    natural, natural_adv = torch.tensor([4.0, 3.0, 7.0]), torch.tensor([3.0, 4.0, -7.0])
    adversarial, adversarial_adv = torch.tensor([5.0, 0.0, 9.0]), torch.tensor([9.0, 12.0, 1.0]) / 7
    mask = torch.tensor([True, True, False])
    four = natural, natural_adv, adversarial, adversarial_adv
    assert namid(*four, mask).item() == pytest.approx(0.04 + 0.4 + 0.1 * (1.5 - 3.5), abs=1e-6)
    assert namid(*four, mask, lam=0).item() == pytest.approx(0.44, abs=1e-6)


def test_what_is_left_out_is_not_needed():
    natural, natural_adv, adversarial, adversarial_adv = four = values(count=4)
    mask = torch.tensor([True, True, False, True])
    assert torch.equal(
        namid(None, None, adversarial, adversarial_adv, mask, without="natural"),
        namid(*four, mask, without="natural"),
    )
    assert torch.equal(
        namid(natural, natural_adv, None, None, mask, without="adversarial"),
        namid(*four, mask, without="adversarial"),
    )
    with pytest.raises(ValueError, match=r"'both'.*natural, adversarial"):
        namid(*four, mask, without="both")


@pytest.mark.parametrize("without", [None, "natural", "adversarial"])
@pytest.mark.parametrize("batch", ["WWRR", "WWWW", "-WWW"])
def test_namid_gradient(without, batch):
    mask = masks_of(batch)["W"]
    used = {None: slice(0, 4), "natural": slice(2, 4), "adversarial": slice(0, 2)}[without]

    def loss(*given):
        four = [None] * 4
        four[used] = given
        return namid(*four, mask, without=without)

    assert torch.autograd.gradcheck(loss, values(count=4, seed=3)[used])


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_selected_does_not_leak(poison):
    clean = values(count=4)
    masks = masks_of("WRW-")
    functions = {
        name: (lambda a, b, c, d, f=function: f(a, b, masks), [False, False, False, True])
        for name, function in STAGE_2.items()
        if name != "difference"
    }
    functions["difference"] = (
        lambda a, b, c, d: difference(a, b, masks),
        [False, True, False, True],
    )
    functions["namid"] = (lambda *four: namid(*four, masks["W"]), [False, True, False, True])
    for name, (function, unselected) in functions.items():
        expected = torch.autograd.grad(function(*clean), clean, allow_unused=True)
        poisoned = [
            each.detach().masked_fill(torch.tensor(unselected), poison).requires_grad_()
            for each in clean
        ]
        loss = function(*poisoned)
        assert torch.equal(loss, function(*clean)), name
        for gradient, wanted in zip(
            torch.autograd.grad(loss, poisoned, allow_unused=True), expected
        ):
            assert wanted is None or torch.equal(gradient, wanted), name


@pytest.mark.parametrize("batch", BATCHES[::5])
def test_vectors_of_zeros(batch):
    """The cosine of a zero vector is 0, as torch has it, and every gradient is finite."""
    masks = masks_of(batch)
    for zeros in itertools.product([False, True], repeat=2):
        pair = [torch.zeros(4) if zero else torch.tensor([1.0, -2.0, 3.0, 0.5]) for zero in zeros]
        pair = [each.requires_grad_() for each in pair]
        losses = [function(*pair, masks) for function in STAGE_2.values()]
        losses.append(namid(*pair, *pair, masks["W"]))
        for loss in losses:
            gradients = torch.autograd.grad(loss, pair, allow_unused=True)
            assert loss.isfinite()
            assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
        if any(zeros) and masks["W"].any():
            assert losses[-1].item() == pytest.approx(2)


def test_proportional_values_have_no_gap():
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    mask = torch.ones(4, dtype=torch.bool)
    assert losses.namid(a, 3 * a, a, 0.5 * a, mask, lam=0).item() == pytest.approx(0, abs=1e-6)
    assert losses.namid(a, -a, a, a, mask, lam=0).item() == pytest.approx(2)


def test_no_loss_asks_for_a_value():
    """Tensors without values raise where a function would wait for one."""
    with FakeTensorMode():
        four = [torch.empty(4, requires_grad=True) for _ in range(4)]
        masks = {name: torch.empty(4, dtype=torch.bool) for name in "CRW"}
        for function in STAGE_2.values():
            function(*four[:2], masks).backward()
        namid(*four, masks["W"]).backward()
        assert all(each.grad.shape == (4,) for each in four)


def test_wmim_is_minus_the_mean():
    (value,) = values(count=1)
    loss = losses.wmim(value)
    loss.backward()
    assert (
        loss.item() == pytest.approx(-mean(value.tolist())) and value.grad.tolist() == [-1 / 4] * 4
    )
