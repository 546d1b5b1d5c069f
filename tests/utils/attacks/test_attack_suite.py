"""What holds for every attack: bounds, a model left alone, seeds, independence of the batch."""

import logging
import random
import sys

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack

from common.errors import InputError
from utils.attacks import auto
from utils.attacks.registry import COLUMNS, FAMILIES, RELEASED, attack, choices, parse

EPSILON = {"linf": 0.05, "l2": 0.6}
QUICK = {"aa": {"queries": 20}, "square": {"queries": 100}}
# With so few steps each that all of them together stay quick.
NAMES = [
    "none",
    "fgsm",
    "bim-4",
    "pgd-4",
    "pgd-4x3",
    "pgd-margin-4",
    "mim-4",
    "tidim-4",
    "deepfool-5",
    "cw-10",
    "ddn-10",
    "sta-10",
    "fwa-5",
    "fwa-fw-5",
    "aa",
    "apgd-ce",
    "apgd-t",
    "fab-t",
    "square",
]
CASES = [(name, norm) for name in NAMES for norm in parse(name).norms]
FAST = [(name, norm) for name, norm in CASES if name not in ("aa", "apgd-t", "fab-t")]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """20 steps for the parts of AutoAttack; test_attack_suite_linear.py runs all 100."""

    def suite(*arguments, **options):
        made = AutoAttack(*arguments, **options)
        made.apgd.n_iter = made.apgd_targeted.n_iter = made.fab.n_iter = 20
        return made

    monkeypatch.setattr(auto, "AutoAttack", suite)


class Network(torch.nn.Module):
    """A small network with batch norm, for images of any size. `alone`: images pass one at a time, so that rounding
    cannot depend on the batch either."""

    def __init__(self, seed=0, classes=5, alone=False):
        super().__init__()
        self.alone = alone
        self.convolution = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(6)
        self.linear = torch.nn.Linear(6 * 4, classes)
        generator = torch.Generator().manual_seed(seed)
        for tensor in self.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.randn(tensor.shape, generator=generator).abs() * 0.5 + 0.1
                    if tensor.ndim == 1
                    else torch.randn(tensor.shape, generator=generator)
                )
        self.eval()

    def forward(self, x):
        if self.alone and len(x) > 1:
            return torch.cat([self.forward(image[None]) for image in x])
        features = torch.nn.functional.adaptive_avg_pool2d(self.norm(self.convolution(x)).tanh(), 2)
        return self.linear(features.flatten(1))


def images(n=6, seed=1):
    """Images with many pixels at the bounds of the box."""
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return ((x - 0.5) * 1.5 + 0.5).clamp(0, 1)


def settings(name):
    return QUICK.get(name, {})


def test_columns_and_released_settings_exist():
    for norm, names in COLUMNS.items():
        assert [parse(name, norm).name for name in names] == names
    x, model = images(2), Network()
    y = model(x).argmax(1)
    for norm, table in RELEASED.items():
        for name, changed in table.items():
            x_adv = attack(name, model, x, y, norm, EPSILON[norm], **changed, **settings(name))
            assert x_adv.shape == x.shape


@pytest.mark.parametrize("name, norm", CASES)
def test_stays_in_its_ball_and_in_the_box(name, norm):
    x, model = images(), Network()
    y = model(x).argmax(1)
    x_adv = attack(name, model, x, y, norm, EPSILON[norm], **settings(name))
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    difference = (x_adv - x).flatten(1)
    kind = parse(name).kind
    if kind == "bounded":
        size = difference.abs().amax(1) if norm == "linf" else difference.norm(dim=1)
        assert (size <= EPSILON[norm] * (1 + 1e-5)).all()
        assert (difference != 0).any()
    elif kind == "none":
        assert torch.equal(x_adv, x)
    else:
        failed = model(x_adv).argmax(1) == y
        if kind != "transport":
            assert torch.equal(x_adv[failed], x[failed])
        assert not failed.all()


