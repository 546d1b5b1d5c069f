"""The parts of TI-DIM, MIM and STA against brute force."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import convolve, map_coordinates

from utils.attacks import spatial
from utils.attacks.iterative import _Enlarged, _smooth
from utils.attacks.registry import attack
from utils.attacks.spatial import roughness, warp


def test_enlarged_is_resize_then_pad():
    generator = np.random.default_rng(0)
    draws = generator.random((40, 3))
    x = torch.rand(40, 3, 8, 10, dtype=torch.float64)
    got = _Enlarged(draws, (8, 10), (12, 15), x)(x)
    sizes = set()
    for image, result, (grow, top, left) in zip(x, got, draws):
        height, width = 8 + int(grow * 5), 10 + int(grow * 6)
        first_row, first_column = int(top * (12 - height + 1)), int(left * (15 - width + 1))
        resized = F.interpolate(
            image[None], size=(height, width), mode="bilinear", align_corners=False
        )[0]
        expected = F.pad(
            resized, (first_column, 15 - width - first_column, first_row, 12 - height - first_row)
        )
        torch.testing.assert_close(result, expected)
        sizes.add(height)
    assert sizes == {8, 9, 10, 11, 12}


def test_enlarged_by_nothing_is_the_image():
    x = torch.rand(3, 3, 8, 8)
    assert torch.equal(_Enlarged(np.random.default_rng(0).random((3, 3)), (8, 8), (8, 8), x)(x), x)


@pytest.mark.parametrize("size", [15, 4])
def test_smooth_is_a_convolution_with_the_outer_product(size):
    x = torch.rand(2, 3, 8, 9, dtype=torch.float64)
    weights = torch.rand(size, dtype=torch.float64)
    before, after = (size - 1) // 2, size // 2
    kernel = torch.outer(weights, weights).expand(3, 1, size, size)
    expected = F.conv2d(F.pad(x, (before, after, before, after)), kernel, groups=3)
    torch.testing.assert_close(_smooth(x, weights), expected)


class Sees(torch.nn.Module):
    """A linear classifier over the mean of all pixels that keeps the shapes of what it is shown."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, x):
        self.shapes += [tuple(x.shape[2:])] * len(x)
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, -mean], 1)


def test_tidim_shows_half_of_the_images_enlarged():
    model, x = Sees(), torch.rand(10, 3, 32, 32)
    y = torch.zeros(10, dtype=torch.long)
    attack("tidim", model, x, y)
    enlarged = model.shapes[1:].count(
        (36, 36)
    )  # the first pass asks whether the network takes the size
    assert model.shapes[0] == (36, 36) and len(model.shapes) == 401 and 160 < enlarged < 240
    assert enlarged + model.shapes.count((32, 32)) == 400
    model.shapes.clear()
    attack("tidim", model, x, y, enlargement=1.0)
    assert set(model.shapes) == {(32, 32)}


class Curved(torch.nn.Module):
    """Two classes; the margin is a quadratic of the image, so that its gradient is known and changes on the way."""

    def __init__(self, x):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.slope = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        self.bend = 40 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        self.centre = x

    def forward(self, x):
        n = x - self.centre
        margin = (self.slope * n + self.bend * n * n).sum((1, 2, 3))
        return torch.stack([margin, torch.zeros_like(margin)], 1)

    def gradient(self, x):
        """That of the cross-entropy for label 0, the margin's times a negative number."""
        n = x - self.centre
        margin = (self.slope * n + self.bend * n * n).sum((1, 2, 3))
        return -(1 - torch.sigmoid(margin))[:, None, None, None] * (self.slope + 2 * self.bend * n)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "name, decay", [("mim-6", 0.0), ("mim-6", 0.5), ("mim-6", 1.0), ("tidim-6", 1.0)]
)
def test_momentum_by_the_definition(name, norm, decay):
    """TI-DIM without diverse inputs is MIM with gradients smoothed by a 15x15 Gaussian of standard deviation 7/3."""
    square = np.arange(-7, 8) ** 2
    gaussian = np.exp(-(square[:, None] + square) / (2 * (7 / 3) ** 2))
    more = {"probability": 0.0} if name == "tidim-6" else {}
    x = 0.3 + 0.4 * torch.rand(
        3, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    model, epsilon = Curved(x), 0.1
    expected, direction = x, 0
    for _ in range(6):
        g = model.gradient(expected)
        if name == "tidim-6":
            g = torch.from_numpy(
                convolve(g.numpy(), gaussian[None, None] / gaussian.sum(), mode="constant")
            )
        direction = decay * direction + g / g.abs().mean((1, 2, 3), keepdim=True)
        size = 1 if norm == "linf" else direction.flatten(1).norm(dim=1)[:, None, None, None]
        n = expected + 0.03 * (direction.sign() if norm == "linf" else direction / size) - x
        length = n.flatten(1).norm(dim=1)[:, None, None, None]
        expected = x + (
            n.clamp(-epsilon, epsilon) if norm == "linf" else n * (epsilon / length).clamp_max(1)
        )
    got = attack(
        name,
        model,
        x,
        torch.zeros(3, dtype=torch.long),
        norm,
        epsilon,
        step_size=0.03,
        decay=decay,
        **more,
    )
    torch.testing.assert_close(got, expected)


def test_warp_against_scipy():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 6, 7, dtype=torch.float64, generator=generator)
    flow = 3 * torch.randn(2, 2, 6, 7, dtype=torch.float64, generator=generator)
    got = warp(x, flow)
    rows, columns = np.mgrid[:6, :7]
    for i, c in np.ndindex(2, 3):
        at = [(rows + flow[i, 0].numpy()).clip(0, 5), (columns + flow[i, 1].numpy()).clip(0, 6)]
        expected = map_coordinates(x[i, c].numpy(), at, order=1)
        np.testing.assert_allclose(got[i, c].numpy(), expected, atol=1e-12)


