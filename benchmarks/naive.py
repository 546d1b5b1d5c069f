"""The losses of stages 2 and 3, arranged as in the code released with the paper: the baseline.

Value and gradient are those of `train_MIAT.step` and `estimators.step`; only the cost differs.
Every use of an output of the target is a forward pass of its own, and every MI value encodes its
pattern again: 7 target passes and 4 local passes for NAMID where 2 and 2 suffice, 16 and 16 in
stage 2 where 2 and 2 suffice. Networks that are frozen in a stage still get weight gradients, which
nothing clears (docs/differences.md, point 19). The released code's tensors are contiguous, so these
steps are timed on contiguous networks. The estimators look at the logits.
"""

import torch

from utils.attacks.projected_gradient import pgd
from utils.mi import patterns
from utils.mi.losses import namid
from utils.training.losses import ce

REPEATS = 4  # passes per MI value in stage 2: two estimators x two kinds of sample x REPEATS = 16


def namid_step(  # noqa: PLR0913
    x,
    y,
    epoch,
    index,
    generator,
    *,
    target,
    natural_mi,
    adversarial_mi,
    settings,
    compute,
    steps_per_epoch,
):
    """Compute the loss of `train_MIAT.step` with --adv-loss ce after the warm-up.

    It takes 7 target passes: two that only select, one for L_adv, one for each MI value.
    """
    attack = settings.attack
    with compute.autocast():
        budget = attack.norm, attack.epsilon, attack.num_steps, attack.step_size
        x_adv = pgd(target, x, y, *budget, generator=generator)
        with torch.no_grad():
            selected = patterns.select(target(x), target(x_adv), y)["W"]
        adv_loss = ce(None, target(x_adv), y)
        # E_n(x; h(x)), E_n(x; h(x~)), E_a(n; h(x)), E_a(n; h(x~))
        natural = natural_mi(patterns.natural(x, x_adv), target(x))
        natural_adv = natural_mi(patterns.natural(x, x_adv), target(x_adv))
        adversarial = adversarial_mi(patterns.adversarial(x, x_adv), target(x))
        adversarial_adv = adversarial_mi(patterns.adversarial(x, x_adv), target(x_adv))
    mi_loss = namid(natural, natural_adv, adversarial, adversarial_adv, selected, settings.lam)
    return adv_loss + settings.alpha * mi_loss, {"adv_loss": adv_loss, "mi_loss": mi_loss}


def stage2_step(  # noqa: PLR0913
    x,
    y,
    epoch,
    index,
    generator,
    *,
    target,
    natural_mi,
    adversarial_mi,
    objectives,
    settings,
    compute,
):
    """Compute the loss of `estimators.step` in 16 target passes.

    Each objective is the mean of REPEATS equal ones with passes of their own: the loss is the same,
    and every pass takes part in the backward pass.
    """
    attack = settings.attack
    losses = {"natural": 0, "adversarial": 0}
    with compute.autocast():
        budget = attack.norm, attack.epsilon, attack.num_steps, attack.step_size
        x_adv = pgd(target, x, y, *budget, generator=generator)
    sides = {
        "natural": (natural_mi, patterns.natural(x, x_adv), x, x_adv),
        "adversarial": (adversarial_mi, patterns.adversarial(x, x_adv), x_adv, x),
    }
    for kind, (estimator, pattern, own, other) in sides.items():
        for _ in range(REPEATS):
            with compute.autocast():
                outputs = {image: target(image) for image in (own, other)}
                a, b = estimator(pattern, outputs[own]), estimator(pattern, outputs[other])
            masks = patterns.select(outputs[x], outputs[x_adv], y)
            losses[kind] = losses[kind] + objectives[kind](a, b, masks) / REPEATS
    return sum(losses.values()), {f"{kind}_loss": loss for kind, loss in losses.items()}
