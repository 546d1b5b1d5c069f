"""AutoAttack (Croce and Hein 2020) and its parts, from pyautoattack 0.2.0, the authors' code."""

import torch
from pyautoattack import AutoAttack

from common.errors import InputError
from utils.attacks.common import contained, in_float32
from utils.attacks.registry import FAMILIES


def aa(model, x, y, norm, epsilon, seed=0, queries=5000) -> torch.Tensor:
    """Attack by the standard version: APGD on the cross-entropy, APGD on the targeted DLR loss,
    targeted FAB and Square with `queries` queries, each on what the ones before left.

    Returns the natural image where all fail, here as in each part.
    """
    return _run(list(FAMILIES["aa"].parts), model, x, y, norm, epsilon, seed, queries)


def apgd_ce(model, x, y, norm, epsilon, seed=0) -> torch.Tensor:
    """Attack by Auto-PGD on the cross-entropy, 100 steps, one random start."""
    return _run(["apgd-ce"], model, x, y, norm, epsilon, seed)


def apgd_t(model, x, y, norm, epsilon, seed=0) -> torch.Tensor:
    """Attack by Auto-PGD on the targeted difference-of-logits-ratio loss, 100 steps for each of
    the 9 likeliest other classes."""
    return _run(["apgd-t"], model, x, y, norm, epsilon, seed)


def aa_rand(model, x, y, norm, epsilon, seed=0, draws=20) -> torch.Tensor:
    """Attack a random network by the version for such: APGD on the cross-entropy and on the DLR
    loss, each gradient the mean over `draws` passes.

    It returns an image as soon as one pass errs on it; whoever judges it draws again.
    """
    return _run(["apgd-ce", "apgd-dlr"], model, x, y, norm, epsilon, seed, draws=draws)


def fab_t(model, x, y, norm, epsilon) -> torch.Tensor:
    """Attack by the targeted fast adaptive boundary attack (Croce and Hein 2020b), 100 steps for
    each of the 9 likeliest other classes.

    It minimises the norm; a perturbation larger than epsilon counts as a failure.
    """
    return _run(["fab-t"], model, x, y, norm, epsilon, 0)


def square(model, x, y, norm, epsilon, seed=0, queries=5000) -> torch.Tensor:
    """Attack by Square (Andriushchenko et al. 2020): random search that sees the logits only."""
    return _run(["square"], model, x, y, norm, epsilon, seed, queries)


def _run(parts, model, x, y, norm, epsilon, seed, queries=5000, draws=1) -> torch.Tensor:
    """Run the parts one after another, each on the samples that are still robust.

    draws: passes that APGD averages a gradient over.

    Raises InputError where the network has too few classes: the targeted DLR loss divides by a
    difference among the four largest logits.
    """
    predict = in_float32(model, x)
    with torch.no_grad():
        classes = predict(x[:1].float()).shape[1]
    if not {"apgd-t", "apgd-dlr"}.isdisjoint(parts) and classes < 4:
        name = {"apgd-t": "apgd-t", "apgd-dlr": "aa-rand"}.get(parts[-1], "aa")
        raise InputError(
            f"--attacks: {name} needs at least 4 classes and this network has {classes}; "
            "choose apgd-ce, fab-t or square"
        )
    with contained(seed, "auto-attack"):
        norm = {"linf": "Linf", "l2": "L2"}[norm]
        suite = AutoAttack(predict, norm=norm, eps=epsilon, seed=seed, device=x.device)
        suite.attacks_to_run = parts
        suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(9, classes - 1)
        suite.square.n_queries, suite.apgd.eot_iter = queries, draws
        found = suite.run_standard_evaluation(x.float().contiguous(), y, batch_size=len(x))
        return found[0].to(x.dtype)
