"""Rate, brackets, the Gaussian bottleneck, Lipschitz constants and Theorem 3, against closed forms."""

import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from utils.mi import bottleneck, gaussian_bottleneck, lipschitz, theorem3


def encoders(n=6, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mu, rho, noise = torch.randn(3, n, dim, generator=generator, dtype=torch.float64)
    sigma = F.softplus(rho)
    return mu, sigma, mu + sigma * noise


def test_rate_and_density_are_those_of_torch_distributions():
    mu, sigma, t = encoders()
    normal = Independent(Normal(mu, sigma), 1)
    standard = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    assert torch.allclose(bottleneck.rate(mu, sigma), kl_divergence(normal, standard))
    assert torch.allclose(bottleneck.log_density(t, mu, sigma), normal.log_prob(t))


def test_brackets_are_the_double_sums(monkeypatch):
    mu, sigma, t = encoders()
    n, lower, upper = len(t), 0.0, 0.0
    for i in range(n):
        p = [Normal(mu[j], sigma[j]).log_prob(t[i]).sum().exp().item() for j in range(n)]
        lower += math.log(p[i] / (sum(p) / n)) / n
        upper += math.log(p[i] / ((sum(p) - p[i]) / (n - 1))) / n
    assert bottleneck.brackets(mu, sigma, t) == pytest.approx((lower, upper))
    monkeypatch.setattr(bottleneck, "ENTRIES", 2 * mu.numel())  # two rows at a time
    assert bottleneck.brackets(mu, sigma, t) == pytest.approx((lower, upper))


@pytest.mark.parametrize("information", [1.0, 4.0])
def test_brackets_enclose_the_known_information(information):
    # T = a X + N(0, I) with X ~ N(0, I): I = d/2 ln(1 + a^2), E R = d a^2 / 2.
    dim, n = 4, 500
    a2 = math.exp(2 * information / dim) - 1
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(10):
        x, noise = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
        mu, sigma = math.sqrt(a2) * x, torch.ones_like(x)
        rate = bottleneck.rate(mu, sigma).mean().item()
        found.append((*bottleneck.brackets(mu, sigma, mu + noise), rate))
    lower, upper, rate = numpy.mean(found, 0)
    assert lower - 0.1 < information < upper + 0.1
    assert lower <= math.log(n) and lower < upper
    assert rate == pytest.approx(dim * a2 / 2, rel=0.05)
    published = {1.0: (1.005, 1.016), 4.0: (3.78, 4.22)}[information]
    assert (lower, upper) == pytest.approx(published, abs=0.1)


def test_brackets_of_the_information_about_labels():
    # y is +1 or -1, t = 2 y + noise: I(Y;T) = h(T) - h(N(0,1)), by quadrature.
    grid = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    p = sum(Normal(c, 1.0).log_prob(grid).exp() for c in (2.0, -2.0)) / 2
    exact = torch.trapezoid(torch.special.entr(p), grid).item() - Normal(0.0, 1.0).entropy().item()
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 2
    mu = (4.0 * y - 2)[:, None]
    t = mu + torch.randn(300, 1, generator=generator)
    lower, upper = bottleneck.label_brackets(mu, torch.ones_like(mu), t, y)
    assert lower - 0.05 < exact < upper + 0.05
    assert upper - lower < 0.05  # every encoder of a label is the same


def test_information_about_labels():
    labels = torch.tensor([0, 0, 1, 1])
    assert bottleneck.label_information(labels, 0.25, 10) == pytest.approx(math.log(2) - 0.25)


def test_the_scalar_gaussian_bottleneck():
    one = numpy.eye(1)
    found = gaussian_bottleneck.solve(one, one, 0.8 * one, 0.3)
    assert found.projection[0, 0] ** 2 == pytest.approx(3.1481, abs=5e-5)
    assert found.information_x == pytest.approx(0.7113, abs=5e-5)
    assert found.information_y == pytest.approx(0.3325, abs=5e-5)
    # Beyond beta = rho^2 = 0.64 nothing is worth keeping.
    nothing = gaussian_bottleneck.solve(one, one, 0.8 * one, 0.65)
    assert (nothing.information_x, nothing.information_y) == (0, 0)
    assert nothing.projection.shape == (0, 1)


def joint(dim=4, outputs=3, seed=0):
    random = numpy.random.default_rng(seed)
    root = random.normal(size=(dim + outputs, dim + outputs))
    both = root @ root.T + 0.1 * numpy.eye(dim + outputs)
    return both[:dim, :dim], both[dim:, dim:], both[:dim, dim:]


@pytest.mark.parametrize("beta", [0.05, 0.3])
def test_no_other_projection_beats_the_closed_form(beta):
    x, y, cross = joint()
    best = gaussian_bottleneck.solve(x, y, cross, beta)
    noise = numpy.eye(len(best.projection))
    known = gaussian_bottleneck.informations(x, y, cross, best.projection, noise)
    assert known == pytest.approx((best.information_x, best.information_y))
    random = numpy.random.default_rng(1)
    for size in (1e-3, 1e-2, 0.1, 1):
        other = best.projection + size * random.normal(size=best.projection.shape)
        of_x, of_y = gaussian_bottleneck.informations(x, y, cross, other, noise)
        assert of_y - beta * of_x < best.objective


def dense(layer, shape):
    """The matrix of a convolution without its bias, column by column."""
    size = math.prod(shape)
    units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    weight = layer.weight.detach().double()
    return F.conv2d(units, weight, None, layer.stride, layer.padding).flatten(1).T


@pytest.mark.parametrize("stride, padding", [(1, 1), (2, 0)])
def test_the_norm_of_a_convolution_is_that_of_its_dense_matrix(stride, padding):
    torch.manual_seed(0)
    layer, shape = nn.Conv2d(2, 3, 3, stride, padding), (2, 7, 6)
    exact = torch.linalg.matrix_norm(dense(layer, shape), 2).item()
    assert lipschitz.spectral_norm(layer, shape) == pytest.approx(exact, rel=1e-6)


def diagonal(*values):
    layer = nn.Linear(len(values), len(values), dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor(values)))
        layer.bias.fill_(5.0)  # every unit is on
    return layer


