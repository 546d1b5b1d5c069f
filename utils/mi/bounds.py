"""Lower bounds on mutual information from scores of pairs, in nats (Hjelm et al. 2019, *Deep InfoMax*, section 3).

A batch of N patterns is encoded as ``local`` (N, U, L), U units at each of L locations f_jl, and the N outputs of the
target network as ``global_`` (N, U, 1), one vector g_i each. Output i against location l of pattern j scores

    u[i, j, l] = <g_i, f_jl>.

The positives u[i, i, l] come from pairs that belong together, the negatives u[i, j, l], j != i, from pairs that do not.
Every bound has a form with one value per sample, which the training stages need, and a scalar form.

Scores are computed in float32 at least, also under autocast: they reach +-2000, and there bfloat16 rounds to multiples
of 8. No function here waits for the device.

The N x N x L scores are large, and a value needs no more of them than one sum over j. They are made for some outputs at a time,
BLOCK scores at most, so that memory grows with N, not with its square. A value depends on one output: where patterns take no
gradient (stage 3), its gradient is taken with it and the scores are dropped, in any number of processes; else they are made
again in the backward pass.

Where several processes share a batch (`utils.distributed`), ``local`` and ``global_`` are this process's samples, N counts the
samples of all, every pattern of which is a negative, and values are those of all N samples, the same in each process.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from utils import distributed
from utils.mi.names import BOUNDS

BLOCK = 2**24  # scores held at a time, 64 MiB in float32: batches of up to 512 images of 32x32 take one block


def check_samples(n: int) -> None:
    """Raises ValueError for a batch of fewer than 2 samples."""
    if n < 2:
        raise ValueError(f"a bound on mutual information needs at least 2 samples, not {n}: "
                         "the negatives of each are the others")


def scores(local: torch.Tensor, global_: torch.Tensor) -> torch.Tensor:
    """u (N, N, L) of `local` (N, U, L) and `global_` (N, U, 1): float64 if either is, float32 otherwise.

    Raises ValueError on other shapes, and for N < 2.
    """
    local, global_ = _checked(local, global_)
    check_samples(len(local))
    return _against(_by_location(local).flatten(0, 1), global_.squeeze(2), len(local)).transpose(1, 2)


def _checked(local: torch.Tensor, global_: torch.Tensor, several: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in the precision of the scores. Raises ValueError on other shapes than (N,U,L) and (N,U,1) or, where there may be
    `several` outputs for a pattern, (K N,U,1)."""
    fits = local.dim() == 3 and global_.shape[1:] == (local.shape[1], 1) and len(local) > 0
    if not fits or (len(global_) % len(local) if several else len(global_) != len(local)):
        raise ValueError(f"local (N,U,L) and global_ (N,U,1) are needed, not {tuple(local.shape)} and "
                         f"{tuple(global_.shape)}")
    dtype = torch.promote_types(torch.promote_types(local.dtype, global_.dtype), torch.float32)
    return local.to(dtype), global_.to(dtype)


def _by_location(local: torch.Tensor) -> torch.Tensor:
    """(N, U, L) as (L, N, U), so that a sum over patterns runs along memory."""
    return local.permute(2, 0, 1).contiguous()


def _against(vectors: torch.Tensor, outputs: torch.Tensor, n: int) -> torch.Tensor:
    """Scores (M, L, n) of outputs (M, U) against the vectors (L n, U) of n patterns."""
    with torch.autocast(vectors.device.type, enabled=False):
        return (outputs @ vectors.T).view(len(outputs), -1, n)


class _Reduction(NamedTuple):
    """A sum of some kind over the negatives of each output.

    within(u, diagonal): of scores (M, L, n), which it changes where they are positives, as `diagonal` (M, 1, n) says; (M, L).
    gradient(u, reduced, weight): of sum(weight * reduced) in the scores so changed, (M, L, n), anything at positives; ends u.
    between: (R, N, L), the sums over the patterns of each of R processes, -> (N, L).
    """

    within: Callable
    gradient: Callable
    between: Callable


_LOG_SUM_EXP = _Reduction(
    within=lambda u, diagonal: u.masked_fill_(diagonal, -math.inf).logsumexp(dim=2),
    gradient=lambda u, reduced, weight: u.sub_(reduced.unsqueeze(2)).exp_().mul_(weight.unsqueeze(2)),
    between=lambda parts: parts.logsumexp(dim=0))


