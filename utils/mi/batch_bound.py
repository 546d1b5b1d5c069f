"""The Donsker-Varadhan bound J of a whole batch, one number with gradients on both sides.

Output i against location l of pattern j scores u[i,j,l] (`utils.mi.bounds`), and T[i,j] is the mean
of u[i,j,l] over l. The three forms differ in where the locations are averaged:

    average   mean_i T[i,i] - log mean_(i,j) exp T[i,j]             Zhu et al. 2020, Eq. 4.3
    location  mean_l ( mean_i u[i,i,l] - log mean_(i,j) exp u[i,j,l] )     their released code
    pooled    mean_(i,l) u[i,i,l] - log mean_(i,j,l) exp u[i,j,l]   MINE, Deep InfoMax

average >= location >= pooled always: log-mean-exp is convex in the scores and grows when means
move inside the exponential. The pairs (i, j) of the second term are a choice of their own:

    all       every pair, i = j included, as Eq. 4.3 is written: J <= log N
    others    i != j: J has no upper limit
    released  i != j, and the score of a pair i = j multiplied by 0, so that exp(0) joins the sum:
              a critic that is 0 gives -log(N/(N-1)), and J <= mean u[i,i,l] + log(N-1)
"""

import math

import torch

from utils.mi import blocked
from utils.mi.names import FORMS, PAIRINGS


def batch_bound(
    local: torch.Tensor, global_: torch.Tensor, form: str = "average", pairs: str = "all"
) -> torch.Tensor:
    """Compute J of a batch, a scalar, in nats.

    Where several processes share the batch, J is that of the whole batch, the same in each.

    Args:
        local, global_: encoded patterns (N, U, L) and outputs (N, U, 1), N >= 2.
        form: one of FORMS.
        pairs: one of PAIRINGS.

    Raises ValueError for another `form` or `pairs`.
    """
    for what, value, known in (("form", form, FORMS), ("pairs", pairs, PAIRINGS)):
        if value not in known:
            raise ValueError(f"{what} {value!r} is unknown; choose one of {', '.join(known)}")
    local, global_ = blocked.checked(local, global_)
    if form == "average":
        local = local.mean(2, keepdim=True)  # T is bilinear: one location is left
    positives, sums = blocked.log_sum_exp_pairs(local, global_)
    n, locations = positives.shape
    number = n * (n - 1)
    if pairs == "all":
        sums, number = torch.logaddexp(sums, positives), n * n
    if pairs == "released":
        sums = torch.logaddexp(sums, sums.new_zeros(()))
    if form == "pooled":
        return positives.mean() - sums.logsumexp(dim=(0, 1)) + math.log(number * locations)
    return (positives.mean(0) - sums.logsumexp(dim=0)).mean() + math.log(number)
