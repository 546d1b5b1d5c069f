"""Warnings: what makes an evaluation worthless, seen on the network, an attack, or several rows."""

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
    """Warn of outputs and gradients of the network that mislead attacks, seen on a few images.

    Outputs: non-finite, probabilities, different in two passes, made with gradients inside.
    Gradients: zero, or exploding.
    """
    network, device = evaluation.attacked, evaluation.compute.device
    images, labels = evaluation.images[:sample], evaluation.labels[:sample]
    x, y = next(in_order(images, labels, sample, device, channels_last=True))
    with frozen(network):
        with torch.no_grad(), _gradients_taken() as taken:
            once, twice = network(x), network(x)
        found = _of_outputs(once, once if evaluation.random else twice, bool(taken))
        leaf, gradient = x.clone().requires_grad_(True), torch.zeros_like(x)
        loss = F.cross_entropy(network(leaf), y, reduction="sum")
        if loss.requires_grad:  # false for a network that detaches its outputs
            (gradient,) = torch.autograd.grad(loss, leaf)
    return found + _of_gradients(l2_norm(gradient), bool(once.isfinite().all()))


def _of_outputs(once: torch.Tensor, twice: torch.Tensor, takes_gradients: bool) -> list[str]:
    """Warn of the outputs (N, classes) of two passes over the same images."""
    found, lost = [], (~once.isfinite()).any(1).sum().item()
    if lost:
        found.append(
            f"the outputs are not finite for {lost} of the first {len(once)} images: "
            "such an image counts as wrong"
        )
    if (once >= 0).all() and torch.allclose(once.sum(1), torch.ones_like(once[:, 0]), atol=1e-3):
        found.append(
            "the outputs are probabilities, not logits: cross-entropy attacks see flattened "
            "gradients; return the logits"
        )
    if not torch.allclose(once, twice, rtol=1e-3, atol=1e-4, equal_nan=True):
        found.append(
            "two passes over the same images differ: a randomised network needs attacks that "
            "average over its draws"
        )
    if takes_gradients:
        found.append(
            "the network takes gradients while it predicts: a defense that adapts to each image "
            "needs attacks that adapt to it"
        )
    return found


def _of_gradients(norms: torch.Tensor, finite_outputs: bool) -> list[str]:
    """Warn of gradients of the loss that are zero or explode, from their norms (N,)."""
    found, vanished = [], (norms == 0).sum().item()
    if vanished:
        found.append(
            f"the gradient of the loss is exactly zero for {vanished} of the first {len(norms)} "
            "images: gradient attacks are blind there; trust square, or attack with another loss"
        )
    if finite_outputs and (not torch.isfinite(norms).all() or norms.max() > 1e6):
        found.append(
            f"the gradient of the loss explodes (largest norm {norms.max().item():.1e}): "
            "gradient attacks are unreliable"
        )
    return found


@contextlib.contextmanager
def _gradients_taken() -> Iterator[list]:
    """Yield a list that grows by one with each gradient taken inside."""
    taken, grad, backward = [], torch.autograd.grad, torch.autograd.backward

    def noting(function):
        """Wrap a function so that each call is noted."""

        def noted(*arguments, **options):
            """Note the call and pass it on."""
            taken.append(1)
            return function(*arguments, **options)

        return noted

    torch.autograd.grad, torch.autograd.backward = noting(grad), noting(backward)
    try:
        yield taken
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward


def of_attack(evaluation: Evaluation, name: str, settings: dict) -> list[str]:
    """Warn of an attack that was run with `settings`, from its row and on a few robust images.

    Images that a surrogate left unchanged, images beyond [0,1], a loss that still rises when the
    steps end.
    """
    spec, row, found = registry.parse(name), evaluation.results.rows[name], []
    unchanged = row["attacked"] - row["perturbed"]
    if evaluation.black_box and spec.kind != "none" and unchanged > 0 and "settings" in row:
        found.append(
            f"{name}: {unchanged} of {row['attacked']} attacked images came back unchanged, "
            "because the surrogate misclassifies them already or was not fooled; "
            "they count as robust"
        )
    if row["outside"]:
        found.append(
            f"{name}: returned {row['outside']} images with pixels outside [0,1], or not "
            "finite; they were clipped before they were judged: the attack is broken"
        )
    if spec.climbs and "r" in row["outcomes"]:
        found += _of_convergence(evaluation, spec, settings)
    return found


