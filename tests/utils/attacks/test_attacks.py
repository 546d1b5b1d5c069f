"""PGD against closed forms, a float64 reference and the invariants of its ball."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from utils.attacks import projected_gradient
from utils.attacks.projected_gradient import (
    bim,
    fgsm,
    frozen,
    l2_norm,
    pgd,
    project,
    random_start,
    steepest,
)

SHAPE = (3, 4, 4)


class Linear(nn.Module):
    """Logits +-(w.x + b)/2: the margin's gradient is w everywhere, so the worst point of a ball is known."""

    def __init__(self, dtype=torch.float64, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(
            torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype)
        )

    def forward(self, x):
        margin = (x * self.w).flatten(1).sum(1)
        return torch.stack([margin, -margin], 1) / 2


def small_network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(128, 4),
        )


def images(n, dtype=torch.float64, low=0.0, high=1.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (
        low + (high - low) * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    ).to(dtype)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_linf_reaches_the_corner_of_a_linear_model(n):
    model, x = Linear(), images(n, low=0.3, high=0.7)
    x_adv = pgd(model, x, torch.zeros(n, dtype=torch.int64), "linf", 0.1, steps=12)
    assert torch.allclose(x_adv, x - 0.1 * model.w.sign(), atol=1e-12)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_l2_reaches_the_boundary_along_the_gradient_of_a_linear_model(n):
    model, x = Linear(), images(n, low=0.3, high=0.7)
    x_adv = pgd(model, x, torch.ones(n, dtype=torch.int64), "l2", 0.2, steps=200)
    assert torch.allclose(x_adv, x + 0.2 * model.w / model.w.norm(), atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_equals_a_plain_reference_in_float64(norm, loss):
    """The iteration written out, one image at a time, by finite sums and PyTorch's own gradient of one image."""
    model, x, y = small_network().double().eval(), images(3), torch.tensor([0, 3, 1])
    epsilon, steps, step_size = 0.2, 5, 0.07
    start = 0.1 * torch.randn(
        3, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    expected = []
    for image, label, delta in zip(x, y, start):

        def clip(point, image=image):
            change = point.detach() - image
            if norm == "linf":
                change = torch.minimum(
                    torch.maximum(change, torch.tensor(-epsilon)), torch.tensor(epsilon)
                )
            elif math.sqrt((change**2).sum()) > epsilon:
                change = change * epsilon / math.sqrt((change**2).sum())
            return torch.minimum(
                torch.maximum(image + change, torch.tensor(0.0)), torch.tensor(1.0)
            )

        point = clip(image + delta)
        natural = model(image[None])[0].softmax(0).detach()
        for _ in range(steps):
            point = point.detach().requires_grad_()
            log_p = model(point[None])[0].log_softmax(0)
            value = -log_p[label] if loss == "ce" else (natural * (natural.log() - log_p)).sum()
            (gradient,) = torch.autograd.grad(value, point)
            direction = (
                gradient.sign() if norm == "linf" else gradient / math.sqrt((gradient**2).sum())
            )
            point = clip(point + step_size * direction)
        expected.append(point.detach())
    assert torch.allclose(
        pgd(model, x, y, norm, epsilon, steps, step_size, loss, start=start),
        torch.stack(expected),
        atol=1e-12,
    )


@given(
    st.sampled_from(["linf", "l2"]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    st.floats(0, 0.9),
    st.integers(0, 4),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_never_leaves_the_ball_or_the_box_by_more_than_a_rounding_step(
    norm, dtype, epsilon, steps, n, far_start
):
    x, y = images(n, dtype), torch.zeros(n, dtype=torch.int64)
    start = (
        5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        if far_start
        else None
    )
    x_adv = pgd(Linear(dtype), x, y, norm, epsilon, steps, step_size=0.3, start=start)
    assert x_adv.dtype == dtype and x_adv.shape == x.shape
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    delta = x_adv.double() - x.double()
    rounding = torch.finfo(dtype).eps  # of a number near 1
    if norm == "linf":
        assert delta.abs().max() <= epsilon + rounding
    else:
        assert delta.flatten(1).norm(dim=1).max() <= epsilon + rounding * math.sqrt(x[0].numel())


def test_a_zero_gradient_leaves_the_sample_where_it_is():
    class Flat(nn.Module):
        """Constant for images that are dark on the whole, linear for the others."""

        def forward(self, x):
            total = x.flatten(1).mean(1)
            total = torch.where(total > 0.2, total, 0 * total)
            return torch.stack([total, -total], 1)

    x = torch.cat([images(1, torch.float32, 0.0, 0.1), images(1, torch.float32, 0.4, 0.6)])
    for norm in ("linf", "l2"):
        x_adv = pgd(
            Flat(),
            x,
            torch.zeros(2, dtype=torch.int64),
            norm,
            0.1,
            steps=3,
            start=torch.zeros_like(x),
        )
        assert torch.equal(x_adv[0], x[0])
        assert torch.isfinite(x_adv).all() and (x_adv[1] < x[1]).all()


def test_the_model_is_left_as_it_was():
    model = small_network()
    model.train()
    model[3].eval()  # one submodule in another mode than the rest
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 7.0)
    before = copy.deepcopy(model)
    x = images(4, torch.float32)
    x_adv = pgd(model, x, torch.zeros(4, dtype=torch.int64))
    assert not x_adv.requires_grad
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    for (name, one), (_, other) in zip(model.named_parameters(), before.named_parameters()):
        assert one.requires_grad == other.requires_grad, name
        assert one.grad is None or (name == "5.weight" and (one.grad == 7).all()), name
    assert model[5].weight.grad is not None
    assert all(
        torch.equal(model.state_dict()[k], v) for k, v in before.state_dict().items()
    )  # batch-norm statistics too


def test_the_model_is_left_as_it_was_when_the_attack_fails():
    model = small_network().train()
    with pytest.raises(ZeroDivisionError), frozen(model):
        assert not model[0].training and not model[0].weight.requires_grad
        1 / 0  # noqa: B018
    assert all(m.training for m in model.modules()) and all(
        p.requires_grad for p in model.parameters()
    )


def test_crafted_in_eval_mode():
    """Dropout and batch statistics of train mode do not enter: the same images whatever mode the model is in."""
    model, x, y = small_network(), images(4, torch.float32), torch.tensor([0, 1, 2, 3])
    start = torch.zeros_like(x)
    assert torch.equal(pgd(model.train(), x, y, start=start), pgd(model.eval(), x, y, start=start))


@pytest.mark.parametrize(
    "loss, epsilon, step_size, start", [("ce", 2.0, 0.15, 0.05), ("kl", 4.0, 0.4, 0.3)]
)
def test_until_fooled_returns_the_first_iterate_that_is_wrong(loss, epsilon, step_size, start):
    """Against all iterates, one attack of each length; and it looks at no image longer than that."""
    model, x = small_network().double().eval(), images(12)
    y = model(x).argmax(1)
    settings = {
        "norm": "l2",
        "epsilon": epsilon,
        "step_size": step_size,
        "loss": loss,
        "start": start * images(12, seed=9),
    }
    iterates = torch.stack([pgd(model, x, y, steps=steps, **settings) for steps in range(11)])
    wrong = torch.stack([model(iterate).argmax(1) != y for iterate in iterates])
    first = torch.where(wrong.any(0), wrong.int().argmax(0), 10)
    seen = []
    hook = model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    found = pgd(model, x, y, steps=10, until_fooled=True, **settings)
    hook.remove()
    assert torch.allclose(found, iterates[first, torch.arange(12)], atol=1e-12)
    assert (
        0 < wrong[-1].sum() < 12 and len(set(first.tolist())) > 2
    )  # some fall, at different steps, and some stand
    assert sum(seen) == (loss == "kl") * 12 + sum(min(step + 1, 10) for step in first.tolist())


def test_samples_do_not_depend_on_their_batch():
    model, x, y = small_network().double().eval(), images(5), torch.tensor([0, 1, 2, 3, 0])
    together = pgd(model, x, y, "l2", 0.3, start=torch.zeros_like(x))
    alone = torch.cat(
        [
            pgd(model, x[i : i + 1], y[i : i + 1], "l2", 0.3, start=torch.zeros_like(x[:1]))
            for i in range(5)
        ]
    )
    assert torch.allclose(together, alone, atol=1e-12)


def test_works_inside_no_grad_and_inference_mode():
    model, x, y = small_network().eval(), images(2, torch.float32), torch.tensor([0, 1])
    expected = pgd(model, x, y, start=torch.zeros_like(x))
    with torch.no_grad():
        assert torch.equal(pgd(model, x, y, start=torch.zeros_like(x)), expected)
    with torch.inference_mode():
        assert torch.equal(pgd(model, x.clone(), y, start=torch.zeros_like(x)), expected)


def test_the_default_start_is_small_noise_from_the_generator():
    model, x, y = (
        Linear(torch.float32),
        images(2, torch.float32, 0.3, 0.7),
        torch.zeros(2, dtype=torch.int64),
    )
    noise = [
        pgd(model, x, y, epsilon=0.5, steps=0, generator=torch.Generator().manual_seed(seed)) - x
        for seed in (1, 1, 2)
    ]
    assert torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2])
    assert 0.0005 < noise[0].std() < 0.0015


def test_the_attack_raises_the_loss_of_a_nonlinear_network():
    model, x, y = small_network().eval(), images(16, torch.float32), torch.arange(16) % 4
    before = F.cross_entropy(model(x), y, reduction="none")
    for norm, epsilon in (("linf", 0.1), ("l2", 0.5)):
        after = F.cross_entropy(model(pgd(model, x, y, norm, epsilon, 20)), y, reduction="none")
        assert (after > before).all()


def test_fgsm_is_one_full_step_and_bim_starts_at_the_image():
    model, x, y = Linear(), images(3, low=0.3, high=0.7), torch.zeros(3, dtype=torch.int64)
    assert torch.allclose(fgsm(model, x, y, epsilon=0.1), x - 0.1 * model.w.sign(), atol=1e-12)
    assert torch.allclose(
        fgsm(model, x, y, "l2", 0.1), x - 0.1 * model.w / model.w.norm(), atol=1e-12
    )
    assert torch.allclose(
        bim(model, x, y, epsilon=0.1, steps=1, step_size=0.03),
        x - 0.03 * model.w.sign(),
        atol=1e-12,
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_the_nearest_point_of_the_ball(norm):
    delta = torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inside = project(delta, norm, 0.5)
    measure = (
        (lambda v: v.flatten(1).abs().amax(1))
        if norm == "linf"
        else (lambda v: v.flatten(1).norm(dim=1))
    )
    assert (measure(inside) <= 0.5 + 1e-12).all()
    assert torch.equal(project(0.01 * delta, norm, 0.5), 0.01 * delta)
    # nearest: no random point of the ball is closer
    others = project(
        inside
        + 0.1
        * torch.randn(
            inside.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64
        ),
        norm,
        0.5,
    )
    assert (
        (delta - inside).flatten(1).norm(dim=1) <= (delta - others).flatten(1).norm(dim=1) + 1e-12
    ).all()


def test_l2_norm_neither_overflows_nor_vanishes():
    v = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]])
    assert torch.allclose(l2_norm(v), torch.tensor([5e30, 5e-30, 0.0]), rtol=1e-6, atol=0)
    assert torch.allclose(steepest(v, "l2"), torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_fills_the_ball_evenly(norm):
    x = torch.zeros(4000, 1, 1, 2)
    delta = random_start(x, norm, 0.5, torch.Generator().manual_seed(0)).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max() <= 0.5 + 1e-6
    # in two dimensions half of the ball's area lies within 1/sqrt(2) of its radius; 4,000 draws: sigma 0.008
    assert (size < 0.5 / math.sqrt(2)).float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert delta.mean().abs() < 0.02


def test_unknown_norm_and_loss_are_refused():
    model, x, y = Linear(), images(1), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="l3.*linf, l2"):
        pgd(model, x, y, "l3")
    with pytest.raises(ValueError, match="hinge.*ce, kl"):
        pgd(model, x, y, loss="hinge")


def test_norms_are_named_once():
    from typing import get_args, get_type_hints

    from utils.settings.options import Attack

    assert get_args(get_type_hints(Attack)["norm"]) == projected_gradient.NORMS
