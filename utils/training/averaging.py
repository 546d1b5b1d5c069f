"""Average a network's weights exponentially (Polyak and Juditsky 1992; for robust networks, Gowal
et al. 2020).
"""

import copy
from typing import NamedTuple

import torch


def decay_after(steps: int, decay: float) -> float:
    """Return the decay of the average after `steps` steps, min(decay, (1 + steps)/(10 + steps)).

    Otherwise the average of a short run would consist of its first weights.
    """
    return min(decay, (1 + steps) / (10 + steps))


class Average(torch.nn.Module):
    """Average the weights of `net` at each step of `optimizer`: average <- d average + (1 - d) net,
    d = `decay_after`.

    ``.module`` is the averaged network, in eval mode: a copy that shares no tensor with `net`.
    Batch-norm statistics are averaged as weights are; their batch counters are copied. The state
    dict includes the number of steps. (torch.optim.swa_utils.AveragedModel sends that number to the
    device in each step, and the host waits.)
    """

    steps: torch.Tensor

    def __init__(self, net: torch.nn.Module, decay: float, optimizer: torch.optim.Optimizer):
        super().__init__()
        self.module = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self.register_buffer("steps", torch.tensor(0))  # on the CPU, whatever the network's device
        optimizer.register_step_post_hook(lambda *_: self.update(net))

    @torch.no_grad()
    def update(self, net: torch.nn.Module) -> None:
        """Move the average towards the present weights of `net`."""
        weight = 1 - decay_after(int(self.steps), self.decay)
        averages, values = map(_tensors, (self.module, net))
        # One call for all tensors: on a GPU a few kernels instead of one for each tensor.
        torch._foreach_lerp_(averages.continuous, values.continuous, weight)
        if averages.counters:
            torch._foreach_copy_(averages.counters, values.counters)
        self.steps += 1


class _Tensors(NamedTuple):
    """Hold the tensors of a network that are averaged, and those that are copied."""

    continuous: list[torch.Tensor]
    counters: list[torch.Tensor]


def _tensors(net: torch.nn.Module) -> _Tensors:
    """List the parameters and buffers of a network."""
    tensors = [*net.parameters(), *net.buffers()]
    continuous = [each for each in tensors if each.is_floating_point()]
    return _Tensors(continuous, [each for each in tensors if not each.is_floating_point()])