def test_a_diagonal_network_has_its_lipschitz_constant():
    net = nn.Sequential(diagonal(3.0, 1.0), nn.ReLU(), diagonal(2.0, 0.5))
    x = torch.zeros(2, 2, dtype=torch.float64)
    product = lipschitz.lipschitz_product(net, lambda: net(x), prefix=2.0)
    assert product == pytest.approx(12)
    assert lipschitz.largest_slope(net, x) == pytest.approx(6)


def test_the_largest_slope_is_that_of_the_jacobians():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    exact = [torch.func.jacrev(net)(each[None]).reshape(3, 16) for each in x]
    most = max(torch.linalg.matrix_norm(jacobian, 2).item() for jacobian in exact)
    assert lipschitz.largest_slope(net, x) == pytest.approx(most, rel=1e-6)
    assert most <= lipschitz.lipschitz_product(net, lambda: net.float()(x[:1].float()))


def test_the_wasserstein_distance_is_that_of_the_general_formula():
    (mu, sigma, _), (mu2, sigma2, _) = encoders(1, 2, 0), encoders(1, 2, 1)
    trace = (sigma**2 + sigma2**2 - 2 * sigma * sigma2).sum()
    expected = ((mu - mu2).square().sum() + trace).sqrt()
    assert lipschitz.wasserstein2(mu, sigma, mu2, sigma2)[0] == pytest.approx(expected.item())


def test_theorem_3_as_printed_has_a_counterexample():
    dim, sigma = 2, 0.1
    t = torch.linspace(-0.5, 0.5, 20_001, dtype=torch.float64)
    density = (-(t**2) / (2 * sigma**2)).exp() / (2 * math.pi * sigma**2)
    slope = (t / sigma**2 * density).max().item()  # in x, at x = 0 and t = (t, 0)
    assert theorem3.moving_mean_slope(dim, sigma) == pytest.approx(slope, rel=1e-6)
    assert slope == pytest.approx(96.5, abs=0.05)
    assert theorem3.printed(dim, sigma, 1, 0) == pytest.approx(48.4, abs=0.05)
    assert theorem3.corrected(dim, sigma, 1, 0) == pytest.approx(193, abs=0.1)
    assert theorem3.printed(dim, sigma, 1, 0) < slope <= theorem3.corrected(dim, sigma, 1, 0)


def test_the_corrected_constant_holds_where_sigma_moves():
    # K = 1, mu = 0, sigma = x near sigma_min: the slope at t = 0 is (2 pi)^-1/2 sigma^-2.
    sigma = 0.3
    slope = (2 * math.pi) ** -0.5 * sigma**-2
    assert theorem3.corrected(1, sigma, 0, 1) == pytest.approx(slope)
    random = numpy.random.default_rng(0)
    for _ in range(200):
        dim = random.integers(1, 5)
        mu_slope, sigma_slope = random.uniform(-1, 1, (2, dim))
        sigmas, z = random.uniform(0.2, 1, dim), random.normal(size=dim)
        factors = numpy.exp(-(z**2) / 2) / (math.sqrt(2 * math.pi) * sigmas)
        slope = factors.prod() * (z / sigmas * mu_slope + (z**2 - 1) / sigmas * sigma_slope).sum()
        most = theorem3.corrected(dim, sigmas.min(), abs(mu_slope).max(), abs(sigma_slope).max())
        assert abs(slope) <= most
