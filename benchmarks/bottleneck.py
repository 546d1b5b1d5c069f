"""The step of train_VIB.py, to be timed: natural images and FGSM's, half the weight each."""

from functools import partial

import torch

import models
from benchmarks import measure
from benchmarks.sizes import CLASSES, EPOCH, INDEX, SEED, Sizes
from utils.devices import Compute
from utils.training.bottleneck_losses import vib
from utils.training.noisy import Noisy, attack, draw, weighted

BETA, BUDGET = 1e-3, ("linf", 0.3, 1, 0.3)  # of the paper's Tables 2 and 3


def network(sizes: Sizes, compute: Compute, channels_last: bool) -> torch.nn.Module:
    """Build `vib-cnn` for the sizes: `width` units in each layer (None: 512)."""
    with compute.device:
        net = models.build("vib-cnn", CLASSES, side=sizes.size, width=sizes.width)
    return (compute.prepare(net) if channels_last else net).train()


def step(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, compute: Compute) -> measure.Run:
    """Return what the script does with a batch (--adversarial fgsm): loss, backward pass, step."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0, betas=(0.5, 0.999), fused=True)
    craft = partial(attack, net, kind="fgsm", samples=1, budget=BUDGET, beta=0.0)

    def run():
        optimizer.zero_grad(set_to_none=True)
        generator = compute.generator(SEED, EPOCH, INDEX)
        with compute.autocast():
            parts = weighted(x, y, craft, 0.5, 1.0, generator)
        loss = 0.0
        for share, images, labels in parts:
            noise = draw(net, images, 1, generator)
            with compute.autocast():
                logits, _, mu, sigma = Noisy(net, noise)(images).gathered()
            loss = loss + share * vib(logits, labels, mu, sigma, BETA)
        loss.backward()
        optimizer.step()

    return run
