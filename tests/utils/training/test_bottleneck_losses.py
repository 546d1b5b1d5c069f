"""The losses of bottleneck classifiers against torch.distributions, and means over many draws."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from utils.training.bottleneck_losses import ce, ceb, residual_information, vib

N, C, K, S = 4, 3, 5, 2


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mu, sigma, means = normal(N, K), normal(N, K).exp(), normal(C, K)
    logits, eps = normal(S, N, C), normal(S, N, K)
    return logits, torch.tensor([0, 2, 1, 0]), mu, sigma, means, eps


def test_vib_is_cross_entropy_and_the_divergence_from_the_standard_normal(values):
    logits, y, mu, sigma, _, _ = values
    expected = -sum(logits[s].log_softmax(1)[i, y[i]] for s in range(S) for i in range(N)) / (S * N)
    standard = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    divergence = kl_divergence(Independent(Normal(mu, sigma), 1), standard).mean()
    assert ce(logits, y) == pytest.approx(expected.item())
    assert ce(logits[0], y) == pytest.approx(torch.nn.functional.cross_entropy(logits[0], y).item())
    assert vib(logits, y, mu, sigma, 0.1) == pytest.approx((expected + 0.1 * divergence).item())


def test_ceb_is_cross_entropy_and_the_log_ratio_of_encoder_and_backward_encoder(values):
    logits, y, mu, _, means, eps = values
    one, t = torch.ones_like(mu), mu + eps
    forward, backward = (Independent(Normal(centre, one), 1) for centre in (mu, means[y]))
    ratio = (forward.log_prob(t) - backward.log_prob(t)).mean()
    found = ceb(logits, y, t, mu, means, 0.3)
    assert found == pytest.approx((ce(logits, y) + 0.3 * ratio).item())
    # The mean of the ratio over t is the divergence of the two encoders.
    both = torch.cat([residual_information(mu + e, mu, means[y]) for e in (eps, -eps)])
    assert both.mean() == pytest.approx(kl_divergence(forward, backward).mean().item())


def test_the_losses_are_computed_in_float32_at_least(values):
    logits, y, mu, sigma, means, eps = values
    half = [each.bfloat16() for each in (logits, mu, sigma)]
    assert vib(half[0], y, half[1], half[2], 0.1).dtype == torch.float32
    t = (mu + eps).bfloat16()
    assert ceb(half[0], y, t, half[1], means.float(), 0.1).dtype == torch.float32


def test_gradients(values):
    logits, y, mu, sigma, means, eps = values
    for each in (logits, mu, sigma, means):
        each.requires_grad_()
    assert torch.autograd.gradcheck(lambda *v: vib(v[0], y, v[1], v[2], 0.1), (logits, mu, sigma))
    assert torch.autograd.gradcheck(
        lambda logits, mu, means: ceb(logits, y, mu + eps, mu, means, 0.1), (logits, mu, means)
    )
