"""What the tests of the bounds share: encodings, scores, and every bound by its name."""

import torch

from utils.mi.bounds import BOUNDS, MEASURES, f_divergence, infonce, per_sample


def encodings(n=5, units=4, locations=3, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    local = torch.randn(n, units, locations, generator=generator, dtype=torch.float64) * scale
    return local, torch.randn(n, units, 1, generator=generator, dtype=torch.float64)


def with_scores(u):
    """Encodings whose scores are the given u (N,N,L): g_i is a unit vector and f_jl the column of scores."""
    n = len(u)
    return u.permute(1, 0, 2).contiguous(), torch.eye(n, dtype=u.dtype).unsqueeze(2)


def close(value, expected):
    torch.testing.assert_close(
        value, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10
    )


SCALARS = {
    "nce": infonce,
    **{f"fd {measure}": lambda f, g, m=measure: f_divergence(f, g, m) for measure in MEASURES},
}
VALUES = {
    **{bound: lambda f, g, b=bound: per_sample(b, f, g) for bound in BOUNDS},
    **{
        f"fd {measure}": lambda f, g, m=measure: f_divergence(f, g, m, per_sample=True)
        for measure in MEASURES
    },
}
