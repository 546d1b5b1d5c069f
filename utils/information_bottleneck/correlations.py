"""Correlate two measurements, given a third, with p-values by permutation."""

from collections.abc import Sequence

import numpy
from numpy.typing import ArrayLike


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Compute Pearson's correlation; NaN where a variable is constant."""
    a, b = (numpy.asarray(each, float) - numpy.mean(numpy.asarray(each)) for each in (x, y))
    size = numpy.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else float("nan")


def ranks(x: ArrayLike) -> numpy.ndarray:
    """Rank values from 1; equal values share their mean rank."""
    _, inverse, counts = numpy.unique(x, return_inverse=True, return_counts=True)
    return (numpy.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Compute Spearman's correlation, that of the ranks."""
    return pearson(ranks(x), ranks(y))


def residuals(x: ArrayLike, groups: Sequence) -> numpy.ndarray:
    """Subtract from each value the mean of its group."""
    values, names = numpy.asarray(x, float), list(groups)
    means = {name: values[[each == name for each in names]].mean() for name in set(names)}
    return values - numpy.array([means[name] for name in names])


def partial(x: ArrayLike, y: ArrayLike, groups: Sequence) -> float:
    """Compute the correlation of x and y within groups, that of their residuals."""
    return pearson(residuals(x, groups), residuals(y, groups))


def permutation_p(
    x: ArrayLike, y: ArrayLike, units: Sequence, draws: int = 2000, seed: int = 0
) -> float:
    """Return the share of permutations of units with a correlation at least as large in size.

    units: (N,), which values of x belong together, as points of one network do; the units' blocks
    of x change places where they have one size, else each unit's mean stands for it.
    """
    names = list(dict.fromkeys(units))
    blocks = [numpy.flatnonzero([unit == name for unit in units]) for name in names]
    a, b = numpy.asarray(x, float), numpy.asarray(y, float)
    if len({len(block) for block in blocks}) > 1:
        a, b = (numpy.array([each[block].mean() for block in blocks]) for each in (a, b))
        blocks = [numpy.array([i]) for i in range(len(a))]
    order, random = numpy.concatenate(blocks), numpy.random.default_rng(seed)
    observed, larger = abs(pearson(a, b)), 0
    if numpy.isnan(observed):
        return float("nan")
    for _ in range(draws):
        permuted = numpy.empty_like(a)
        shuffled = random.permutation(len(blocks))
        permuted[order] = a[numpy.concatenate([blocks[i] for i in shuffled])]
        larger += abs(pearson(permuted, b)) >= observed - 1e-12
    return (1 + larger) / (1 + draws)


def describe(x: ArrayLike, y: ArrayLike, groups: Sequence, units: Sequence) -> dict:
    """Return Pearson's and Spearman's r, r within groups, and the permutation's p."""
    return {
        "pearson": pearson(x, y),
        "spearman": spearman(x, y),
        "partial": partial(x, y, groups),
        "p": permutation_p(x, y, units),
        "points": numpy.size(x),
    }