def _sum_of(term: Callable) -> _Reduction:
    """The sum of term(u). Positives are masked on both sides: before the term, or an overflow at one would turn its zero gradient
    into NaN."""
    def gradient(u, reduced, weight):
        with torch.enable_grad():
            u.requires_grad_(True)
            return torch.autograd.grad(term(u), u, weight.unsqueeze(2).expand_as(u).contiguous())[0]

    return _Reduction(lambda u, diagonal: term(u.masked_fill_(diagonal, 0)).masked_fill(diagonal, 0).sum(2), gradient,
                      lambda parts: parts.sum(0))


def _values(local: torch.Tensor, global_: torch.Tensor, reduction: _Reduction, finish: Callable) -> torch.Tensor:
    """Compute a value (N,) for each sample: finish(u[i,i,l], reduced negatives, N), where both are (M, L), -> (M,). Of K outputs
    for each pattern, global_ (K n, U, 1), the values (K N,)."""
    local, global_ = _checked(local, global_, several=True)
    n = len(local)
    if local.requires_grad:
        patterns = _by_location(local)  # the largest tensor of a step: one copy for all outputs
        pairs = [_pairs(patterns, each, reduction) for each in global_.split(n)]
        return torch.cat([finish(positives, negatives, len(positives)) for positives, negatives in pairs])
    lengths = distributed.sizes(n)
    check_samples(sum(lengths))
    sets = global_.squeeze(2).unflatten(0, (-1, n))
    if distributed.count() > 1:  # (K, N, U), the outputs of all
        sets = distributed.gather(sets.transpose(0, 1).contiguous()).transpose(0, 1)
    return _WithGradient.apply(sets, _by_location(local).flatten(0, 1), lengths, reduction, finish).flatten()


