"""The MI bounds by the name callers rely on; they live in models, for models.mi needs them and never imports utils."""
from models.mi_bounds import BOUNDS, MEASURES, donsker_varadhan, f_divergence, infonce, per_sample, scores

__all__ = ["BOUNDS", "MEASURES", "donsker_varadhan", "f_divergence", "infonce", "per_sample", "scores"]
