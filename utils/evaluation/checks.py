"""What makes an evaluation doubtful: of the network, of an attack, of the rows beside each other."""
import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from data.batches import in_order
from utils.attacks import registry
from utils.attacks.projected_gradient import frozen, l2_norm
from utils.attacks.registry import Spec
from utils.evaluation.counting import UNSEEN, Evaluation


def of_network(evaluation: Evaluation, sample: int = 64) -> list[str]:
    """Seen on the first images: outputs that are no numbers or probabilities, two passes that differ, gradients taken inside
    the network, gradients that vanish or explode."""
    found, network = [], evaluation.source
    x, y = next(in_order(evaluation.images[:sample], evaluation.labels[:sample], sample, evaluation.compute.device,
                         channels_last=True))
    with frozen(network):
        with torch.no_grad(), _gradients_taken() as taken:
            once, twice = network(x), network(x)
        lost = (~once.isfinite()).any(1).sum().item()
        if lost:
            found.append(f"the outputs are not finite for {lost} of the first {len(x)} images: such an image counts as wrong")
        if (once >= 0).all() and torch.allclose(once.sum(1), torch.ones_like(once[:, 0]), atol=1e-3):
            found.append("the outputs are probabilities, not logits: cross-entropy attacks see flattened gradients; "
                         "return the logits")
        if not torch.allclose(once, twice, rtol=1e-3, atol=1e-4, equal_nan=True):
            found.append("two passes over the same images differ: a randomised network needs attacks that average over its draws")
        if taken:
            found.append("the network takes gradients while it predicts: a defense that adapts to each image needs attacks that "
                         "adapt to it")
        leaf = x.clone().requires_grad_(True)
        loss, gradient = F.cross_entropy(network(leaf), y, reduction="sum"), torch.zeros_like(x)
        if loss.requires_grad:  # false for a network that detaches its outputs
            gradient, = torch.autograd.grad(loss, leaf)
    size = l2_norm(gradient)
    vanished = (size == 0).sum().item()
    if vanished:
        found.append(f"the gradient of the loss is exactly zero for {vanished} of the first {len(x)} images: "
                     "gradient attacks are blind there; trust square, or attack with another loss")
    if not lost and (not torch.isfinite(size).all() or size.max() > 1e6):
        found.append(f"the gradient of the loss explodes (largest norm {size.max().item():.1e}): gradient attacks are unreliable")
    return found


@contextlib.contextmanager
def _gradients_taken() -> Iterator[list]:
    """Grows by one with each gradient taken inside."""
    taken, grad, backward = [], torch.autograd.grad, torch.autograd.backward

    def noting(function):
        def noted(*arguments, **options):
            taken.append(1)
            return function(*arguments, **options)
        return noted
    torch.autograd.grad, torch.autograd.backward = noting(grad), noting(backward)
    try:
        yield taken
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward


def of_attack(evaluation: Evaluation, spec: Spec, settings: dict, sample: int = 16) -> list[str]:
    """Warn of an attack that was run with `settings`: images beyond [0,1]; images crafted on a surrogate that came back
    unchanged; a loss that still rises when its steps end, seen on a few images that are robust."""
    found, row = [], evaluation.results["attacks"][spec.name]
    unchanged = row["attacked"] - row["perturbed"]
    if evaluation.source is not evaluation.model and spec.kind != "none" and unchanged > 0 and "settings" in row:
        found.append(f"{spec.name}: {unchanged} of {row['attacked']} attacked images came back unchanged, because the surrogate "
                     "misclassifies them already or was not fooled; they count as robust")
    if row["outside"]:
        found.append(f"{spec.name}: returned {row['outside']} images with pixels outside [0,1], or that are no numbers; they "
                     "were cut to it before they were judged: the attack is broken")
    chosen = torch.tensor([i for i, mark in enumerate(row["standing"]) if mark == "r"][:sample], dtype=torch.long)
    if not spec.climbs or not len(chosen):
        return found
    x = evaluation.images[chosen].to(evaluation.compute.device).float() / 255
    y = evaluation.labels[chosen].to(evaluation.compute.device)
    extra = dict(settings, index=chosen) if spec.takes_index else settings

    def loss(steps):
        x_adv = x
        if steps:
            x_adv = registry.attack(spec.family, evaluation.source, x, y, evaluation.norm, evaluation.epsilon,
                                        evaluation.seed, **extra, steps=steps)
        with frozen(evaluation.source), torch.no_grad():
            return F.cross_entropy(evaluation.source(x_adv), y).item()

    more = max(1, spec.steps // 2)
    natural, before, after = loss(0), loss(spec.steps), loss(spec.steps + more)
    if after - before > 0.1 * max(before - natural, 1e-12):
        found.append(f"{spec.name}: {more} more steps raise the loss from {before:.3f} to {after:.3f} ({natural:.3f} without an "
                     "attack): it has not converged; use more steps")
    return found


def of_given(evaluation: Evaluation, name: str, about: dict) -> list[str]:
    """Warn of images that a file holds: budgets that they do not keep, or that cannot be seen in them; a file that does not
    say how they were made. about: what the file says of that."""
    row, kind = evaluation.results["attacks"][name], registry.kind_of(name)
    found = []
    if not about.get("all_steps"):
        found.append(f"{name}: the file does not say that the attack ran all its steps; images that stopped at the first that "
                     "fooled another network are weak on this one")
    if kind in UNSEEN:
        return [*found, f"{name}: its budget is none of pixels and cannot be read off images; that they keep it is taken on "
                "trust"]
    beyond = row["standing"].count("o")
    if beyond and kind != "minimum-norm":
        return [*found, f"{name}: {beyond} images that the network gets wrong lie outside the budget, {evaluation.norm} "
                f"{evaluation.epsilon:.4g}, and count as standing"]
    return found


def of_order(rows: dict[str, dict]) -> dict[str, list[str]]:
    """Warn where a weaker attack does better than a stronger one by more than 1 % of the images, and more than one: a one-step
    or black-box attack, also square as AutoAttack's last part, against gradient attacks of 10 steps or more. rows: {attack:
    row}. Returns {the weaker attack: warnings}."""
    strong = {name: row for name, row in rows.items() if (spec := registry.parse(name)).kind == "bounded"
              and not spec.one_step and not spec.black_box and not spec.parts and (spec.steps or 10) >= 10}
    found = {}
    for name, row in rows.items():
        spec = registry.parse(name)
        by_square = row.get("parts", {}).get("square", 0)
        if by_square > max(1, 0.01 * row["n"]):
            found.setdefault(name, []).append(
                f"{name}: {by_square} of {row['n']} images fall to square, a black-box attack, after all gradient attacks have "
                "left them: gradients are masked or the attack is broken")
        if not (spec.one_step or spec.black_box) or not strong:
            continue
        best = min(strong, key=lambda other: strong[other]["accuracy"])
        if strong[best]["correct"] - row["correct"] > max(1, 0.01 * row["n"]):
            found.setdefault(name, []).append(
                f"{name}, a {'one-step' if spec.one_step else 'black-box'} attack, leaves {row['accuracy']:.1f} % where {best} "
                f"leaves {strong[best]['accuracy']:.1f} %: gradients are masked or the attack is broken")
    return found