def _of_convergence(
    evaluation: Evaluation, spec: Spec, settings: dict, sample: int = 16
) -> list[str]:
    """Warn of a loss that half as many steps more raise by a tenth, on the first robust images."""
    row, device = evaluation.results.rows[spec.name], evaluation.compute.device
    robust = [i for i, outcome in enumerate(row["outcomes"]) if outcome == "r"]
    chosen = torch.tensor(robust[:sample], dtype=torch.long)
    x = evaluation.images[chosen].to(device).float() / 255
    y = evaluation.labels[chosen].to(device)
    norm, epsilon = evaluation.threat.norm, evaluation.threat.epsilon
    options = dict(settings, index=chosen) if spec.takes_index else settings

    def loss(steps):
        """Return the loss after an attack of so many steps."""
        x_adv = x
        if steps:
            known = (spec.family, evaluation.attacked, x, y, norm, epsilon, evaluation.seed)
            x_adv = registry.attack(*known, **options, steps=steps)
        with frozen(evaluation.attacked), torch.no_grad():
            return F.cross_entropy(evaluation.attacked(x_adv), y).item()

    assert spec.steps is not None  # an attack that climbs takes steps
    more = max(1, spec.steps // 2)
    natural, before, after = loss(0), loss(spec.steps), loss(spec.steps + more)
    if after - before <= 0.1 * max(before - natural, 1e-12):
        return []
    return [
        f"{spec.name}: {more} more steps raise the loss from {before:.3f} to {after:.3f} "
        f"({natural:.3f} without an attack): it has not converged; use more steps"
    ]


def of_given(evaluation: Evaluation, name: str, about: dict) -> list[str]:
    """Warn of images read from a file, whose budget or making cannot be trusted.

    about: what the file says of how they were made.
    """
    row, kind = evaluation.results.rows[name], registry.kind_of(name)
    found, beyond = [], row["outcomes"].count("o")
    if not about.get("all_steps"):
        found.append(
            f"{name}: the file does not say that the attack ran all its steps; images that stopped "
            "at the first that fooled another network are weak on this one"
        )
    if kind in UNSEEN:
        found.append(
            f"{name}: its budget is none of pixels and cannot be read off images; "
            "that they keep it is taken on trust"
        )
    elif beyond and kind != "minimum-norm":
        found.append(
            f"{name}: {beyond} images that the network gets wrong lie outside the budget, "
            f"{evaluation.threat}, and count as robust"
        )
    return found


def of_order(rows: dict[str, dict]) -> dict[str, list[str]]:
    """Warn where a weak attack fools more images than a strong one, by more than 1 % and one image.

    Weak: one-step and black-box attacks, also square as AutoAttack's last part. Strong: gradient
    attacks of 10 steps or more. rows: {attack: row}. Returns {the weak attack: its warnings}.
    """
    specs = {name: registry.parse(name) for name in rows}
    strong = {name: row for name, row in rows.items() if _is_strong(specs[name])}
    best = min(strong, key=lambda other: strong[other]["accuracy"], default=None)
    found = {}
    for name, row in rows.items():
        texts, spec = [], specs[name]
        by_square, slack = row.get("parts", {}).get("square", 0), max(1, 0.01 * row["n"])
        if by_square > slack:
            texts.append(
                f"{name}: {by_square} of {row['n']} images fall to square, a black-box attack, "
                "after all gradient attacks have left them: gradients are masked or the attack is "
                "broken"
            )
        weak = spec.one_step or spec.black_box
        if best is not None and weak and strong[best]["correct"] - row["correct"] > slack:
            kind = "one-step" if spec.one_step else "black-box"
            texts.append(
                f"{name}, a {kind} attack, leaves {row['accuracy']:.1f} % where {best} leaves "
                f"{strong[best]['accuracy']:.1f} %: gradients are masked or the attack is broken"
            )
        if texts:
            found[name] = texts
    return found


def _is_strong(spec: Spec) -> bool:
    """Decide whether an attack is one that no one-step or black-box attack should beat."""
    weak = spec.one_step or spec.black_box or bool(spec.parts)
    return spec.kind == "bounded" and not weak and (spec.steps or 10) >= 10
