"""Train in several processes, one for each device: torchrun --nproc_per_node=G train_MIAT.py ...

A run of R processes computes what one process would, up to rounding. Each process holds some rows
of every batch. Each process computes what depends on all rows from gathered rows, with the same
value: batch norm takes its statistics over all rows, the MI bounds see the negatives of all rows,
and the losses are taken over gathered outputs. The backward passes here add up the gradients of all
processes, so that the mean over processes of a weight's gradients is that of the common loss. With
one process nothing happens here.

The gradients are averaged in one reduction after the backward pass. DistributedDataParallel would
hide the reduction behind one backward pass of one `forward`. Here a dozen passes come before the
one with gradients to send, and PGD and the estimators do not run networks by one `forward`. One
reduction serves every stage in a few lines.
"""

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from common.errors import InputError

Net = TypeVar("Net", bound=nn.Module)

PATIENCE = datetime.timedelta(minutes=10)  # how long a process waits for a dead one


def start(device: torch.device) -> torch.device:
    """Join the other processes where torchrun started this one, and return this process's device.

    Only the first process prints.
    """
    if not _several(device):
        return device
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(
                f"--nproc_per_node: process {local} has no device of its own; there are "
                f"{torch.cuda.device_count()}; start one process for each device"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE
        )
        if rank() > 0:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open until the process ends
    return device


def _several(device: torch.device) -> bool:
    """Return whether torchrun started several processes.

    Raises InputError where the environment has WORLD_SIZE, but not what torchrun sets beside it.
    """
    said = os.environ.get("WORLD_SIZE") or "1"
    names = ["WORLD_SIZE", "RANK", "MASTER_PORT", "MASTER_ADDR"]
    names += ["LOCAL_RANK"] * (device.type == "cuda")
    for name in names if said != "1" else ():
        value = os.environ.get(name, "")
        is_number = value.isascii() and value.isdecimal()
        if not (value if name == "MASTER_ADDR" else is_number):
            raise InputError(
                f"WORLD_SIZE {said} in the environment: {name} is {value or 'not set'}; "
                "start several processes with torchrun, or unset WORLD_SIZE"
            )
    return int(said) > 1


def refuse(script: str) -> None:
    """Raise InputError where torchrun started several processes of a script for one process."""
    said = os.environ.get("WORLD_SIZE") or "1"
    if said != "1":
        raise InputError(
            f"WORLD_SIZE {said} in the environment: {script} runs in one process; "
            "start it with python alone, or unset WORLD_SIZE"
        )


def stop() -> None:
    """Leave the other processes after all have finished."""
    if dist.is_available() and dist.is_initialized():
        wait()
        dist.destroy_process_group()


def first() -> bool:
    """Return whether this is the process that writes files."""
    return rank() == 0


def wait() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        dist.barrier()


def together(value):
    """Return the `value`, plain data, of each process, in their order."""
    if count() == 1:
        return [value]
    values = [None] * count()
    dist.all_gather_object(values, value)
    return values


def any_number(number: int | None) -> int | None:
    """Return a number that some process has, the same in all; None where no process has one."""
    if count() == 1:
        return number
    found = torch.tensor([number or 0])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found) or None


def average(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor, a gradient, by its mean over the processes."""
    if count() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(mean.view_as(tensor))


def normal(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Draw standard normal numbers (n, ...) for this process's rows `like`.

    They equal those that a single process would draw for the same rows.
    """
    lengths = sizes(len(like))
    noise = torch.randn(
        sum(lengths), *like.shape[1:], dtype=like.dtype, device=like.device, generator=generator
    )
    return noise[sum(lengths[: rank()]) :][: len(like)]


def synchronised(net: Net) -> Net:
    """Return `net` with batch norm over the samples of all processes.

    PyTorch's own SyncBatchNorm runs on CUDA only; `SharedBatchNorm` replaces it elsewhere.
    """
    if count() == 1:
        return net
    if next(net.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for module in net.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.__class__ = SharedBatchNorm
    return net


class SharedBatchNorm(nn.BatchNorm2d):
    """Normalise (N,C) or (N,C,H,W) with the mean and variance over the samples of all processes."""

    def _check_input_dim(self, x):
        """Accept (N,C), too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or count() == 1:
            return super().forward(x)
        # What PyTorch's defaults give, which every network here keeps.
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        axes, channels = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
        sums = add(torch.cat([values.sum(axes), values.new_tensor([values[:, 0].numel()])]))
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centred = values - mean.view(channels)
        variance = add(centred.square().sum(axes)) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(channels) + self.bias.view(channels)).to(x.dtype)


_alone = False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Compute without the other processes inside the `with` block, on batches that they do not
    share.
    """
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def count() -> int:
    """Return the number of processes that share a batch."""
    return (
        dist.get_world_size() if not _alone and dist.is_available() and dist.is_initialized() else 1
    )


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if count() > 1 else 0


def sizes(n: int) -> list[int]:
    """Return how many rows each process holds, where this one holds n.

    The exchange uses the CPU, so that no process waits for an accelerator.
    """
    if count() == 1:
        return [n]
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
    dist.all_gather(lengths, torch.tensor([n]))
    return [int(length) for length in lengths]


def gather(x: torch.Tensor) -> torch.Tensor:
    """Concatenate the rows of all processes, in order: (n, ...) -> (N, ...); with gradient."""
    return x if count() == 1 else torch.compiler.disable(_Gather.apply)(x)


def add(x: torch.Tensor) -> torch.Tensor:
    """Sum over processes a tensor that has the same shape in all of them; with gradient."""
    return x if count() == 1 else torch.compiler.disable(_Add.apply)(x)


class _Gather(torch.autograd.Function):
    """Concatenate rows; the backward pass sums gradients and takes this process's rows."""

    @staticmethod
    def forward(ctx, x):
        lengths = sizes(len(x))
        ctx.part = slice(sum(lengths[: rank()]), sum(lengths[: rank() + 1]))
        padded = x.new_zeros(max(lengths), *x.shape[1:])
        padded[: len(x)] = x
        rows = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(rows, padded)
        return torch.cat([row[:length] for row, length in zip(rows, lengths)])

    @staticmethod
    def backward(ctx, gradient):
        return _sum(gradient)[ctx.part]


class _Add(torch.autograd.Function):
    """Sum a tensor over the processes; the backward pass sums the gradients."""

    @staticmethod
    def forward(ctx, x):
        return _sum(x)

    @staticmethod
    def backward(ctx, gradient):
        return _sum(gradient)


def _sum(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of `x` over the processes, without gradient."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