@pytest.mark.parametrize("name, norm", CASES)
def test_leaves_everything_as_it_was(name, norm, capfd, caplog, recwarn):
    x, model = images(), Network().train()
    model.linear.eval()
    y = model(x).argmax(1)
    model.linear.bias.requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(number)) if number % 2 else None
    x.requires_grad_(True)

    def everything():
        return (
            [module.training for module in model.modules()],
            [p.requires_grad for p in model.parameters()],
            [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
            {key: value.tolist() for key, value in model.state_dict().items()},
            x.tolist(),
            x.grad,
            y.tolist(),
            torch.get_rng_state().tolist(),
            str(np.random.get_state()),
            random.getstate(),
            sys.gettrace(),
        )

    before = everything()
    x_adv = attack(name, model, x, y, norm, EPSILON[norm], **settings(name))
    assert everything() == before
    x_adv += 1  # a copy, not the images themselves
    assert x.max() <= 1
    assert capfd.readouterr() == ("", "") and not caplog.records and not recwarn.list


@pytest.mark.parametrize("name, norm", [case for case in CASES if not parse(case[0]).random])
def test_result_of_a_sample_does_not_depend_on_its_batch(name, norm):
    x, model = images(5), Network(alone=True)
    y = model(x).argmax(1)
    y[2] = (y[2] + 1) % 5  # one sample on which the network errs from the start
    together = attack(name, model, x, y, norm, EPSILON[norm])
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = attack(name, model, x[order], y[order], norm, EPSILON[norm])
    alone = torch.cat(
        [attack(name, model, x[i : i + 1], y[i : i + 1], norm, EPSILON[norm]) for i in range(5)]
    )
    # 2e-5: the transport attacks stop when the last image of the batch has its multiplier.
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=2e-5)
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-5)


def test_tidim_depends_on_seed_and_index_only():
    x, model = images(5), Network(alone=True)
    y = model(x).argmax(1)
    index = torch.tensor([10, 11, 12, 13, 14])
    together = attack("tidim-6", model, x, y, epsilon=0.05, index=index)
    part = torch.tensor([4, 1])
    assert torch.equal(
        attack("tidim-6", model, x[part], y[part], epsilon=0.05, index=index[part]), together[part]
    )
    assert not torch.equal(attack("tidim-6", model, x, y, epsilon=0.05, index=index + 1), together)
    assert not torch.equal(
        attack("tidim-6", model, x, y, epsilon=0.05, index=index, seed=1), together
    )