class _WithGradient(torch.autograd.Function):
    """`_values` (K, N) of outputs (K, N, U) against vectors (L n, U) without gradient; the gradient of each value in its own
    output, which is all that it depends on, is taken at once and kept, (K, N, U).

    Where processes share a batch, outputs are those of all, of which `lengths` belong to each, and vectors are this process's. A
    value needs the sums of all, which are exchanged; the gradient here is the part that this process's patterns give, and
    the backward pass of `gather` adds the parts up.
    """

    @staticmethod
    def forward(ctx, outputs, vectors, lengths, reduction, finish):
        sets, total, _ = outputs.shape
        rank = distributed.rank()
        n, first = lengths[rank], sum(lengths[:rank])
        index = torch.arange(total, device=vectors.device)
        rows = max(1, BLOCK // (sets * max(lengths) * (len(vectors) // n)))  # as many in each process
        values, gradients = [], []
        for begin in range(0, total, rows):
            some = outputs[:, begin:begin + rows]
            m = some.shape[1]
            own = slice(min(max(first - begin, 0), m), min(max(first + n - begin, 0), m))  # rows with a positive here
            u = _against(vectors, some.flatten(0, 1), n)

            def positives(u, begin=begin, m=m, own=own):  # u[i,i,l] of each set, a view (K, own rows, L)
                columns = slice(begin + own.start - first, begin + own.stop - first)
                return u.view(sets, m, -1, n)[:, own, :, columns].diagonal(dim1=1, dim2=3).transpose(1, 2)

            diagonal = index[begin:begin + m, None] == index[first:first + n]
            parts = [positives(u).clone(), reduction.within(u, diagonal.repeat(sets, 1).unsqueeze(1))]
            leaves = _exchanged(*parts)
            with torch.enable_grad():
                leaf, sums = (each.requires_grad_(True) for each in leaves)
                negatives = sums[0] if len(sums) == 1 else reduction.between(sums)
                value = finish(leaf.flatten(0, 1), negatives, total)
                of_positives, of_sums = torch.autograd.grad(value.sum(), (leaf, sums))
            values.append(value.detach().view(sets, m))
            if ctx.needs_input_grad[0]:
                u = reduction.gradient(u, parts[1], of_sums[rank])
                positives(u).copy_(of_positives[:, own])
                with torch.autocast(vectors.device.type, enabled=False):
                    gradients.append((u.reshape(len(u), -1) @ vectors).view_as(some))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients, 1))
        return torch.cat(values, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return distributed.add(gradient).unsqueeze(2) * ctx.saved_tensors[0], None, None, None, None


def _exchanged(positives: torch.Tensor, reduced: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gather positives (K, m, L), of which each process has some rows, and the reduced negatives of
    R processes, (R, M, L)."""
    if distributed.count() == 1:
        return positives, reduced.unsqueeze(0)
    rows = distributed.gather(positives.transpose(0, 1).contiguous())
    return rows.transpose(0, 1).contiguous(), distributed.gather(reduced.unsqueeze(0))


def _pairs(patterns: torch.Tensor, global_: torch.Tensor, reduction: _Reduction) -> tuple[torch.Tensor, torch.Tensor]:
    """The positives u[i,i,l] and the reduced negatives, both (N, L), of patterns (L, n, U) and outputs (n, U, 1)."""
    locations, n, _ = patterns.shape
    lengths = distributed.sizes(n)
    total, first = sum(lengths), sum(lengths[:distributed.rank()])
    check_samples(total)
    with torch.autocast(patterns.device.type, enabled=False):
        positives = distributed.gather(torch.bmm(patterns.transpose(0, 1), global_).squeeze(2))
    vectors, outputs = patterns.flatten(0, 1), distributed.gather(global_.squeeze(2))
    own = torch.arange(first, first + n, device=patterns.device)

    def part(vectors, outputs, begin):
        index = torch.arange(begin, begin + len(outputs), device=own.device)
        return reduction.within(_against(vectors, outputs, n), (index[:, None] == own).unsqueeze(1))

    rows = max(1, BLOCK // (n * locations))
    reduced = part(vectors, outputs, 0) if rows >= total else _InParts.apply(vectors, outputs, part, rows)
    return positives, reduced if distributed.count() == 1 else reduction.between(distributed.gather(reduced.unsqueeze(0)))


def _log_sum_exp_pairs(local: torch.Tensor, global_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`_pairs` of the scalar bounds, from encodings as a caller gives them."""
    local, global_ = _checked(local, global_)
    return _pairs(_by_location(local), global_, _LOG_SUM_EXP)


class _InParts(torch.autograd.Function):
    """part(vectors, outputs, 0), a function of each output by itself, made for `rows` outputs at a time and once more in the
    backward pass. (torch.utils.checkpoint, part by part, was seen to hold a gradient of `vectors` for each part.)"""

    @staticmethod
    def forward(ctx, vectors, outputs, part, rows):
        ctx.save_for_backward(vectors, outputs)
        ctx.part, ctx.rows = part, rows
        return torch.cat([part(vectors, some, i * rows) for i, some in enumerate(outputs.split(rows))])

    @staticmethod
    def backward(ctx, gradient):
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[:2]
        sums = [torch.zeros_like(each) if need else None for each, need in zip(saved, needed)]
        for begin in range(0, len(saved[1]), ctx.rows):
            some = slice(begin, begin + ctx.rows)
            leaves = [each.detach().requires_grad_(need) for each, need in zip((saved[0], saved[1][some]), needed)]
            with torch.enable_grad():
                value = ctx.part(*leaves, begin)
            found = iter(torch.autograd.grad(value, [leaf for leaf in leaves if leaf.requires_grad], gradient[some]))
            if needed[0]:
                sums[0] += next(found)
            if needed[1]:
                sums[1][some] = next(found)
        return *sums, None, None


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
    def finish(positives, negatives, n):
        if released_diagonal:
            negatives = torch.logaddexp(negatives, negatives.new_zeros(()))
        return (positives - negatives).mean(1) + math.log(n - 1)

    values = _values(local, global_, _LOG_SUM_EXP, finish)
    return values if per_sample else values.mean()


def infonce(local: torch.Tensor, global_: torch.Tensor, per_sample: bool = False) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018), in the two forms in use.

    Scalar, as Deep InfoMax: the mean over i and l of the log-softmax of u[i,i,l] among itself and all u[i,j,k], j != i,
    any location k. No constant is added: the value is at most 0.

    Per sample (N,): I_i = mean_l [ u[i,i,l] - log sum_j exp u[i,j,l] + log N ], at most log N; the negatives of a
    location are the same location of the other patterns.
    """
    # log( e^p / (e^p + sum e^n) ) = log sigmoid( p - log sum e^n ), which stays exact as it nears 0.
    if per_sample:
        return _values(local, global_, _LOG_SUM_EXP,
                       lambda positives, negatives, n: F.logsigmoid(positives - negatives).mean(1) + math.log(n))
    positives, negatives = _log_sum_exp_pairs(local, global_)
    return F.logsigmoid(positives - negatives.logsumexp(dim=1, keepdim=True)).mean()


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
    if measure == "DV":
        positives, negatives = _log_sum_exp_pairs(local, global_)
        n, locations = positives.shape
        return positives.mean() - negatives.logsumexp(dim=(0, 1)) + math.log(n * (n - 1) * locations)

    values = _values(local, global_, _sum_of(negative_term),
                     lambda positives, negatives, n: (positive_term(positives) - negatives / (n - 1)).mean(1))
    return values if per_sample else values.mean()


def per_sample(bound: str, local: torch.Tensor, global_: torch.Tensor) -> torch.Tensor:
    """The values (N,) of a bound by its name on the command line; ``fd`` is `f_divergence` with the measure JSD. With K outputs
    for each pattern, global_ (K N, U, 1) one set after another, (K N,).

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
