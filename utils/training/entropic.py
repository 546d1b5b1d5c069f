"""Compute the information-theoretic term of entropic retraining, and its controls.

The term is our reading of an abstract whose formula was not found (docs/entropic_retraining.md):

    L = CE(h(x), y) - lam * sum_l s_l Q_l                   sign
    L = CE(h(x), y) + lam * sum_l (Q_l - Q_l(h_adv))^2      match
    L = CE(h(x), y) + lam * sum_l I(X; T_l | Y)             class

with Q_l a quantity of layer l (utils/mi/layers.py) on the batch. Layers go by their names.
"""

import random

import torch

from utils.mi.layers import relative_noise, surplus_information

Values = dict[str, torch.Tensor]


def sign_term(values: Values, signs: dict[str, int]) -> torch.Tensor:
    """Compute - sum_l s_l Q_l over the layers whose sign is not 0."""
    return -_sum([sign * values[name] for name, sign in signs.items() if sign])


def match_term(values: Values, aims: dict[str, float]) -> torch.Tensor:
    """Compute sum_l (Q_l - aim_l)^2."""
    return _sum([(values[name] - aim) ** 2 for name, aim in aims.items()])


def class_term(layers: Values, y: torch.Tensor) -> torch.Tensor:
    """Compute sum_l I(X; T_l | Y), by the lower bound with the default noise, in nats.

    layers: {name: activations (N,d)}. y: labels (N,).
    """
    return _sum([surplus_information(a, y, relative_noise(a))[0] for a in layers.values()])


def logit_penalty(logits: torch.Tensor) -> torch.Tensor:
    """Compute the mean over images of the squared Euclidean norm of the logits (N,classes)."""
    return logits.square().sum(1).mean()


def reversed_signs(signs: dict[str, int]) -> dict[str, int]:
    """Return the opposite signs, the first control: they should not make a network robust."""
    return {name: -sign for name, sign in signs.items()}


def random_layers(signs: dict[str, int], names: list[str], seed: int) -> dict[str, int]:
    """Move the signs that are not 0, in their order, to layers drawn at random: another control.

    names: all hidden layers, to draw from.
    """
    kept = [sign for sign in signs.values() if sign]
    drawn = random.Random(seed).sample(range(len(names)), len(kept))
    return {names[place]: sign for place, sign in zip(drawn, kept)}


def _sum(terms: list[torch.Tensor]) -> torch.Tensor:
    """Add scalars; 0 where there are none."""
    return torch.stack(terms).sum() if terms else torch.zeros(())
