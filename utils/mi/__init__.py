"""Mutual information: bounds, the estimator, patterns, losses and diagnostics.

Importing this package does not import torch: the command line reads `utils.mi.names`.
"""

__all__ = ["MIEstimator"]


def __getattr__(name: str):
    if name == "MIEstimator":
        from utils.mi.estimator import MIEstimator

        return MIEstimator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
