"""The attack on mutual information (Zhu et al. 2020, Algorithm 1): each image has a perturbation,
and each batch one objective.

    x'_0 = x,   x'_{t+1} = Pi( x'_t - step * direction(grad_x' J(x', g(x'))) )

with Pi and the direction of `utils.attacks.projected_gradient`. J compares the images of a batch
with each other, so no image can be attacked alone.
"""

import torch

from utils.attacks.projected_gradient import NORMS, at_least_float32, frozen, take_step


def lower_mi(
    encoder: torch.nn.Module,
    critic: torch.nn.Module,
    x: torch.Tensor,
    norm: str = "linf",
    epsilon: float = 8 / 255,
    steps: int = 7,
    step_size: float | None = None,
) -> torch.Tensor:
    """Lower the mutual information of images and representation: x' (N,3,H,W) in [0,1] with
    ||x' - x|| <= epsilon, of the dtype and on the device of `x`.

    Args:
        encoder: g, images to representations.
        critic: J, (x', g(x')) -> scalar, the same in all processes that share the batch.
        x: images in [0,1], (N,3,H,W).
        norm: "linf" or "l2".
        epsilon, step_size: in pixel units; default step epsilon/4.
        steps: how often x' moves.

    The gradient runs through both arguments of the critic. Of the steps + 1 iterates, x among them,
    the one of lowest J is returned. Both networks run in eval mode and once per iterate; modes,
    flags and ``.grad`` are as before afterwards. The iteration draws no random numbers and never
    waits for the device. Raises ValueError for an unknown norm.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is unknown; choose one of {', '.join(NORMS)}")
    step_size = epsilon / 4 if step_size is None else step_size
    with torch.inference_mode(False), frozen(encoder), frozen(critic):
        natural = at_least_float32(x.detach().clone())
        x_adv = best = natural
        lowest = torch.full((), torch.inf, device=x.device)
        for step in range(steps + 1):
            last = step == steps  # its gradient is not needed
            with torch.set_grad_enabled(not last):
                x_adv = x_adv.detach().requires_grad_(not last)
                # A view, as in `pgd`.
                seen = x_adv.view_as(x_adv).to(x.dtype)
                value = critic(seen, encoder(seen))
            better = value.detach() < lowest
            lowest = torch.where(better, value.detach(), lowest)
            best = torch.where(better, x_adv.detach(), best)
            if not last:
                (gradient,) = torch.autograd.grad(value, x_adv)
                x_adv = take_step(norm, epsilon, step_size, x_adv, natural, -gradient)
        return best.to(x.dtype)
