"""Define the losses of classifiers with a Gaussian bottleneck, each a mean over the images.

    ce     E -ln q(y|mu)                                        no noise, no bottleneck
    vib    E_eps -ln q(y|t) + beta R                            Alemi et al. 2017
    ceb    E_eps -ln q(y|t) + weight ln[p(t|x) / b(t|y)]        Fischer and Alemi 2020

with t = mu + sigma eps, R = KL(p(t|x) || N(0,I)) and b(t|y) = N(V_y, I). Arguments:

    logits              of the decoder, (N,C) or one for each draw of eps, (S,N,C)
    y                   labels (N,)
    mu, sigma           of p(t|x), (N,K)
    t                   the draw that the logits come from, (N,K) or (S,N,K)
    class_means         V, (C,K)
"""

import torch
import torch.nn.functional as F

from utils.attacks.projected_gradient import at_least_float32
from utils.mi.bottleneck import rate

OBJECTIVES = ("vib", "ceb", "ce")


def ce(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute the cross-entropy, averaged over the draws where there are several."""
    logits = at_least_float32(logits)
    labels = y.expand(logits.shape[:-1])
    return F.cross_entropy(logits.flatten(0, -2), labels.reshape(-1))


def vib(
    logits: torch.Tensor, y: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor, beta: float
) -> torch.Tensor:
    """Compute the loss of the variational information bottleneck, CE + beta R."""
    return ce(logits, y) + beta * rate(at_least_float32(mu), at_least_float32(sigma)).mean()


def ceb(
    logits: torch.Tensor,
    y: torch.Tensor,
    t: torch.Tensor,
    mu: torch.Tensor,
    class_means: torch.Tensor,
    weight: float,
) -> torch.Tensor:
    """Compute the loss of the conditional entropy bottleneck, for sigma = 1."""
    return ce(logits, y) + weight * residual_information(t, mu, class_means[y]).mean()


def residual_information(
    t: torch.Tensor, mu: torch.Tensor, backward_mean: torch.Tensor
) -> torch.Tensor:
    """Compute ln N(t; mu, I) - ln N(t; V_y, I) of each draw, in nats: the bound of I(X;T|Y).

    backward_mean: V_y, (N,K).
    """
    t, mu = at_least_float32(t), at_least_float32(mu)
    return 0.5 * ((t - backward_mean).square() - (t - mu).square()).sum(-1)
