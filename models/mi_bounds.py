"""Lower bounds on mutual information from scores of pairs, in nats (Hjelm et al. 2019, *Deep InfoMax*, section 3).

A batch of N patterns is encoded as ``local`` (N, U, L), U units at each of L locations f_jl, and the N outputs of the
target network as ``global_`` (N, U, 1), one vector g_i each. Output i against location l of pattern j scores

    u[i, j, l] = <g_i, f_jl>.

The positives u[i, i, l] come from pairs that belong together, the negatives u[i, j, l], j != i, from pairs that do not.
Every bound has a form with one value per sample, which the training stages need, and a scalar form.

Scores are computed in float32 at least, also under autocast: they reach +-2000, and there bfloat16 rounds to multiples
of 8. No function here waits for the device.
"""
import math

import torch
import torch.nn.functional as F

from models.mi_names import BOUNDS


def check_samples(n: int) -> None:
    """Raises ValueError for a batch of fewer than 2 samples."""
    if n < 2:
        raise ValueError(f"a bound on mutual information needs at least 2 samples, not {n}: "
                         "the negatives of each are the others")


def scores(local: torch.Tensor, global_: torch.Tensor) -> torch.Tensor:
    """u (N, N, L) of `local` (N, U, L) and `global_` (N, U, 1): float64 if either is, float32 otherwise.

    Raises ValueError on other shapes, and for N < 2.
    """
    if local.dim() != 3 or global_.shape != (*local.shape[:2], 1):
        raise ValueError(f"local (N,U,L) and global_ (N,U,1) are needed, not {tuple(local.shape)} and "
                         f"{tuple(global_.shape)}")
    n, units, locations = local.shape
    check_samples(n)
    dtype = torch.promote_types(torch.promote_types(local.dtype, global_.dtype), torch.float32)
    with torch.autocast(local.device.type, enabled=False):
        # The MI networks end in a LayerNorm over channels, so units are innermost in memory and this is a view.
        vectors = local.to(dtype).transpose(1, 2).reshape(n * locations, units)
        return (global_.to(dtype).squeeze(2) @ vectors.T).view(n, n, locations)


def _positives(u: torch.Tensor) -> torch.Tensor:
    """u[i, i, l] as (N, L)."""
    return u.diagonal(dim1=0, dim2=1).T


def _on_diagonal(u: torch.Tensor) -> torch.Tensor:
    """(N, N, 1), true where a pair is a positive."""
    return torch.eye(len(u), dtype=torch.bool, device=u.device).unsqueeze(2)


def _log_sum_exp_negatives(u: torch.Tensor) -> torch.Tensor:
    """log sum_{j != i} exp u[i, j, l] as (N, L)."""
    return u.masked_fill(_on_diagonal(u), -math.inf).logsumexp(dim=1)


def donsker_varadhan(local: torch.Tensor, global_: torch.Tensor, released_diagonal: bool = False,
                     per_sample: bool = True) -> torch.Tensor:
    """The Donsker-Varadhan bound, one log-mean-exp for each output and location:

        I_i = mean_l [ u[i,i,l] - ( log sum_{j != i} exp u[i,j,l] - log(N-1) ) ].

    It has no upper or lower limit, and is 0 for a critic that scores all pairs alike.

    Args:
        local, global_: encoded patterns (N, U, L) and outputs (N, U, 1).
        released_diagonal: as NAMID's released code has it, for comparison with its numbers. The positive's score is
            multiplied by 0 in place of being left out, so exp(0) joins each sum: I_i never exceeds
            mean_l u[i,i,l] + log(N-1), and scores that are all 0 give -log(N/(N-1)).
        per_sample: False gives the mean of the values. (The single bound of MINE and Deep InfoMax, one log-mean-exp
            over all negatives, is ``f_divergence(measure="DV")``.)

    Returns: (N,), or a scalar.
    """
    u = scores(local, global_)
    negatives = _log_sum_exp_negatives(u)
    if released_diagonal:
        negatives = torch.logaddexp(negatives, negatives.new_zeros(()))
    values = (_positives(u) - negatives).mean(1) + math.log(len(u) - 1)
    return values if per_sample else values.mean()