@pytest.mark.parametrize("name", ["pgd-3", "pgd-3x3", "tidim-4", "apgd-ce", "apgd-t", "square"])
def test_same_seed_same_images(name):
    x, model = images(), Network()
    y = model(x).argmax(1)
    first, same, other = (
        attack(name, model, x, y, "linf", 0.02, seed=seed, **settings(name)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_generator_of_pgd():
    x, model = images(), Network()
    y = model(x).argmax(1)
    first, same = (
        attack("pgd-3x2", model, x, y, generator=torch.Generator().manual_seed(8)) for _ in range(2)
    )
    assert torch.equal(first, same)


class Valley(torch.nn.Module):
    """Of one pixel v: class 1 wins below 0.4, by little and alone; from 0.45 on classes 1 and 2 rise with v, both in vain,
    but the cross-entropy of class 0 comes to be higher than where it loses."""

    def forward(self, x):
        v = x.flatten(1)
        rising = -1.05 + 4 * (v - 0.45)
        first = torch.where(v < 0.45, (20 * (0.4 - v)).clamp_max(0.2), rising)
        return torch.cat([torch.zeros_like(v), first, torch.where(v < 0.45, -10, rising)], 1)


def test_restarts_find_what_one_start_misses():
    x = torch.full((12, 1, 1, 1), 0.5)
    y = torch.zeros(12, dtype=torch.long)
    once = attack("pgd-20", Valley(), x, y, "linf", 0.2)
    often = attack("pgd-20x12", Valley(), x, y, "linf", 0.2)
    assert (once > 0.69).all() and (often < 0.4).all()


def test_images_made_in_inference_mode():
    model = Network()
    with torch.inference_mode():
        x = images()
        y = model(x).argmax(1)
        for name in ("pgd-2", "tidim-2", "cw-10", "sta-10", "fwa-5", "deepfool-5", "apgd-ce"):
            assert not torch.equal(attack(name, model, x, y, parse(name).norms[-1], 0.5), x)


def test_the_trace_function_stays():
    def trace(frame, event, argument):
        return None

    x, model, before = images(), Network(), sys.gettrace()
    sys.settrace(trace)
    try:
        attack("apgd-ce", model, x, model(x).argmax(1))
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is trace


def test_autoattack_is_silent_where_it_would_warn(capfd, caplog, recwarn):
    x, model = images(), torch.nn.Sequential(Network(), torch.nn.Softmax(1))
    y = model(x).argmax(1)
    attack("aa", model, x, y, queries=20)
    assert capfd.readouterr() == ("", "") and not caplog.records and not recwarn.list
    assert not logging.getLogger("auto-attack").disabled


@pytest.mark.parametrize(
    "name, passes",
    [
        ("none", 0),
        ("fgsm", 1),
        ("bim", 10),
        ("pgd-40", 40),
        ("pgd-40x3", 3 * 41),
        ("mim", 40),
        ("cw-20", 4 * 20 + 1 + 2),
        ("ddn-20", 20 + 2),
        ("sta", 100 + 2),
        ("fwa-40", 40),
        ("fwa-fw-40", 40),
    ],
)
def test_forward_passes(name, passes):
    """On images that no attack can make the network err on. Finding the number of classes takes 1 pass more, judging 2."""
    model = torch.nn.Sequential(Network())
    model[0].linear.bias.data[0] += 1000
    count = []
    model.register_forward_hook(lambda *_: count.append(1))
    attack(name, model, images(), torch.zeros(6, dtype=torch.long), parse(name).norms[0])
    assert len(count) == passes


def test_restarts_keep_the_highest_loss_where_all_fail():
    x, model = images(8), Network()
    y = model(x).argmax(1)

    def loss(x_adv):
        return torch.nn.functional.cross_entropy(model(x_adv), y, reduction="none")

    once, often = (attack(name, model, x, y, "linf", 0.002) for name in ("pgd-1", "pgd-1x4"))
    assert (loss(often) >= loss(once)).all() and (loss(often) > loss(once)).any()


@pytest.mark.parametrize("name, norm", FAST)
def test_network_under_autocast(name, norm):
    x, model = images(), Network()
    y = model(x).argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = attack(name, model, x, y, norm, EPSILON[norm], **settings(name))
    assert x_adv.dtype == torch.float32 and x_adv.isfinite().all()
    assert name == "none" or not torch.equal(x_adv, x)


@pytest.mark.parametrize("name, norm", FAST)
def test_float64(name, norm):
    x, model = images().double(), Network().double()
    y = model(x).argmax(1)
    x_adv = attack(name, model, x, y, norm, EPSILON[norm], **settings(name))
    assert x_adv.dtype == torch.float64 and (name == "none" or not torch.equal(x_adv, x))


@pytest.mark.parametrize("name", ["pgd-3", "fwa-3", "fwa-fw-3", "aa", "square"])
def test_no_budget_no_change(name):
    x, model = images(), Network()
    assert torch.equal(attack(name, model, x, model(x).argmax(1), "linf", 0.0), x)


@pytest.mark.parametrize("name, norm", CASES)
def test_empty_batch(name, norm):
    assert attack(name, Network(), images()[:0], torch.zeros(0, dtype=torch.long), norm).shape == (
        0,
        3,
        8,
        8,
    )


@pytest.mark.parametrize("epsilon", [-0.1, float("nan")])
def test_impossible_budget(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        attack("pgd-3", Network(), images(), torch.zeros(6, dtype=torch.long), epsilon=epsilon)


def test_unknown_setting():
    with pytest.raises(TypeError, match="stepsize"):
        attack("pgd-3", Network(), images(), torch.zeros(6, dtype=torch.long), stepsize=0.1)


@pytest.mark.parametrize("name", ["aa", "apgd-t"])
def test_too_few_classes(name):
    with pytest.raises(InputError, match=f"{name} needs at least 4 classes and this network has 3"):
        attack(name, Network(classes=3), images(), torch.zeros(6, dtype=torch.long))


def test_four_classes_are_enough_for_autoattack():
    x, model = images(), Network(classes=4)
    y = model(x).argmax(1)
    assert (model(attack("aa", model, x, y, "linf", 0.3, queries=50)).argmax(1) != y).any()


def test_tidim_says_when_a_network_takes_one_size_only():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    with pytest.raises(InputError, match="8x8 and 9x9"):
        attack("tidim", model, images(), torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize(
    "name",
    ["pgd-3", "mim-3", "deepfool-3", "cw-3", "ddn-3", "sta-3", "fwa-3", "fwa-fw-3", "apgd-ce"],
)
def test_channels_last_images_give_the_same(name):
    x, model = images(), Network()
    y = model(x).argmax(1)
    norm = parse(name).norms[-1]
    model_last = Network().to(memory_format=torch.channels_last)
    expected = attack(name, model, x, y, norm, EPSILON[norm])
    got = attack(name, model_last, x.to(memory_format=torch.channels_last), y, norm, EPSILON[norm])
    # DDN rounds to levels; the first step of Adam has the same length however small the gradient.
    torch.testing.assert_close(
        got, expected, rtol=0, atol={"ddn-3": 0.005, "sta-3": 0.005}.get(name, 1e-4)
    )


def test_every_family_is_tested_here_and_offered():
    elsewhere = {"grey", "aa-rand"}  # tests/utils/attacks/test_random_networks.py
    elsewhere |= {"mi", "mi-values"}  # tests/utils/mi/test_adaptive.py
    assert {parse(name).family for name in NAMES} == set(FAMILIES) - elsewhere
    assert {
        parse(choice.replace("STARTS", "2").replace("N", "3")).family for choice in choices()
    } == set(FAMILIES)
