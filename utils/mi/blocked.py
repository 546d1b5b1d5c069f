"""How the bounds sum over negatives: in blocks, across processes, with gradients taken at once.

`utils.mi.bounds` has the formulas. Of the N x N x L scores u[i,j,l] each formula needs the
positives u[i,i,l] and, for each output i and location l, one sum over the negatives j != i. The
scores are large, so they are computed for some outputs at a time, BLOCK scores at most, and memory
grows with N, not with its square.

A value depends on one output. Where patterns take no gradient (stage 3), the gradient of a value in
its output is computed together with the value, and the scores are dropped, in any number of
processes. Otherwise the scores are computed again in the backward pass.

Where several processes share a batch (`utils.distributed`), ``local`` and ``global_`` are this
process's samples. N counts the samples of all processes, whose patterns are all negatives. The
values are those of all N samples, the same in each process. No function here waits for the device.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from utils import distributed

# Scores held at a time, 64 MiB in float32: batches of up to 512 images of 32x32 take one block.
BLOCK = 2**24


def check_samples(n: int) -> None:
    """Raise ValueError for a batch of fewer than 2 samples."""
    if n < 2:
        raise ValueError(
            f"a bound on mutual information needs at least 2 samples, not {n}: "
            "the negatives of each are the others"
        )


def checked(
    local: torch.Tensor, global_: torch.Tensor, several: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both in the precision of the scores.

    Raises ValueError on other shapes than (N,U,L) and (N,U,1) or, where there may be `several`
    outputs for a pattern, (K N,U,1).
    """
    fits = local.dim() == 3 and global_.shape[1:] == (local.shape[1], 1) and len(local) > 0
    if not fits or (len(global_) % len(local) if several else len(global_) != len(local)):
        raise ValueError(
            f"local (N,U,L) and global_ (N,U,1) are needed, not {tuple(local.shape)} and "
            f"{tuple(global_.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(local.dtype, global_.dtype), torch.float32)
    return local.to(dtype), global_.to(dtype)


def by_location(local: torch.Tensor) -> torch.Tensor:
    """Copy (N, U, L) to (L, N, U), so that a sum over patterns runs along memory."""
    return local.permute(2, 0, 1).contiguous()


def against(vectors: torch.Tensor, outputs: torch.Tensor, n: int) -> torch.Tensor:
    """Score outputs (M, U) against the vectors (L n, U) of n patterns: (M, L, n)."""
    with torch.autocast(vectors.device.type, enabled=False):
        return (outputs @ vectors.T).view(len(outputs), -1, n)


class Reduction(NamedTuple):
    """Define a sum over the negatives of each output.

    within(u, diagonal): sums scores (M, L, n) to (M, L). It changes u at the positives, which
        `diagonal` (M, 1, n) marks.
    gradient(u, reduced, weight): the gradient (M, L, n) of sum(weight * reduced) in the scores so
        changed, arbitrary at positives. It overwrites u.
    between(parts): joins the sums (R, N, L) over the patterns of each of R processes to (N, L).
    """

    within: Callable
    gradient: Callable
    between: Callable


LOG_SUM_EXP = Reduction(
    within=lambda u, diagonal: u.masked_fill_(diagonal, -math.inf).logsumexp(dim=2),
    gradient=lambda u, reduced, weight: (
        u.sub_(reduced.unsqueeze(2)).exp_().mul_(weight.unsqueeze(2))
    ),
    between=lambda parts: parts.logsumexp(dim=0),
)


def sum_of(term: Callable) -> Reduction:
    """Define the sum of term(u).

    Positives are masked before the term and after it: an overflow at one would turn its zero
    gradient into NaN.
    """

    def gradient(u, reduced, weight):
        with torch.enable_grad():
            u.requires_grad_(True)
            return torch.autograd.grad(term(u), u, weight.unsqueeze(2).expand_as(u).contiguous())[0]

    return Reduction(
        lambda u, diagonal: term(u.masked_fill_(diagonal, 0)).masked_fill(diagonal, 0).sum(2),
        gradient,
        lambda parts: parts.sum(0),
    )


def values(
    local: torch.Tensor, global_: torch.Tensor, reduction: Reduction, finish: Callable
) -> torch.Tensor:
    """Compute a value for each sample, (N,): finish(u[i,i,l], reduced negatives, N).

    finish: (M, L), (M, L) and N -> (M,). With K outputs for each pattern, global_ (K n, U, 1), the
    values are (K N,).
    """
    local, global_ = checked(local, global_, several=True)
    n = len(local)
    if local.requires_grad:
        patterns = by_location(local)  # the largest tensor of a step: one copy for all outputs
        pairs = [_pairs(patterns, each, reduction) for each in global_.split(n)]
        return torch.cat([finish(*pair, len(pair[0])) for pair in pairs])
    lengths = distributed.sizes(n)
    check_samples(sum(lengths))
    sets = global_.squeeze(2).unflatten(0, (-1, n))
    if distributed.count() > 1:  # (K, N, U), the outputs of all
        sets = distributed.gather(sets.transpose(0, 1).contiguous()).transpose(0, 1)
    vectors = by_location(local).flatten(0, 1)
    return _WithGradient.apply(sets, vectors, lengths, reduction, finish).flatten()


class _WithGradient(torch.autograd.Function):
    """Compute `values` (K, N) of outputs (K, N, U) against vectors (L n, U) that take no gradient.

    The gradient of each value in its own output, which is all that it depends on, is computed at
    once and kept, (K, N, U).

    Where processes share a batch, the outputs are those of all, of which `lengths` belong to each,
    and the vectors are this process's. A value needs the sums of all, which are exchanged; the
    gradient here is the part that this process's patterns give, and the backward pass of `gather`
    adds the parts up.
    """

    @staticmethod
    def forward(ctx, outputs, vectors, lengths, reduction, finish):
        sets, total, _ = outputs.shape
        rank = distributed.rank()
        n, first = lengths[rank], sum(lengths[:rank])
        index = torch.arange(total, device=vectors.device)
        # As many rows in each process.
        rows = max(1, BLOCK // (sets * max(lengths) * (len(vectors) // n)))
        found, gradients = [], []
        for begin in range(0, total, rows):
            some = outputs[:, begin : begin + rows]
            m = some.shape[1]
            # The rows of this block that have a positive in this process.
            own = slice(min(max(first - begin, 0), m), min(max(first + n - begin, 0), m))
            columns = slice(begin + own.start - first, begin + own.stop - first)
            u = against(vectors, some.flatten(0, 1), n)
            diagonal = index[begin : begin + m, None] == index[first : first + n]
            positives = _positives(u, sets, own, columns).clone()
            reduced = reduction.within(u, diagonal.repeat(sets, 1).unsqueeze(1))
            leaves = _exchanged(positives, reduced)
            with torch.enable_grad():
                leaf, sums = (each.requires_grad_(True) for each in leaves)
                negatives = sums[0] if len(sums) == 1 else reduction.between(sums)
                value = finish(leaf.flatten(0, 1), negatives, total)
                of_positives, of_sums = torch.autograd.grad(value.sum(), (leaf, sums))
            found.append(value.detach().view(sets, m))
            if ctx.needs_input_grad[0]:
                u = reduction.gradient(u, reduced, of_sums[rank])
                _positives(u, sets, own, columns).copy_(of_positives[:, own])
                with torch.autocast(vectors.device.type, enabled=False):
                    gradients.append((u.reshape(len(u), -1) @ vectors).view_as(some))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients, 1))
        return torch.cat(found, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return distributed.add(gradient).unsqueeze(2) * ctx.saved_tensors[0], None, None, None, None


def _positives(u: torch.Tensor, sets: int, rows: slice, columns: slice) -> torch.Tensor:
    """View the positives u[i,i,l] of each set, (K, rows, L), of scores (K m, L, n)."""
    blocks = u.view(sets, -1, *u.shape[1:])[:, rows, :, columns]
    return blocks.diagonal(dim1=1, dim2=3).transpose(1, 2)


def _exchanged(positives: torch.Tensor, reduced: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gather the positives (K, m, L), of which each process has some rows, and the reduced
    negatives of R processes, (R, M, L)."""
    if distributed.count() == 1:
        return positives, reduced.unsqueeze(0)
    rows = distributed.gather(positives.transpose(0, 1).contiguous())
    return rows.transpose(0, 1).contiguous(), distributed.gather(reduced.unsqueeze(0))


def _pairs(
    patterns: torch.Tensor, global_: torch.Tensor, reduction: Reduction
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the positives u[i,i,l] and the reduced negatives, both (N, L), of patterns (L, n, U)
    and outputs (n, U, 1)."""
    locations, n, _ = patterns.shape
    lengths = distributed.sizes(n)
    total, first = sum(lengths), sum(lengths[: distributed.rank()])
    check_samples(total)
    with torch.autocast(patterns.device.type, enabled=False):
        positives = distributed.gather(torch.bmm(patterns.transpose(0, 1), global_).squeeze(2))
    vectors, outputs = patterns.flatten(0, 1), distributed.gather(global_.squeeze(2))
    own = torch.arange(first, first + n, device=patterns.device)

    def part(vectors, outputs, begin):
        index = torch.arange(begin, begin + len(outputs), device=own.device)
        return reduction.within(against(vectors, outputs, n), (index[:, None] == own).unsqueeze(1))

    rows = max(1, BLOCK // (n * locations))
    reduced = (
        part(vectors, outputs, 0) if rows >= total else _InParts.apply(vectors, outputs, part, rows)
    )
    if distributed.count() > 1:
        reduced = reduction.between(distributed.gather(reduced.unsqueeze(0)))
    return positives, reduced


def log_sum_exp_pairs(
    local: torch.Tensor, global_: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the positives and the log-sum-exp of the negatives, both (N, L), for the scalar
    bounds."""
    local, global_ = checked(local, global_)
    return _pairs(by_location(local), global_, LOG_SUM_EXP)


class _InParts(torch.autograd.Function):
    """Compute part(vectors, outputs, 0), a function of each output by itself, for `rows` outputs at
    a time, and once more in the backward pass.

    (torch.utils.checkpoint, part by part, was seen to hold a gradient of `vectors` for each part.)
    """

    @staticmethod
    def forward(ctx, vectors, outputs, part, rows):
        ctx.save_for_backward(vectors, outputs)
        ctx.part, ctx.rows = part, rows
        blocks = enumerate(outputs.split(rows))
        return torch.cat([part(vectors, some, i * rows) for i, some in blocks])

    @staticmethod
    def backward(ctx, gradient):
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[:2]
        sums = [torch.zeros_like(each) if need else None for each, need in zip(saved, needed)]
        for begin in range(0, len(saved[1]), ctx.rows):
            some = slice(begin, begin + ctx.rows)
            inputs = zip((saved[0], saved[1][some]), needed)
            leaves = [each.detach().requires_grad_(need) for each, need in inputs]
            with torch.enable_grad():
                value = ctx.part(*leaves, begin)
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found = iter(torch.autograd.grad(value, wanted, gradient[some]))
            if sums[0] is not None:
                sums[0] += next(found)
            if sums[1] is not None:
                sums[1][some] = next(found)
        return *sums, None, None
