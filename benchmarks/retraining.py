"""Time the step of train_entropic.py: a natural step that also reads the hidden layers."""

import torch
import torch.nn.functional as F

import train_entropic
from benchmarks import measure
from utils.attacks.projected_gradient import at_least_float32, frozen
from utils.devices import Compute
from utils.mi.taps import select, tapped


def step(
    target: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    compute: Compute,
) -> measure.Run:
    """Return what the script does with a batch in its default mode: loss, backward pass, step."""
    with frozen(target), torch.no_grad(), compute.eager():
        names = select(tapped(target, x[:2]), None)
    asked = train_entropic.Plan(names, dict.fromkeys(names, 1), {})
    target.train()

    def run():
        optimizer.zero_grad(set_to_none=True)
        with compute.autocast(), compute.eager():  # the script compiles no network
            found = tapped(target, x)
        loss = F.cross_entropy(at_least_float32(found.output), y)
        term, _ = train_entropic.entropic_term(found, y, asked, "sign", "activation")
        (loss + term).backward()
        optimizer.step()

    return run
