"""Compute means, deviations and 95 % intervals over seeds and over images. Accuracies in percent.

One seed: the interval covers other test images, not other trainings. Several seeds: it covers both.

Every seed is tested on the same images, so image i has k outcomes that belong together, and seed s
has n that do. The model is the two-way random effects model without replication,

    d_si = mu + a_s + b_i + e_si,    s = 1..k seeds, i = 1..n images,

where d_si is an outcome (1 right, 0 wrong), or the difference of two defenses' outcomes, a_s is the
training's effect, b_i the image's, and e_si what is particular to both. Its mean has the variance

    A / k + B / n + E / (k n),       A, B, E: the variances of a, b and e.

The sample variance of the k seed means, divided by k, estimates A / k + E / (k n), with k - 1
degrees of freedom. B / n is left, and comes from the analysis of variance: B = (MS_images - MS_E)
/ k, not below 0, with about n degrees of freedom. Neither part holds the other, and under normal
effects the two are independent. Their degrees of freedom are far apart, so each has a quantile of
its own (as in Graybill and Wang 1980, Confidence intervals on nonnegative linear combinations of
variances):

    half^2 = t(k - 1)^2 s_seeds^2 / k + z^2 (B + 1 / n) / n.

Satterthwaite's single number of degrees of freedom gives narrower intervals, but by calculation it
covers only 89 to 92 % where two seeds differ much, and this one never less than 95 %. The summand
1 / n is what half an image in each cell adds in Agresti and Min's method: without it, networks that
agree everywhere would have an interval without width. Owen (2007, The pigeonhole bootstrap) shows
for this design that resampling or counting one way only understates the variance.
"""

import statistics

import numpy
from scipy.special import stdtrit

from utils.evaluation.results import wilson

Z = 1.959964  # the normal distribution's 97.5 % point


def deviation(values: list[float]) -> float | None:
    """Return the sample standard deviation (divided by n - 1); None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def over_images(first: list[bool], second: list[bool]) -> tuple[float, float]:
    """Return the interval of the difference of two shares on the same images, first minus second.

    Only the images on which the two differ count. Half an image is added to each of the four cells
    of the table of both outcomes, so that none that differ still leaves an interval (Agresti and
    Min 2005, Simple Improved Confidence Intervals for Comparing Matched Proportions).
    """
    n = len(first) + 2
    only_first = sum(a and not b for a, b in zip(first, second, strict=True)) + 0.5
    only_second = sum(b and not a for a, b in zip(first, second)) + 0.5
    middle = (only_first - only_second) / n
    half = Z * ((only_first + only_second) / n - middle**2) ** 0.5 / n**0.5
    return 100 * (middle - half), 100 * (middle + half)


def half_width(outcomes: numpy.ndarray) -> numpy.ndarray:
    """Return half the interval of the mean of `outcomes` (..., k seeds, n images), k and n above 1.

    The formula is this module's. Leading dimensions are separate experiments.
    """
    k, n = outcomes.shape[-2:]
    by_seed, by_image = outcomes.mean(-1), outcomes.mean(-2)
    mean = by_seed.mean(-1)
    squares = (outcomes**2).sum((-1, -2)) - k * n * mean**2
    of_seeds, of_images = by_seed.var(-1, ddof=1), by_image.var(-1, ddof=1)
    rest = squares - n * (k - 1) * of_seeds - k * (n - 1) * of_images
    rest = numpy.maximum(rest, 0) / ((k - 1) * (n - 1))  # MS_E
    images = numpy.maximum(of_images - rest / k, 0)  # B
    quantile = stdtrit(k - 1, 0.975)
    return numpy.sqrt(quantile**2 * of_seeds / k + Z**2 * (images + 1 / n) / n)


def of_a_difference(
    pairs: list[tuple[list[bool], list[bool]]],
) -> tuple[float, tuple[float, float]]:
    """Return the mean difference of two defenses in points, and its interval.

    pairs: for each seed the outcomes of both defenses, on the same images for every seed.
    """
    differences = [100 * (sum(first) - sum(second)) / len(first) for first, second in pairs]
    if len(pairs) == 1:
        return differences[0], over_images(*pairs[0])
    outcomes = [numpy.subtract(first, second, dtype=float) for first, second in pairs]
    return statistics.mean(differences), _around(outcomes, -100.0)


def of_a_mean(outcomes: list[list[bool]]) -> tuple[float, float]:
    """Return the interval of a network's mean accuracy; outcomes: a list for each seed."""
    if len(outcomes) == 1:
        return of_a_share(sum(outcomes[0]), len(outcomes[0]))
    return _around(outcomes, 0.0)


def of_a_share(correct: int, n: int) -> tuple[float, float]:
    """Return Wilson's interval of a share, in percent."""
    return wilson(correct, n)


def _around(outcomes: list, lowest: float) -> tuple[float, float]:
    """Return the interval over seeds and images, in percent, between `lowest` and 100.

    Images that some seed lacks count in its mean, but not in the width.
    """
    mean = 100 * float(numpy.mean([numpy.mean(each) for each in outcomes]))
    common = min(map(len, outcomes))
    if common < 2:
        return lowest, 100.0
    half = 100 * float(half_width(numpy.array([each[:common] for each in outcomes], dtype=float)))
    return max(mean - half, lowest), min(mean + half, 100.0)
