"""Lower bounds on mutual information from scores of pairs, in nats (Hjelm et al. 2019, *Deep
InfoMax*, section 3).

A batch of N patterns is encoded as ``local`` (N, U, L), U units at each of L locations f_jl, and
the N outputs of the target network as ``global_`` (N, U, 1), one vector g_i each. Output i against
location l of pattern j scores

    u[i, j, l] = <g_i, f_jl>.

The positives u[i, i, l] come from pairs that belong together, the negatives u[i, j, l], j != i,
from pairs that do not. Every bound has a form with one value per sample, which the training stages
need, and a scalar form.

Scores are computed in float32 at least, also under autocast: they reach +-2000, and there bfloat16
rounds to multiples of 8. `utils.mi.blocked` has how the sums over negatives are computed.
"""

import math

import torch
import torch.nn.functional as F

from utils.mi import blocked
from utils.mi.batch_bound import batch_bound
from utils.mi.names import BOUNDS


def scores(local: torch.Tensor, global_: torch.Tensor) -> torch.Tensor:
    """Compute u (N, N, L) of `local` (N, U, L) and `global_` (N, U, 1).

    In float64 if either is, in float32 otherwise.

    Raises ValueError on other shapes, and for N < 2.
    """
    local, global_ = blocked.checked(local, global_)
    blocked.check_samples(len(local))
    vectors = blocked.by_location(local).flatten(0, 1)
    return blocked.against(vectors, global_.squeeze(2), len(local)).transpose(1, 2)


def donsker_varadhan(
    local: torch.Tensor,
    global_: torch.Tensor,
    released_diagonal: bool = False,
    per_sample: bool = True,
) -> torch.Tensor:
    """Compute the Donsker-Varadhan bound, one log-mean-exp for each output and location:

        I_i = mean_l [ u[i,i,l] - ( log sum_{j != i} exp u[i,j,l] - log(N-1) ) ].

    It has no upper or lower limit, and is 0 for a critic that scores all pairs alike.

    Args:
        local, global_: encoded patterns (N, U, L) and outputs (N, U, 1).
        released_diagonal: as NAMID's released code has it, for comparison with its numbers. The
            positive's score is multiplied by 0 instead of being left out, so exp(0) joins each sum:
            I_i never exceeds mean_l u[i,i,l] + log(N-1), and scores that are all 0 give
            -log(N/(N-1)).
        per_sample: False gives the mean of the values. (The single bound of MINE and Deep InfoMax,
            one log-mean-exp over all negatives, is ``f_divergence(measure="DV")``.)

    Returns: (N,), or a scalar.
    """

    def finish(positives, negatives, n):
        if released_diagonal:
            negatives = torch.logaddexp(negatives, negatives.new_zeros(()))
        return (positives - negatives).mean(1) + math.log(n - 1)

    values = blocked.values(local, global_, blocked.LOG_SUM_EXP, finish)
    return values if per_sample else values.mean()


def infonce(local: torch.Tensor, global_: torch.Tensor, per_sample: bool = False) -> torch.Tensor:
    """Compute InfoNCE (van den Oord et al. 2018), in the two forms in use.

    Scalar, as Deep InfoMax: the mean over i and l of the log-softmax of u[i,i,l] among itself and
    all u[i,j,k], j != i, any location k. No constant is added: the value is at most 0.

    Per sample (N,): I_i = mean_l [ u[i,i,l] - log sum_j exp u[i,j,l] + log N ], at most log N; the
    negatives of a location are the same location of the other patterns.
    """

    # log( e^p / (e^p + sum e^n) ) = log sigmoid( p - log sum e^n ), which stays exact near 0.
    def finish(positives, negatives, n):
        return F.logsigmoid(positives - negatives).mean(1) + math.log(n)

    if per_sample:
        return blocked.values(local, global_, blocked.LOG_SUM_EXP, finish)
    positives, negatives = blocked.log_sum_exp_pairs(local, global_)
    return F.logsigmoid(positives - negatives.logsumexp(dim=1, keepdim=True)).mean()


# Measure -> its terms for a positive and for a negative score. DV's second term is a log-mean-exp,
# not an expectation.
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


def f_divergence(
    local: torch.Tensor, global_: torch.Tensor, measure: str = "JSD", per_sample: bool = False
) -> torch.Tensor:
    """Compute the Fenchel dual of an f-divergence between pairs that belong together and pairs that
    do not (f-GAN).

    Scalar: the mean of E_pos(u[i,i,l]) over i, l minus the mean of E_neg(u[i,j,l]) over i != j, l;
    for DV the single bound of MINE and Deep InfoMax, mean u[i,i,l] - log mean exp u[i,j,l].

    Per sample (N,): I_i = mean_l [ E_pos(u[i,i,l]) - mean_{j != i} E_neg(u[i,j,l]) ], the mean of
    which is the scalar; for DV the values of `donsker_varadhan`.

    KL, RKL and H2 take the exponential of a score and overflow to infinity above 89 (RKL: below
    -89) in float32.

    Raises ValueError for a `measure` not in MEASURES.
    """
    if measure not in _TERMS:
        raise ValueError(f"measure {measure!r} is unknown; choose one of {', '.join(MEASURES)}")
    positive_term, negative_term = _TERMS[measure]
    if negative_term is None and per_sample:
        return donsker_varadhan(local, global_)
    if negative_term is None:  # DV
        return batch_bound(local, global_, form="pooled", pairs="others")

    def finish(positives, negatives, n):
        return (positive_term(positives) - negatives / (n - 1)).mean(1)

    values = blocked.values(local, global_, blocked.sum_of(negative_term), finish)
    return values if per_sample else values.mean()


def per_sample(bound: str, local: torch.Tensor, global_: torch.Tensor) -> torch.Tensor:
    """Compute the values (N,) of a bound by its name on the command line.

    ``fd`` is `f_divergence` with the measure JSD. With K outputs for each pattern, one set after
    another, global_ is (K N, U, 1) and the values are (K N,).

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
