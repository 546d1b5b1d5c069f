"""DeepFool (Moosavi-Dezfooli et al. 2016), for L2 and Linf, within [0,1]."""

import torch

from utils.attacks.common import precise
from utils.attacks.projected_gradient import per_sample


def deepfool(model, x, y, norm, steps=50, overshoot=0.02, candidates=10) -> torch.Tensor:
    """Step to the nearest of the linearised decision boundaries until the network errs.

    From the present point, with f_k = h_k - h_y and w_k its gradient,

        r += |f_k| / ||w_k||_q^q |w_k|^(q-1) sign(w_k)

    for the k of smallest |f_k| / ||w_k||_q (q the dual exponent); the next point is
    x + (1 + overshoot) r.

    candidates: how many classes are considered, the label and the likeliest others at the natural
    image. The box is part of the problem: r stays in it, and pixels at a bound that a step would
    push outside take no part in that step.
    """
    x_adv, total = x.clone(), torch.zeros_like(x)
    index = torch.arange(len(x), device=x.device)
    with torch.no_grad():
        logits = precise(model(x))
    number = min(candidates, logits.shape[1]) - 1
    others = logits.scatter(1, y[:, None], -torch.inf).topk(number, dim=1).indices
    for _ in range(steps):
        point = x_adv[index].requires_grad_(True)
        logits = precise(model(point))
        robust = logits.argmax(1) == y[index]
        if not robust.any():
            break
        gap = logits.gather(1, others[index]) - logits.gather(1, y[index, None])
        best_distance = torch.full_like(gap[:, 0], torch.inf)
        best_step = torch.zeros_like(point)
        for k in range(gap.shape[1]):
            more = k < gap.shape[1] - 1
            (slope,) = torch.autograd.grad(gap[:, k].sum(), point, retain_graph=more)
            blocked = ((point >= 1) & (slope > 0)) | ((point <= 0) & (slope < 0))
            slope = slope.masked_fill(blocked, 0)
            if norm == "linf":
                size = slope.abs().sum((1, 2, 3))
                unit = slope.sign()
            else:
                size = slope.square().sum((1, 2, 3)).sqrt()
                unit = slope / per_sample(size.clamp_min(1e-30), slope)
            # Never 0: on the boundary itself the label may still be right.
            length = gap[:, k].detach().abs() + 1e-6
            distance = torch.where(size > 0, length / size, torch.inf)
            nearer = distance < best_distance
            step = per_sample(distance, unit) * unit
            best_step = torch.where(per_sample(nearer, unit), step, best_step)
            best_distance = torch.where(nearer, distance, best_distance)
        index, best_step = index[robust], best_step[robust]
        total[index] = (x[index] + total[index] + best_step).clamp(0, 1) - x[index]
        x_adv[index] = (x[index] + (1 + overshoot) * total[index]).clamp(0, 1)
    return x_adv