def infonce(local: torch.Tensor, global_: torch.Tensor, per_sample: bool = False) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018), in the two forms in use.

    Scalar, as Deep InfoMax: the mean over i and l of the log-softmax of u[i,i,l] among itself and all u[i,j,k], j != i,
    any location k. No constant is added: the value is at most 0.

    Per sample (N,): I_i = mean_l [ u[i,i,l] - log sum_j exp u[i,j,l] + log N ], at most log N; the negatives of a
    location are the same location of the other patterns.
    """
    u = scores(local, global_)
    negatives = _log_sum_exp_negatives(u)
    # log( e^p / (e^p + sum e^n) ) = log sigmoid( p - log sum e^n ), which stays exact as it nears 0.
    if per_sample:
        return F.logsigmoid(_positives(u) - negatives).mean(1) + math.log(len(u))
    return F.logsigmoid(_positives(u) - negatives.logsumexp(dim=1, keepdim=True)).mean()


# Measure -> its terms for a positive and for a negative score. DV's second term is no expectation: a log-mean-exp.
_TERMS = {
    "GAN": (F.logsigmoid, lambda u: -F.logsigmoid(-u)),
    "JSD": (lambda u: math.log(2) + F.logsigmoid(u), lambda u: -F.logsigmoid(-u) - math.log(2)),
    "KL": (lambda u: u, lambda u: (u - 1).exp()),
    "RKL": (lambda u: -(-u).exp(), lambda u: u - 1),
    "H2": (lambda u: -(-u).expm1(), torch.expm1),
    # |u| has the subgradient 0 at 0; the root of the square, as the released code has it, has NaN.
    "X2": (lambda u: u.square(), lambda u: -(u.abs() + 1).square() / 2),
    "DV": (lambda u: u, None),
    "W1": (lambda u: u, lambda u: u),
}
MEASURES = tuple(_TERMS)


def f_divergence(local: torch.Tensor, global_: torch.Tensor, measure: str = "JSD",
                 per_sample: bool = False) -> torch.Tensor:
    """The Fenchel dual of an f-divergence between pairs that belong together and pairs that do not (f-GAN).

    Scalar: the mean of E_pos(u[i,i,l]) over i, l minus the mean of E_neg(u[i,j,l]) over i != j, l; for DV the single
    bound of MINE and Deep InfoMax, mean u[i,i,l] - log mean exp u[i,j,l].
    Per sample (N,): I_i = mean_l [ E_pos(u[i,i,l]) - mean_{j != i} E_neg(u[i,j,l]) ], the mean of which is the scalar;
    for DV the values of `donsker_varadhan`.

    KL, RKL and H2 take the exponential of a score and overflow to infinity above 89 (RKL: below -89) in float32.

    Raises ValueError for a `measure` not in MEASURES.
    """
    if measure not in _TERMS:
        raise ValueError(f"measure {measure!r} is unknown; choose one of {', '.join(MEASURES)}")
    positive_term, negative_term = _TERMS[measure]
    if measure == "DV" and per_sample:
        return donsker_varadhan(local, global_)
    u = scores(local, global_)
    n, _, locations = u.shape
    if measure == "DV":
        log_mean_exp = _log_sum_exp_negatives(u).logsumexp(dim=(0, 1)) - math.log(n * (n - 1) * locations)
        return _positives(u).mean() - log_mean_exp
    # Masked on both sides: before the term, or an overflow at a positive would turn its zero gradient into NaN.
    diagonal = _on_diagonal(u)
    negatives = negative_term(u.masked_fill(diagonal, 0)).masked_fill(diagonal, 0).sum(1) / (n - 1)
    values = (positive_term(_positives(u)) - negatives).mean(1)
    return values if per_sample else values.mean()


def per_sample(bound: str, local: torch.Tensor, global_: torch.Tensor) -> torch.Tensor:
    """The values (N,) of a bound by its name on the command line; ``fd`` is `f_divergence` with the measure JSD.

    Raises ValueError for a `bound` not in BOUNDS.
    """
    if bound == "dv":
        return donsker_varadhan(local, global_)
    if bound == "dv-released":
        return donsker_varadhan(local, global_, released_diagonal=True)
    if bound == "nce":
        return infonce(local, global_, per_sample=True)
    if bound == "fd":
        return f_divergence(local, global_, per_sample=True)
    raise ValueError(f"bound {bound!r} is unknown; choose one of {', '.join(BOUNDS)}")
