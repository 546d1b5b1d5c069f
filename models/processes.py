"""What the processes of one run share: the rows of a batch that is spread over them. With one process nothing happens here.

A run of R processes (torchrun) computes what one process would. Each holds some rows of every batch; what depends on all rows
is computed by each of them, from gathered rows, to the same value. The backward passes here add up the gradients of all
processes, so that the mean over processes of a weight's gradients is that of the common loss.
"""
import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist

_alone = False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, this process computes for itself, on batches that the others do not share."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def count() -> int:
    """The number of processes that share a batch."""
    return dist.get_world_size() if not _alone and dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if count() > 1 else 0


def sizes(n: int) -> list[int]:
    """How many rows each process holds, where this one holds n. Asked over the CPU: nobody waits for an accelerator."""
    if count() == 1:
        return [n]
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
    dist.all_gather(lengths, torch.tensor([n]))
    return [int(length) for length in lengths]


def gather(x: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in their order, (N, ...) of this one's `x` (n, ...); with gradient."""
    return x if count() == 1 else torch.compiler.disable(_Gather.apply)(x)


def add(x: torch.Tensor) -> torch.Tensor:
    """The sum over processes of a tensor that has one shape in all of them; with gradient."""
    return x if count() == 1 else torch.compiler.disable(_Add.apply)(x)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        lengths = sizes(len(x))
        ctx.part = slice(sum(lengths[:rank()]), sum(lengths[:rank() + 1]))
        padded = x.new_zeros(max(lengths), *x.shape[1:])
        padded[:len(x)] = x
        rows = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(rows, padded)
        return torch.cat([row[:length] for row, length in zip(rows, lengths)])

    @staticmethod
    def backward(ctx, gradient):
        return _sum(gradient)[ctx.part]


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return _sum(x)

    @staticmethod
    def backward(ctx, gradient):
        return _sum(gradient)


def _sum(x: torch.Tensor) -> torch.Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
