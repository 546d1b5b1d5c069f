"""Make a classifier of a Gaussian representation p(t|x) = N(mu, diag sigma^2) and a decoder.

    mean    the decoder at mu
    bank    ln mean_s softmax(decoder(mu + sigma eps_s)), with one set of eps_s, which a seed fixes,
            for all images
    fresh   the same with new draws for each image at each query

`mean` and `bank` are functions of the image, so that any attack applies to them. `fresh` is random;
its attacks need to average over its draws.
"""

import math
from collections.abc import Callable

import torch

PREDICTORS = ("bank", "mean", "fresh")
SAMPLES = 12  # of bank and fresh


def log_mean_probability(decoder: Callable, mu, sigma, noise) -> torch.Tensor:
    """Compute ln mean_s softmax(decoder(mu + sigma eps_s)), (N,C).

    Args:
        decoder: (..., K) -> (..., C).
        mu, sigma: (N,K).
        noise: eps, (S,1,K) or (S,N,K).
    """
    log_p = decoder(mu + sigma * noise).log_softmax(-1)
    return log_p.logsumexp(0) - math.log(len(noise))


class Predictor:
    """Make logits (N,C) of a decoder and of mu and sigma (N,K)."""

    name: str
    deterministic = True

    def __call__(self, decoder: Callable, mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the logits, or log-probabilities."""
        raise NotImplementedError

    def restart(self, seed: int) -> None:
        """Draw new noise from `seed` on, where a predictor draws any."""


class Mean(Predictor):
    """Classify by the decoder's logits at mu, which for a linear decoder are the mean logits."""

    name = "mean"

    def __call__(self, decoder: Callable, mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return decoder(mu)


class Bank(Predictor):
    """Classify by the mean probability over `samples` draws of the noise that `seed` fixes."""

    name = "bank"

    def __init__(self, samples: int = SAMPLES, seed: int = 0):
        self.samples, self.seed = samples, seed
        self._noise: dict = {}

    def __call__(self, decoder: Callable, mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return log_mean_probability(decoder, mu, sigma, self.noise(mu))

    def noise(self, like: torch.Tensor) -> torch.Tensor:
        """Return eps, (S,1,K), of the type and on the device of `like`, (N,K)."""
        key = (like.shape[1], like.device, like.dtype)
        if key not in self._noise:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(self.samples, 1, like.shape[1], generator=generator)
            self._noise[key] = drawn.to(like)
        return self._noise[key]


class Fresh(Predictor):
    """Classify by the mean probability over `samples` new draws of the noise of each image."""

    name, deterministic = "fresh", False

    def __init__(self, samples: int = SAMPLES, seed: int = 0):
        self.samples, self.seed = samples, seed
        self.generator: torch.Generator | None = None

    def restart(self, seed: int) -> None:
        """Draw from `seed` on."""
        self.seed, self.generator = seed, None

    def __call__(self, decoder: Callable, mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if self.generator is None:
            self.generator = torch.Generator(mu.device).manual_seed(self.seed)
        shape = (self.samples, *mu.shape)
        noise = torch.randn(shape, generator=self.generator, device=mu.device, dtype=mu.dtype)
        return log_mean_probability(decoder, mu, sigma, noise)
