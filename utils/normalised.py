"""Normalise the images of networks made elsewhere, and suspect those that were trained so."""

import torch
from torch import nn

from models.normalisation import NORMALISATIONS, Normalisation, agreed, checked
from models.targets import Target
from utils.attacks.projected_gradient import frozen

SAMPLE = 64  # images on which a normalisation is suspected
GAIN = 0.2  # of the images: what normalised ones must gain, beside chance, for a warning


class _Normalise:
    """Normalise the images (N,3,H,W) that a module is called with, as a hook of its forward."""

    def __init__(self, normalisation: Normalisation):
        self.mean, self.std = (torch.tensor(side).view(3, 1, 1) for side in normalisation)

    def __call__(self, module: nn.Module, inputs: tuple) -> tuple:
        x, *others = inputs
        return ((x - self.mean.to(x)) / self.std.to(x), *others)


def normalised(model: nn.Module, asked: Normalisation | None, what: str) -> nn.Module:
    """Make a factory's network normalise the images in [0,1] that it takes.

    asked: None for a network that takes them as they are. A network of ours that has a
    normalisation of its own must agree; `what` begins the error otherwise.
    """
    if isinstance(model, Target):
        own = model.options.get("mean"), model.options.get("std")
        model.normalise(*agreed(asked, checked(*own) if own[0] else None, f"{what}: the network"))
    elif asked and asked != NORMALISATIONS["none"]:
        hooks = model._forward_pre_hooks.values()
        if not any(isinstance(hook, _Normalise) for hook in hooks):  # a module that came before
            model.register_forward_pre_hook(_Normalise(asked))
    return model


def doubtful(model: nn.Module, asked: Normalisation | None) -> bool:
    """Return whether nothing says which images a network was trained on.

    asked: the normalisation that an option gave.
    """
    own = getattr(model, "about", {}) or "mean" in getattr(model, "options", {})
    return not own and asked is None


@torch.no_grad()
def suspected(model: nn.Module, x: torch.Tensor, y: torch.Tensor, option: str) -> list[str]:
    """Warn where a network gets far more images right when they are normalised.

    Args:
        model: a network that nothing says the normalisation of.
        x, y: natural images (N,3,H,W) in [0,1], SAMPLE of them, and their labels (N,).
        option: what would tell the normalisation, "--normalize".
    """
    right = {}
    with frozen(model):
        for name, sides in NORMALISATIONS.items():
            mean, std = (torch.tensor(side).view(3, 1, 1).to(x) for side in sides)
            right[name] = model((x - mean) / std).argmax(1) == y
    counts = {name: found.sum().item() for name, found in right.items()}
    most = max(counts.values())
    # Several are alike: the first that is level with the best, up to one image in 20.
    best = next(name for name, count in counts.items() if count >= most - len(y) / 20)
    gained = (right[best] & ~right["none"]).sum().item()
    lost = (right["none"] & ~right[best]).sum().item()
    # Under chance, gained - lost has a standard deviation of sqrt(gained + lost).
    if gained - lost <= max(GAIN * len(y), 3 * (gained + lost) ** 0.5):
        return []
    others = ", ".join(f"{name} {count}" for name, count in counts.items() if name != "none")
    return [
        f"the network gets {counts['none']} of the first {len(y)} images right as they are, and "
        f"{counts[best]} when they are normalised ({others}): if it was trained on normalised "
        f"images, give {option} {best} (docs/evaluation.md)"
    ]
