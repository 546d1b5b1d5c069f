"""Attacks on linear classifiers, whose smallest adversarial perturbation is known in closed form.

Label 0 beats class k at x by f_k = (w_0 - w_k) x + b_0 - b_k; the smallest perturbation in the norm p has length
min_k f_k / ||w_0 - w_k||_q with q dual to p, as long as it stays in the box.
"""

import pytest
import torch

from utils.attacks.registry import attack, parse

D = 3 * 8 * 8
LABEL = 0


class Linear(torch.nn.Module):
    """Logits W x + b. Where W is (classes, channels), W acts on the sum over pixels, and images may have any size."""

    def __init__(self, W, b):
        super().__init__()
        self.W, self.b = torch.nn.Parameter(W), torch.nn.Parameter(b)

    def forward(self, x):
        features = x.sum((2, 3)) if self.W.shape[1] == x.shape[1] else x.flatten(1)
        return features @ self.W.T + self.b


def distances(model, x, norm):
    """(N, classes - 1): how far the boundary to each other class is."""
    W = model.W.detach()
    logits = model(x).detach()
    slope = W[LABEL] - W[1:]
    if W.shape[1] != D:
        slope = slope.repeat_interleave(D // W.shape[1], 1)
    size = slope.abs().sum(1) if norm == "linf" else slope.norm(dim=1)
    return (logits[:, :1] - logits[:, 1:]) / size


def placed(model, x, norm, wanted):
    """Images moved straight to their nearest boundary until it is at the `wanted` distances (N,)."""
    nearest, k = distances(model, x, norm).min(1)
    assert (nearest > wanted).all()
    W = model.W.detach()
    slope = (W[LABEL] - W[1 + k]).reshape(len(x), W.shape[1])
    if W.shape[1] != D:
        slope = slope.repeat_interleave(D // W.shape[1], 1)
    unit = slope.sign() if norm == "linf" else slope / slope.norm(dim=1, keepdim=True)
    x = x - ((nearest - wanted)[:, None] * unit).reshape(x.shape)
    assert x.min() > 0.1 and x.max() < 0.9
    torch.testing.assert_close(
        distances(model, x, norm).min(1).values, wanted, rtol=1e-4, atol=1e-5
    )
    return x


def two_sided(norm, seed=0, per_channel=False):
    """A classifier of 5 classes of which 2 matter, and 8 images of label 0 far from the boundary and from the box."""
    generator = torch.Generator().manual_seed(seed)
    if per_channel:
        W = torch.zeros(5, 3)
        W[1] = torch.tensor([1.0, -0.7, 0.4]) / 10
    else:
        W = torch.zeros(5, D)
        W[1] = torch.randn(D, generator=generator) / 5
    x = 0.4 + 0.2 * torch.rand(8, 3, 8, 8, generator=generator)
    b = torch.tensor([0.0, 0.0, -30.0, -31.0, -32.0])
    model = Linear(W, b)
    scale = W[1].abs().sum() if norm == "linf" else W[1].norm()
    model.b.data[1] = -(model(x)[:, 1]).max() - 0.25 * scale * (1 if norm == "linf" else 4) * (
        D // W.shape[1]
    ) ** (1 if norm == "linf" else 0.5)
    return model, x


def many_sided(seed=0):
    """A classifier of 6 classes with different boundaries near, and 8 images."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(6, D, generator=generator) / 5 * torch.linspace(0.5, 2, 6)[:, None]
    x = 0.4 + 0.2 * torch.rand(8, 3, 8, 8, generator=generator)
    model = Linear(W, torch.zeros(6))
    model.b.data[1:] = -(model(x)[:, 1:] - model(x)[:, :1]).amax(0) - 0.9 * (W[0] - W[1:]).norm(
        dim=1
    )
    return model, x


ITERATED = ["fgsm", "bim", "pgd-20", "pgd-20x2", "pgd-margin-20", "mim-20", "apgd-ce", "apgd-t"]
ITERATED += ["aa", "fab-t"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ITERATED)
def test_bounded_attacks_succeed_exactly_when_they_can(name, norm):
    epsilon = {"linf": 0.05, "l2": 0.6}[norm]
    model, x = two_sided(norm)
    wanted = epsilon * torch.tensor([1.04, 0.96, 0.5, 1.04, 0.9, 1.5, 1.04, 0.96])
    x = placed(model, x, norm, wanted)
    for batch in (1, 3, 8):
        y = torch.full((batch,), LABEL)
        more = {"queries": 20} if name == "aa" else {}
        x_adv = attack(name, model, x[:batch], y, norm, epsilon, **more)
        assert (model(x_adv).argmax(1) != y).tolist() == (wanted[:batch] < epsilon).tolist()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_succeeds_only_when_it_can(norm):
    epsilon = {"linf": 0.05, "l2": 0.6}[norm]
    model, x = two_sided(norm, per_channel=True)
    wanted = epsilon * torch.tensor(
        [1.04, 0.2, 1.2, 0.2, 1.04, 1.04, 0.2, 1.04]
    )  # a random search: far from optimal
    x = placed(model, x, norm, wanted)
    y = torch.full((8,), LABEL)
    x_adv = attack("square", model, x, y, norm, epsilon, queries=1000)
    assert (model(x_adv).argmax(1) != y).tolist() == (wanted < epsilon).tolist()


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_tidim_succeeds_exactly_when_it_can(batch):
    """With the same slope at each pixel of a channel, neither the smoothing nor the resizing changes a sign."""
    model, x = two_sided("linf", per_channel=True)
    wanted = 0.05 * torch.tensor([1.04, 0.96, 0.5, 1.04, 0.9, 1.5, 1.04, 0.96])
    x = placed(model, x, "linf", wanted)
    y = torch.full((batch,), LABEL)
    x_adv = attack("tidim", model, x[:batch], y, "linf", 0.05)
    assert (model(x_adv).argmax(1) != y).tolist() == (wanted[:batch] < 0.05).tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "name, norm, ratio",
    [
        ("deepfool", "linf", 1.03),
        ("deepfool", "l2", 1.03),
        ("ddn-200", "l2", 1.01),
        ("ddn-20", "l2", 1.05),
        ("cw-100", "l2", 1.01),
    ],
)
def test_minimum_norm_attacks_reach_the_only_boundary(name, norm, ratio, seed):
    """With two classes there is one; with more, below, CW and DDN may end at one that is not the nearest."""
    model, x = many_sided(seed)
    model = Linear(model.W.detach()[:2], model.b.detach()[:2])
    optimum = distances(model, x, norm).min(1).values
    x_adv = attack(name, model, x, torch.full((len(x),), LABEL), norm)
    difference = (x_adv - x).flatten(1)
    length = difference.abs().amax(1) if norm == "linf" else difference.norm(dim=1)
    assert (model(x_adv).argmax(1) != LABEL).all()
    assert (length > 0.999 * optimum).all() and (length < ratio * optimum).all()


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize(
    "name, norm", [("deepfool", "linf"), ("deepfool", "l2"), ("ddn-200", "l2"), ("cw-100", "l2")]
)
def test_minimum_norm_attacks_come_near_the_optimum(name, norm, batch):
    model, x = many_sided()
    x = x[:batch]
    y = torch.full((batch,), LABEL)
    optimum = distances(model, x, norm).min(1).values
    assert len(distances(model, x, norm).argmin(1).unique()) > 1 or batch < 8
    x_adv = attack(name, model, x, y, norm)
    difference = (x_adv - x).flatten(1)
    length = difference.abs().amax(1) if norm == "linf" else difference.norm(dim=1)
    assert (model(x_adv).argmax(1) != y).all()
    assert (length > 0.999 * optimum).all() and (length < 1.1 * optimum).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_works_along_the_box(norm):
    """Half of the pixels are at the bound to which they would have to move, so that the others must move further: the
    optimum is that of the free pixels alone."""
    generator = torch.Generator().manual_seed(3)
    W = torch.zeros(4, D)
    W[1] = torch.randn(D, generator=generator)
    x = 0.4 + 0.2 * torch.rand(3, D, generator=generator)
    bound = torch.rand(D, generator=generator) < 0.5
    x[:, bound] = (W[1, bound] > 0).float()
    free = W[1] * ~bound
    size = free.abs().sum() if norm == "linf" else free.norm()
    optimum = {"linf": 0.05, "l2": 0.5}[norm] * torch.ones(3)
    shift = -(x @ W[1] + optimum * size)
    x_adv = []
    for image, lead in zip(x, shift):
        model = Linear(W, torch.tensor([0.0, float(lead), -99.0, -99.0]))
        x_adv.append(
            attack("deepfool", model, image.reshape(1, 3, 8, 8), torch.tensor([LABEL]), norm)
        )
    x_adv = torch.cat(x_adv)
    difference = x_adv.flatten(1) - x
    length = difference.abs().amax(1) if norm == "linf" else difference.norm(dim=1)
    assert (length > 0.999 * optimum).all() and (length < 1.05 * optimum).all()


@pytest.mark.parametrize("name", ["deepfool", "cw-20", "ddn-20", "sta", "aa", "fab-t"])
def test_a_failed_attack_returns_the_natural_image(name):
    """The lead of the label is larger than all pixels together can take away."""
    model, x = two_sided("l2")
    model.b.data[0] = 2 * model.W.detach()[1].abs().sum()
    y = torch.full((8,), LABEL)
    more = {"queries": 20} if name == "aa" else {}
    assert torch.equal(attack(name, model, x, y, parse(name).norms[-1], 0.5, **more), x)


@pytest.mark.parametrize(
    "name", ["deepfool", "cw-20", "ddn-20", "sta", "pgd-5", "fgsm", "mim-5", "aa"]
)
def test_without_gradient_nothing_is_a_number_short(name):
    model = Linear(torch.zeros(5, D), torch.tensor([1.0, 0.0, -1.0, -2.0, -3.0]))
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    more = {"queries": 20} if name == "aa" else {}
    x_adv = attack(name, model, x, torch.full((4,), LABEL), parse(name).norms[-1], 0.1, **more)
    assert x_adv.isfinite().all() and x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("name", ["deepfool", "cw-20", "ddn-20", "sta"])
def test_images_already_wrong_stay_natural(name):
    model, x = many_sided()
    y = torch.full((8,), LABEL)
    y[[1, 4]] = 3
    x_adv = attack(name, model, x, y, "l2")
    assert torch.equal(x_adv[[1, 4]], x[[1, 4]])
