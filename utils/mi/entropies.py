"""Estimate the entropy of a discrete distribution from samples, in nats.

With n samples of which N_s show symbol s, and p_s = N_s/n:

    maximum_likelihood   H = -sum_s p_s ln p_s
    miller_madow         the same + (symbols seen - 1)/(2n)
    jvhw                 Jiao, Venkat, Han and Weissman 2015: for small p_s an unbiased estimate of
                         the best polynomial approximation of -p ln p, for large p_s the plug-in
                         with the bias corrected, and a mixture between

`jvhw` agrees with the authors' code, which splits no samples although the theory does.
"""

import math

import numpy

from utils.mi.remez import best_approximation, entropy_term

LARGEST_DEGREE = 22  # monomials of a higher degree lose their precision in doubles


def maximum_likelihood(samples) -> float:
    """Estimate the entropy, in nats, by that of the empirical distribution.

    samples: a one-dimensional array of integers, one for each sample.
    """
    counts = symbol_counts(samples)
    return float(entropy_term(counts / counts.sum()).sum())


def miller_madow(samples) -> float:
    """Estimate the entropy, in nats, by maximum likelihood with Miller's correction of its bias.

    samples: a one-dimensional array of integers.
    """
    counts = symbol_counts(samples)
    return maximum_likelihood(samples) + (len(counts) - 1) / (2 * counts.sum())


def jvhw(samples) -> float:
    """Estimate the entropy, in nats, by the estimator of Jiao, Venkat, Han and Weissman (2015).

    samples: a one-dimensional array of integers.

    Also sensible where there are about as many symbols as samples. A constant sample of n gives
    1/(2n), and n distinct symbols a value above ln n, whatever the distribution (`single_share`).
    """
    counts = symbol_counts(samples)
    multiplicity, symbols = numpy.unique(counts, return_counts=True)  # j, and how many have it
    n = int(counts.sum())
    seen_once = int(symbols[0]) if multiplicity[0] == 1 else 0
    each = entropy_of_count(multiplicity, n, seen_once)
    return float((symbols * numpy.maximum(each, 0)).sum())


def jvhw_mi(x, y) -> float:
    """Estimate the mutual information I(X;Y), in nats, as H(X) + H(Y) - H(X,Y), at least 0.

    x, y: one-dimensional arrays of integers of one length.
    """
    return max(0.0, jvhw(x) + jvhw(y) - jvhw(pair(x, y)))


def pair(x, y) -> numpy.ndarray:
    """Number the pairs (x_i, y_i): a one-dimensional array of integers, equal for equal pairs."""
    x, y = (_integers(each) for each in (x, y))
    if len(x) != len(y):
        raise ValueError(f"as many x as y are needed, not {len(x)} and {len(y)}")
    return numpy.unique(numpy.stack([x, y]), axis=1, return_inverse=True)[1].reshape(-1)


def single_share(samples) -> float:
    """Compute the share f_1/n of the samples whose symbol was seen once.

    Above 1/2 no estimator here says much about the distribution: n distinct symbols have the
    maximum-likelihood entropy ln n whatever the truth is.
    """
    counts = symbol_counts(samples)
    return float((counts == 1).sum() / counts.sum())


def symbol_counts(samples) -> numpy.ndarray:
    """Count each symbol that was seen.

    Raises ValueError unless samples is a one-dimensional array of one or more integers.
    """
    return numpy.unique(_integers(samples), return_counts=True)[1]


def _integers(samples) -> numpy.ndarray:
    """Return the samples as a NumPy array. Raises ValueError for another shape or type."""
    samples = numpy.asarray(samples)
    if samples.ndim != 1 or samples.size == 0 or samples.dtype.kind not in "iub":
        raise ValueError(
            "samples must be a one-dimensional array of one or more integers, not "
            f"{samples.dtype} {samples.shape}"
        )
    return samples


def entropy_of_count(j: numpy.ndarray, n: int, seen_once: int) -> numpy.ndarray:
    """Estimate -p ln p, in nats, of symbols that were seen j of n times.

    seen_once: the number of symbols seen once, which the width of the polynomial's interval
    depends on.
    """
    p = j / n
    plug_in = entropy_term(p) + 1 / (2 * n)
    width = _width(n, seen_once)
    if width == 0:
        return plug_in
    with numpy.errstate(over="ignore", invalid="ignore"):
        polynomial = polynomial_estimate(j, n, width)
    polynomial = numpy.where(numpy.isfinite(polynomial), polynomial, plug_in)
    weight = numpy.clip(2 * p / width - 1, 0, 1)
    return weight * plug_in + (1 - weight) * polynomial


def polynomial_degree(n: int) -> int:
    """Return the degree K of the polynomial for n samples."""
    return min(4 + math.ceil(1.2 * math.log(n)), LARGEST_DEGREE)


def _width(n: int, seen_once: int) -> float:
    """Compute D = 4 c ln n / n: below it a polynomial takes part; 0: the plug-in alone.

    The authors fitted c to r = ln(n / seen_once).
    """
    if seen_once == 0 or n < polynomial_degree(n):
        return 0.0
    r = math.log(n / seen_once)
    if n < 200 or r > 1.5:
        c = 0.4679 + 0.3303 * r
    else:
        c = 0.184831781602259 + 1.09787328176926 * r - 0.530556484842359 * r * r
    return 4 * max(c, 1 / (1.9 * math.log(n))) * math.log(n) / n


def polynomial_estimate(j: numpy.ndarray, n: int, width: float) -> numpy.ndarray:
    """Estimate the best polynomial for -p ln p on [0, width], without bias, from counts j of n.

    Where j is binomial, (j)_k / (n)_k has the mean p^k, with (j)_k the falling factorial.
    """
    coefficients, _ = best_approximation(polynomial_degree(n))
    moment = numpy.ones_like(j, dtype=float)  # of (p / width)^k
    total = numpy.zeros_like(moment)
    for k, g in enumerate(coefficients):
        total += g * moment
        moment = moment * (j - k) / ((n - k) * width) if k < n else 0 * moment
    return width * total - j / n * math.log(width)
