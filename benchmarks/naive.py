"""The losses of stages 2 and 3, arranged as in the code released with the paper: the baseline.

Value and gradient are those of train_MIAT.py and train_MI_estimator.py; only the cost differs.
Every use of an output of the target is a forward pass of its own, and every MI value encodes its
pattern again: 7 target passes and 4 local passes for NAMID where 2 and 2 suffice, 16 and 16 in
stage 2 where 2 and 2 suffice. Networks that are frozen in a stage still get weight gradients, which
nothing clears (docs/differences.md, point 19). The released code's tensors are contiguous, so these
steps are timed on contiguous networks. The estimators look at the logits.
"""

import torch

from utils.mi import patterns
from utils.mi.losses import namid
from utils.training.losses import ce

REPEATS = 4  # passes per MI value in stage 2: two estimators x two kinds of sample x REPEATS = 16


def namid_loss(x, x_adv, y, target, estimators, lam: float, alpha: float):
    """Compute L_all of `train_MIAT.namid` with --adv-loss ce, for networks as there.

    It takes 7 target passes: two that only select, one for L_adv, one for each MI value.
    """
    natural_mi, adversarial_mi = estimators["natural"], estimators["adversarial"]
    with torch.no_grad():
        selected = patterns.select(target(x), target(x_adv), y)["W"]
    adv_loss = ce(None, target(x_adv), y)
    # E_n(x; h(x)), E_n(x; h(x~)), E_a(n; h(x)), E_a(n; h(x~))
    natural = natural_mi(patterns.natural(x, x_adv), target(x))
    natural_adv = natural_mi(patterns.natural(x, x_adv), target(x_adv))
    adversarial = adversarial_mi(patterns.adversarial(x, x_adv), target(x))
    adversarial_adv = adversarial_mi(patterns.adversarial(x, x_adv), target(x_adv))
    mi_loss = namid(natural, natural_adv, adversarial, adversarial_adv, selected, lam)
    return adv_loss + alpha * mi_loss


def stage2_loss(x, x_adv, y, target, estimators, objectives):
    """Compute the loss of stage 2 in 16 target passes, for networks as in `batch_values`.

    Each objective is the mean of REPEATS equal ones with passes of their own: the loss is the same,
    and every pass takes part in the backward pass.
    """
    losses = {"natural": 0, "adversarial": 0}
    sides = {
        "natural": (patterns.natural(x, x_adv), x, x_adv),
        "adversarial": (patterns.adversarial(x, x_adv), x_adv, x),
    }
    for kind, (pattern, own, other) in sides.items():
        for _ in range(REPEATS):
            outputs = {image: target(image) for image in (own, other)}
            a, b = (estimators[kind](pattern, outputs[image]) for image in (own, other))
            masks = patterns.select(outputs[x], outputs[x_adv], y)
            losses[kind] = losses[kind] + objectives[kind](a, b, masks) / REPEATS
    return sum(losses.values())
