"""What a training script does with one batch before the backward pass, for tests that look at it."""

import torch

import train_MIAT
import train_standard
from utils.attacks.projected_gradient import pgd
from utils.devices import Compute
from utils.training import estimators
from utils.training.registry import LOSSES

COMPUTE = Compute(torch.device("cpu"), "fp32")


def stage_1(x, y, target, settings, generator=None, compute=COMPUTE) -> torch.Tensor:
    """Compute the loss of train_standard.py."""
    if settings.defense == "natural":
        return train_standard.natural_loss(x, y, target, compute.autocast)
    name = "ce" if settings.defense == "standard" else settings.defense
    defense, budget = LOSSES[name], settings.attack.budget
    with compute.autocast():
        x_adv = pgd(target, x, y, *budget, defense.attack, generator=generator)
    return train_standard.adversarial_loss(
        x, x_adv, y, target, defense, settings.beta, compute.autocast
    )


def stage_2(x, y, target, nets, objectives, attack, selection="eq6", compare=True, generator=None):
    """Compute the losses of both scripts of stage 2, {"natural", "adversarial": scalar}."""
    x_adv = pgd(target, x, y, *attack.budget, generator=generator)
    values = estimators.batch_values(x, x_adv, y, target, nets, selection, compare)
    return {
        "natural": objectives["natural"](*values.natural, values.masks),
        "adversarial": objectives["adversarial"](*values.adversarial, values.masks),
    }


def method(settings, compute=COMPUTE) -> train_MIAT.Method:
    """Return what Equation 9 uses of the settings of stage 3."""
    return train_MIAT.Method(
        defense=LOSSES[settings.adv_loss],
        beta=settings.beta,
        lam=settings.lam,
        selection=settings.selection,
        without=settings.without,
        autocast=compute.autocast,
    )


def stage_3(x, y, target, nets, settings, generator=None, compute=COMPUTE, x_adv=None):
    """Compute what train_MIAT.py minimises, an `Objective`; x_adv: instead of PGD's images."""
    if x_adv is None:
        attack = LOSSES[settings.adv_loss].attack
        x_adv = pgd(target, x, y, *settings.attack.budget, attack, generator=generator)
    objective = train_MIAT.OBJECTIVES[settings.mi_loss]
    return objective(x, x_adv, y, target, nets, method(settings, compute), settings.alpha)
