"""Theorem 3 of the information-bottleneck paper, as printed and corrected; a counterexample.

The theorem bounds how fast the density p(t|x) = N(t; mu(x), diag sigma(x)^2), t in R^K, changes
with x at a fixed t, for mu_k and sigma_k with the Lipschitz constants L_mu and L_sigma and
sigma_k >= sigma_min. Each factor of the density is at most (2 pi)^-1/2 / sigma_min, and its slope
at most

    (2 pi)^-1/2 sigma_min^-2 (L_sigma max_z |z^2 - 1| e^(-z^2/2) + L_mu max_z |z| e^(-z^2/2)),

with the maxima 1 and e^-0.5; the product rule gives `corrected`. The printed constant lacks the
other factors' sigma_min^-(K-1), and its maximum over z ignores z = 0.
"""

import math


def log_printed(dim: int, sigma_min: float, slope_mu: float, slope_sigma: float) -> float:
    """Compute the logarithm of the printed constant,

    K (2 pi)^(-(K-1)/2) sigma_min^-2 (2 e^-1.5 L_sigma + e^-0.5 L_mu).
    """
    slopes = 2 * math.exp(-1.5) * slope_sigma + math.exp(-0.5) * slope_mu
    factors = math.log(dim) - (dim - 1) / 2 * math.log(2 * math.pi)
    return factors - 2 * math.log(sigma_min) + math.log(slopes)


def log_corrected(dim: int, sigma_min: float, slope_mu: float, slope_sigma: float) -> float:
    """Compute the logarithm of the constant that holds,

    K (2 pi)^(-K/2) sigma_min^-(K+1) (L_sigma + e^-0.5 L_mu).
    """
    slopes = slope_sigma + math.exp(-0.5) * slope_mu
    factors = math.log(dim) - dim / 2 * math.log(2 * math.pi)
    return factors - (dim + 1) * math.log(sigma_min) + math.log(slopes)


def printed(dim: int, sigma_min: float, slope_mu: float, slope_sigma: float) -> float:
    """Compute the printed constant; it overflows for K of a hundred or more."""
    return math.exp(log_printed(dim, sigma_min, slope_mu, slope_sigma))


def corrected(dim: int, sigma_min: float, slope_mu: float, slope_sigma: float) -> float:
    """Compute the constant that holds; it overflows for K of a hundred or more."""
    return math.exp(log_corrected(dim, sigma_min, slope_mu, slope_sigma))


def moving_mean_slope(dim: int, sigma: float) -> float:
    """Compute the largest slope in x of N(t; (x, 0, ..., 0), sigma^2 I) over t in R^K.

    At K = 2 and sigma = 0.1 it exceeds `printed`, with L_mu = 1 and L_sigma = 0.
    """
    return (2 * math.pi) ** (-dim / 2) * sigma ** -(dim + 1) * math.exp(-0.5)
