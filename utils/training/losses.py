"""Define the adversarial losses L_adv of the defenses, each (logits, logits_adv, y) -> scalar.

`logits` h(x) and `logits_adv` h(x~) are (N,C), `y` is (N,). A loss is computed in float32 at least
and is the mean over the samples. A new loss needs a function here and a line
of `LOSSES` in utils/training/registry.py.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from utils.attacks.projected_gradient import at_least_float32
from utils.distributed import gather

BETA = 6.0  # weight of the regulariser of TRADES and MART in their papers


def _kl(logits: torch.Tensor, logits_adv: torch.Tensor) -> torch.Tensor:
    """Compute KL(softmax h(x) || softmax h(x~)) of each sample, (N,), from log-probabilities."""
    natural, adversarial = _log_softmax(logits), _log_softmax(logits_adv)
    return F.kl_div(adversarial, natural, reduction="none", log_target=True).sum(1)


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return F.log_softmax(at_least_float32(logits), 1)


def _cross_entropy(logits: torch.Tensor, y: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Compute the mean of -sum_k q_k log p_k, where q is (1 - smoothing) on y and smoothing/C on
    each class.
    """
    log_p = _log_softmax(logits)
    loss = F.nll_loss(log_p, y)
    return loss - smoothing * (log_p.mean() + loss) if smoothing else loss


def ce(
    logits: torch.Tensor | None, logits_adv: torch.Tensor, y: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Compute the cross-entropy on adversarial samples (Madry et al. 2018), without `logits`."""
    return _cross_entropy(logits_adv, y, smoothing)


def trades(
    logits: torch.Tensor,
    logits_adv: torch.Tensor,
    y: torch.Tensor,
    beta: float = BETA,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Compute CE(h(x), y) + beta KL(softmax h(x) || softmax h(x~)) (Zhang et al. 2019)."""
    return _cross_entropy(logits, y, smoothing) + beta * _kl(logits, logits_adv).mean()


def mart(
    logits: torch.Tensor, logits_adv: torch.Tensor, y: torch.Tensor, beta: float = BETA
) -> torch.Tensor:
    """Compute BCE(h(x~), y) + beta mean[ KL(softmax h(x) || softmax h(x~)) (1 - p_y(x)) ] (Wang et
    al. 2020).

    BCE = CE(h(x~), y) - log(1.0001 - max_{k != y} p_k(x~) + 1e-12).
    """
    log_p, log_p_adv = _log_softmax(logits), _log_softmax(logits_adv)
    others = log_p_adv.scatter(1, y[:, None], -torch.inf).amax(1).exp()
    boosted = F.nll_loss(log_p_adv, y) - torch.log(1.0001 - others + 1e-12).mean()
    p_y = log_p.gather(1, y[:, None]).squeeze(1).exp()
    return boosted + beta * (_kl(logits, logits_adv) * (1 - p_y)).mean()


def natural_loss(
    x: torch.Tensor,
    y: torch.Tensor,
    target: torch.nn.Module,
    autocast: Callable,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Compute CE(h(x), y) of images x (N,3,H,W) in [0,1] and labels y (N,).

    With several processes each has a part of the batch, and the loss is over the whole batch.
    autocast() is the context in which networks run. smoothing: of the labels, below 1.
    """
    with autocast():
        logits = gather(at_least_float32(target(x)))
    return ce(None, logits, gather(y), smoothing)
