"""Correlate two measurements, given a third, with p-values by permutation."""

from collections.abc import Sequence

import numpy


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    """Compute Pearson's correlation; NaN where a variable is constant."""
    x, y = (numpy.asarray(each, float) - numpy.mean(each) for each in (x, y))
    size = numpy.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")


def ranks(x: Sequence[float]) -> numpy.ndarray:
    """Rank values from 1; equal values share their mean rank."""
    _, inverse, counts = numpy.unique(x, return_inverse=True, return_counts=True)
    return (numpy.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Compute Spearman's correlation, that of the ranks."""
    return pearson(ranks(x), ranks(y))


def residuals(x: Sequence[float], groups: Sequence) -> numpy.ndarray:
    """Subtract from each value the mean of its group."""
    x, names = numpy.asarray(x, float), list(groups)
    means = {name: x[[each == name for each in names]].mean() for name in set(names)}
    return x - numpy.array([means[name] for name in names])


def partial(x: Sequence[float], y: Sequence[float], groups: Sequence) -> float:
    """Compute the correlation of x and y within groups, that of their residuals."""
    return pearson(residuals(x, groups), residuals(y, groups))


def permutation_p(
    x: Sequence[float], y: Sequence[float], units: Sequence, draws: int = 2000, seed: int = 0
) -> float:
    """Return the share of permutations of units with a correlation at least as large in size.

    units: (N,), which values of x belong together, as points of one network do; the units' blocks
    of x change places where they have one size, else each unit's mean stands for it.
    """
    names = list(dict.fromkeys(units))
    blocks = [numpy.flatnonzero([unit == name for unit in units]) for name in names]
    x, y = numpy.asarray(x, float), numpy.asarray(y, float)
    if len({len(block) for block in blocks}) > 1:
        x, y = (numpy.array([each[block].mean() for block in blocks]) for each in (x, y))
        blocks = [numpy.array([i]) for i in range(len(x))]
    order, random = numpy.concatenate(blocks), numpy.random.default_rng(seed)
    observed, larger = abs(pearson(x, y)), 0
    if numpy.isnan(observed):
        return float("nan")
    for _ in range(draws):
        permuted = numpy.empty_like(x)
        shuffled = random.permutation(len(blocks))
        permuted[order] = x[numpy.concatenate([blocks[i] for i in shuffled])]
        larger += abs(pearson(permuted, y)) >= observed - 1e-12
    return (1 + larger) / (1 + draws)


def describe(x: Sequence[float], y: Sequence[float], groups: Sequence, units: Sequence) -> dict:
    """Return Pearson's and Spearman's r, r within groups, and the permutation's p."""
    return {
        "pearson": pearson(x, y),
        "spearman": spearman(x, y),
        "partial": partial(x, y, groups),
        "p": permutation_p(x, y, units),
        "points": len(x),
    }
