"""Adversarial weight perturbation (Wu, Xia and Wang 2020, Adversarial Weight Perturbation Helps Robust Generalization)."""

from collections.abc import Callable

import torch

from utils import distributed


class WeightPerturbation:
    """Takes the gradient of a training step where the loss around the weights of `net` is high:

        w <- w + v,   v = gamma ||w|| g / ||g||,   g the gradient of the loss at w,

    for each tensor of more than one dimension by itself (convolutions and linear layers; not biases and batch norm). A step
    calls `ascend`, then computes its loss, at w + v; the step of `optimizer` begins by putting the bits of w back.

    Batch-norm statistics move with the pass at w + v alone, as in the authors' code.
    """

    def __init__(self, net: torch.nn.Module, gamma: float, optimizer: torch.optim.Optimizer):
        self.net, self.gamma = net, gamma
        self.weights = [weight for weight in net.parameters() if weight.ndim > 1]
        self.unmoved: list[torch.Tensor] = []
        optimizer.register_step_pre_hook(lambda *_: self.restore())

    def ascend(self, loss: Callable[[], torch.Tensor]) -> None:
        """Move the weights by v. loss() -> scalar runs the network; under autocast it opens the context itself: one that stays
        open would keep the casts of the weights as they were."""
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
        """Put the weights back, bit for bit; nothing where they were not moved."""
        for weight, value in zip(self.weights, self.unmoved):
            weight.copy_(value)
        self.unmoved = []