def test_warp_has_a_gradient_at_black_and_white_pixels():
    """It is linear in the image: the flow's gradient is that of the same image with less contrast, in which nothing is cut."""
    x = (torch.rand(2, 3, 6, 7, dtype=torch.float64) < 0.5).double()
    weights, flow = (
        torch.rand_like(x),
        torch.zeros(2, 2, 6, 7, dtype=torch.float64, requires_grad=True),
    )
    (gradient,) = torch.autograd.grad((weights * warp(x, flow)).sum(), flow)
    (grey,) = torch.autograd.grad((weights * warp(0.1 + 0.8 * x, flow)).sum(), flow)
    assert (gradient.abs() > 0.1).any()
    torch.testing.assert_close(0.8 * gradient, grey)


def test_roughness_by_enumeration():
    flow = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for r, c in np.ndindex(3, 4):
        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            if 0 <= r + dr < 3 and 0 <= c + dc < 4:
                total += float((flow[0, :, r, c] - flow[0, :, r + dr, c + dc]).norm())
    assert roughness(flow).item() == pytest.approx(total, rel=1e-6)
    assert roughness(torch.ones(1, 2, 5, 5)).item() < 1e-3


class Position(torch.nn.Module):
    """Label 0 where the centre of mass is left of the column `line`, label 1 right of it."""

    def __init__(self, line):
        super().__init__()
        self.line = line

    def forward(self, x):
        mass = x.sum((1, 2))
        centre = (mass * torch.arange(x.shape[3], dtype=x.dtype)).sum(1) / mass.sum(1)
        return 5 * torch.stack([self.line - centre, centre - self.line], 1)


def blob(columns):
    """A smooth spot at the given columns of 12x12 images."""
    rows, across = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    spots = [torch.exp(-((rows - 6) ** 2 + (across - column) ** 2) / 3) for column in columns]
    return torch.stack(spots)[:, None].repeat(1, 3, 1, 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_sta_moves_what_must_move(batch):
    x = blob([3.0, 4.0, 3.5])[:batch]
    y = torch.zeros(batch, dtype=torch.long)
    model = Position(5.5)
    x_adv = attack("sta", model, x, y)
    assert (model(x_adv).argmax(1) == 1).all()
    assert x_adv.max() <= x.max() and x_adv.min() >= x.min()  # values move, none is new


def test_sta_returns_the_smoothest_success(monkeypatch):
    x, y, model = blob([3.0, 4.0, 3.5]), torch.zeros(3, dtype=torch.long), Position(5.5)
    seen = []
    monkeypatch.setattr(
        spatial,
        "roughness",
        lambda flow: seen.append((flow.detach().clone(), roughness(flow))) or seen[-1][1],
    )
    found = {}
    for tau in (0.0, 0.05):
        seen.clear()
        x_adv = attack("sta", model, x, y, tau=tau)
        rough = torch.stack([value.detach() for _, value in seen])
        warped = torch.stack([warp(x, flow) for flow, _ in seen])
        fooled = torch.stack([model(image).argmax(1) == 1 for image in warped])
        found[tau], step = rough.masked_fill(~fooled, torch.inf).min(0)
        assert torch.equal(x_adv, warped[step, torch.arange(3)])
        assert (step < 99).any()
    assert (found[0.05] < 0.9 * found[0.0]).all()


def test_sta_cannot_move_a_constant_image():
    x = torch.full((2, 3, 12, 12), 0.5)
    y = torch.zeros(2, dtype=torch.long)
    assert torch.equal(attack("sta-20", Position(5.6), x, y), x)


class Seen(torch.nn.Module):
    """A linear classifier of two classes that keeps how many images pass."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight, self.passed = torch.randn(2, 3, 12, 12, generator=generator), 0

    def forward(self, x):
        self.passed += len(x)
        if x.shape[2:] != (12, 12):
            x = F.adaptive_avg_pool2d(x, 12)
        return torch.einsum("nchw,kchw->nk", x, self.weight)


@pytest.mark.parametrize(
    "name, epsilon",
    [
        ("pgd-12", 0.02),
        ("bim-12", 0.02),
        ("mim-12", 0.02),
        ("tidim-12", 0.03),
        ("fwa-12", 0.01),
        ("fwa-fw-12", 0.005),
    ],
)
def test_fallen_samples_leave_and_the_others_are_attacked_as_before(name, epsilon):
    model = Seen()
    x = torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    y = model(x).argmax(1)
    model.passed = 0
    together = attack(name, model, x, y, "linf", epsilon)
    passed, model.passed = model.passed, 0
    leaving = attack(name, model, x, y, "linf", epsilon, until_fooled=True)
    assert model.passed < passed
    fell, stood = model(leaving).argmax(1) != y, model(together).argmax(1) == y
    assert fell.any() and not fell.all() and (fell | stood).all()
    torch.testing.assert_close(leaving[~fell], together[~fell], rtol=0, atol=2e-5)
