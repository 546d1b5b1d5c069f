"""Make the rows of an evaluation, and collect the warnings about each."""

import numpy

from utils.attacks import registry
from utils.evaluation import checks, masking
from utils.evaluation.counting import Evaluation

# {name: row}, and {name: warnings about the row}
Rows = tuple[dict[str, dict], dict[str, list[str]]]


def of_attacks(evaluation: Evaluation, attacks: dict[str, dict]) -> Rows:
    """Run each attack of {name: its settings}, and look for what makes its row worthless."""
    rows = {
        name: evaluation.run(registry.parse(name), **options) for name, options in attacks.items()
    }
    epsilon = evaluation.threat.epsilon
    warned = {
        name: checks.of_attack(evaluation, name, attacks[name])
        + masking.of_row(evaluation, name, row, epsilon)
        for name, row in rows.items()
    }
    return rows, warned


def of_images(evaluation: Evaluation, images: dict[str, numpy.ndarray], about: dict) -> Rows:
    """Judge adversarial images made before, and look for what makes a row worthless.

    images: {attack: images (N,3,H,W)}. about: what their file says of how they were made.
    """
    rows = {name: evaluation.given(name, x_adv) for name, x_adv in images.items()}
    return rows, {name: checks.of_given(evaluation, name, about) for name in rows}
