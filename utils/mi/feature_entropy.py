"""Measure the entropy of a network's hidden features, which exists for binned features only.

A continuous feature has an infinite entropy as a discrete variable, so that the binning is part of
the result. Three binnings are provided: per unit between quantiles of reference features, per unit
with one absolute width, and jointly over principal components.
"""

from collections.abc import Callable

import numpy

from utils.mi import entropies

BINS = 30  # per unit, between the quantiles
QUANTILES = (0.001, 0.999)
COMPONENTS, COMPONENT_BINS = 8, 4  # of the joint code: at most 4^8 = 65,536 symbols
RARE = 0.5  # share of symbols seen once from which an estimate says little
ESTIMATORS: dict[str, Callable] = {
    "maximum_likelihood": entropies.maximum_likelihood,
    "miller_madow": entropies.miller_madow,
    "jvhw": entropies.jvhw,
}


def equal_bins(values: numpy.ndarray, low, high, bins: int) -> numpy.ndarray:
    """Number the `bins` equal bins between `low` and `high` that values (N,U) fall into, from 0.

    low, high: (U,). Values beyond them fall into the first or last bin; where they are equal, all
    values fall into the first.
    """
    scale = numpy.where(high > low, high - low, numpy.inf)
    return numpy.clip(numpy.floor((values - low) / scale * bins), 0, bins - 1).astype(numpy.int64)


def codes_by_unit(
    features: numpy.ndarray, reference: numpy.ndarray, bins: int = BINS
) -> numpy.ndarray:
    """Bin each unit of features (N,U) between the 0.1 and 99.9 % quantiles of reference (M,U)."""
    low, high = numpy.quantile(reference, QUANTILES, axis=0)
    return equal_bins(features, low, high, bins)


def codes_by_width(features: numpy.ndarray, width: float) -> numpy.ndarray:
    """Bin each unit of features (N,U) into bins of one absolute width, so that scale counts."""
    return numpy.floor(features / width).astype(numpy.int64)


def joint_codes(features: numpy.ndarray, reference: numpy.ndarray) -> numpy.ndarray:
    """Give each sample of features (N,U) one code (N,) from the principal components of reference.

    The first 8 components (or U, where there are fewer) are each cut into 4 equal bins between the
    same quantiles.
    """
    centre = reference.mean(0)
    _, _, axes = numpy.linalg.svd(reference - centre, full_matrices=False)
    axes = axes[:COMPONENTS].T
    codes = codes_by_unit((features - centre) @ axes, (reference - centre) @ axes, COMPONENT_BINS)
    return codes @ COMPONENT_BINS ** numpy.arange(codes.shape[1])


def mean_over_units(codes: numpy.ndarray) -> dict[str, float]:
    """Estimate the entropy of each unit's codes (N,U), in nats, and average over the units.

    Returns {estimator: nats} and "single_share", the mean share of samples whose code was seen
    once.
    """
    found = {
        name: float(numpy.mean([estimator(unit) for unit in codes.T]))
        for name, estimator in ESTIMATORS.items()
    }
    share = float(numpy.mean([entropies.single_share(unit) for unit in codes.T]))
    return found | {"single_share": share}


def feature_entropies(
    features: numpy.ndarray, reference: numpy.ndarray, width: float
) -> dict[str, dict[str, float]]:
    """Estimate the entropy of features (N,U) under each binning.

    Args:
        features: of the images in question.
        reference: (M,U) of the natural test images, which place the bins.
        width: of the absolute bins, one for all networks that are compared.

    Returns {"unit", "width" or "joint": the values of `mean_over_units`}.
    """
    return {
        "unit": mean_over_units(codes_by_unit(features, reference)),
        "width": mean_over_units(codes_by_width(features, width)),
        "joint": mean_over_units(joint_codes(features, reference)[:, None]),
    }


def warnings(found: dict[str, dict[str, float]]) -> list[str]:
    """Warn of estimates from too few samples.

    found: of `feature_entropies`.
    """
    return [
        f"entropy, {name} bins: {100 * values['single_share']:.0f} % of the samples have a code of "
        "their own; the estimate depends on their number more than on the features"
        for name, values in found.items()
        if values["single_share"] > RARE
    ]
