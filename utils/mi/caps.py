"""How mutual information limits the accuracy of any classifier of K equally likely classes."""

import math

import numpy
from scipy.special import entr, xlogy


def binary_entropy(p):
    """Compute H2(p) = -p log p - (1-p) log(1-p), in nats."""
    return entr(p) + entr(1 - numpy.asarray(p))


def printed_cap(mi: float, classes: int) -> float:
    """Compute the cap on accuracy, in [0, 1], that Theorem 3.4 of Zhu et al. 2020 prints:

        accuracy <= (mi + log 2) / log K.

    It is Fano's inequality with H2 replaced by log 2, and says nothing for K = 2. An estimate below
    0 counts as 0.
    """
    return min(1.0, (max(mi, 0.0) + math.log(2)) / math.log(classes))


def fano_cap(mi: float, classes: int) -> float:
    """Compute the cap on accuracy, in [0, 1], that Fano's inequality kept whole gives: 1 - r* with

        H2(r*) + r* log(K-1) = log K - mi.

    The left side rises from 0 at r* = 0 to log K at r* = 1 - 1/K, where r* is found by bisection.
    An estimate below 0 counts as 0, and gives 1/K.
    """
    missing = math.log(classes) - max(mi, 0.0)
    if missing <= 0:
        return 1.0
    low, high = 0.0, 1 - 1 / classes
    for _ in range(100):  # far below the spacing of floats
        middle = (low + high) / 2
        if binary_entropy(middle) + xlogy(middle, classes - 1) < missing:
            low = middle
        else:
            high = middle
    return 1 - high
