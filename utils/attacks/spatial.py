"""Spatially transformed adversarial examples (STA, Xiao et al. 2018): pixels move.

A flow f (2 displacements in pixels for each pixel) makes x~(p) = x(p + f_p), by bilinear
interpolation, and minimises

    max(h_y(x~) - max_{k != y} h_k(x~), -confidence) + tau sum_p sum_{q next to p} ||f_p - f_q||_2.
"""

import torch
import torch.nn.functional as F

from utils.attacks.common import cut, precise
from utils.attacks.projected_gradient import per_sample


def sta(model, x, y, steps=100, step_size=0.1, tau=0.0005, confidence=0.0) -> torch.Tensor:
    """Attack by `steps` steps of Adam, of `step_size` pixels, on the flow of each image.

    Returns the image of the smoothest flow seen on which the network errs, and the last image where
    there was none.

    tau: the paper's 0.05, with displacements in pixels, outweighs the margin of a robust network by
    so much that the attack hardly ever succeeds: on 4 of 37 images of a small adversarially trained
    CNN, 0.0005 on 32.
    """
    flow = torch.zeros(len(x), 2, *x.shape[2:], dtype=x.dtype, device=x.device, requires_grad=True)
    adam = torch.optim.Adam([flow], step_size)
    best, smoothest = x, torch.full_like(x[:, 0, 0, 0], torch.inf)
    for _ in range(steps):
        x_adv = warp(x, flow)
        logits = precise(model(x_adv))
        rough = roughness(flow)
        others = logits.scatter(1, y[:, None], -torch.inf)
        margin = logits.gather(1, y[:, None])[:, 0] - others.amax(1)
        loss = (margin.clamp_min(-confidence) + tau * rough).sum()
        (flow.grad,) = torch.autograd.grad(loss, flow)
        with torch.no_grad():
            better = (logits.argmax(1) != y) & (rough < smoothest)
            best = torch.where(per_sample(better, x), x_adv, best)
            smoothest = torch.where(better, rough, smoothest)
        adam.step()
    with torch.no_grad():
        return torch.where(per_sample(smoothest < torch.inf, x), best, warp(x, flow))


def warp(x: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Read x (N,C,H,W) at each pixel's place + flow (N,2,H,W: vertical, horizontal, in pixels), by
    bilinear interpolation; beyond the border, the border's value."""
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device, dtype=x.dtype)[:, None] + flow[:, 0]
    columns = torch.arange(width, device=x.device, dtype=x.dtype) + flow[:, 1]
    grid = torch.stack([2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1], -1)
    return cut(F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True))


def roughness(flow: torch.Tensor) -> torch.Tensor:
    """Sum the distance of the displacements over pixels and their 4 neighbours, (N,); each pair
    counts twice."""

    def lengths(difference):
        # 1e-12: the root has no gradient at 0.
        return (difference.square().sum(1) + 1e-12).sqrt().sum((1, 2))

    vertical = lengths(flow[:, :, 1:] - flow[:, :, :-1])
    return 2 * (vertical + lengths(flow[:, :, :, 1:] - flow[:, :, :, :-1]))
