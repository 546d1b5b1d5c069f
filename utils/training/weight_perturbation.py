"""Perturb weights adversarially (Wu, Xia and Wang 2020).

The paper is Adversarial Weight Perturbation Helps Robust Generalization.
"""

from collections.abc import Callable

import torch

from utils import distributed


class WeightPerturbation:
    """Take the gradient of a training step where the loss around the weights of `net` is high:

        w <- w + v,   v = gamma ||w|| g / ||g||,   g the gradient of the loss at w.

    v is computed separately for each tensor of more than one dimension (convolutions and linear
    layers; not biases and batch norm). A step calls `ascend`, then computes its loss at w + v; the
    step of `optimizer` first restores the bits of w.

    Batch-norm statistics change in the pass at w + v only, as in the authors' code.
    """

    def __init__(self, net: torch.nn.Module, gamma: float, optimizer: torch.optim.Optimizer):
        self.net, self.gamma = net, gamma
        self.weights: list[torch.Tensor] = [
            weight for weight in net.parameters() if weight.ndim > 1
        ]
        self.unmoved: list[torch.Tensor] = []
        optimizer.register_step_pre_hook(lambda *_: self.restore())

    def ascend(self, loss: Callable[[], torch.Tensor]) -> None:
        """Move the weights by v. loss() -> scalar runs the network.

        loss opens autocast itself: a context that stays open would keep the old casts of the
        weights.
        """
        buffers = list(self.net.buffers())
        before = [buffer.clone() for buffer in buffers]
        gradients = torch.autograd.grad(loss(), self.weights)
        distributed.average(gradients)
        with torch.no_grad():
            for buffer, value in zip(buffers, before):
                buffer.copy_(value)
            self.unmoved = [weight.clone() for weight in self.weights]
            for weight, gradient in zip(self.weights, gradients):
                weight += gradient * (self.gamma * weight.norm() / gradient.norm().clamp_min(1e-12))

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the weights bit for bit; do nothing where they were not moved."""
        for weight, value in zip(self.weights, self.unmoved):
            weight.copy_(value)
        self.unmoved = []
