"""Exponential moving averages of a network's weights (Polyak and Juditsky 1992; for robust networks, Gowal et al. 2020)."""

import copy

import torch


def decay_after(steps: int, decay: float) -> float:
    """The decay of the average after `steps` steps, min(decay, (1 + steps)/(10 + steps)): the average of a short run would
    otherwise consist of its first weights."""
    return min(decay, (1 + steps) / (10 + steps))


class Average(torch.nn.Module):
    """The moving average of `net`, moved by each step of `optimizer`: average <- d average + (1 - d) net, d = `decay_after`.

    The averaged network is ``.module``, in eval mode: a copy that shares no tensor with `net`. Batch-norm statistics are averaged
    as weights are; their count of batches is copied. The state dict holds the number of steps, too. (That of
    torch.optim.swa_utils.AveragedModel is sent to the device in each step, for which the host waits.)
    """

    def __init__(self, net: torch.nn.Module, decay: float, optimizer: torch.optim.Optimizer):
        super().__init__()
        self.module = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self.register_buffer("steps", torch.tensor(0))  # on the CPU wherever the network is
        optimizer.register_step_post_hook(lambda *_: self.update(net))

    @torch.no_grad()
    def update(self, net: torch.nn.Module) -> None:
        """Move the average towards `net` as it is now."""
        weight = 1 - decay_after(int(self.steps), self.decay)
        for average, value in zip(
            [*self.module.parameters(), *self.module.buffers()], [*net.parameters(), *net.buffers()]
        ):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)
        self.steps += 1
