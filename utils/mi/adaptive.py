"""The adaptive attack on a defense trained with MI estimators: PGD that knows the estimators.

For adversarial images NAMID raises the natural MI and lowers the adversarial MI (Eq. 8, the term of
lambda); WMIM raises the standard MI. An attacker who knows that goes the other way, and maximises
over the batch

    J(x~) = sum_i [ CE(h(x~_i), y_i) + weight M_i ],
    M_i = E_a(n_i; h(x~_i)) - E_n(x_i; h(x~_i))      NAMID, n = x~ - x
    M_i = -E_s(x~_i; h(x~_i))                        WMIM

with the start, steps and projection of PGD. Of an ablation, M_i has the estimator that it trained
with. Three choices are ours:

- The set W of Eq. 6 is left out: it is empty as long as no image is fooled.
- So are the two cosine terms of Eq. 8. They compare vectors over a batch, and change alike
  whichever way a value differs from that of the natural image.
- The gradient runs through the outputs and through the patterns n and x~, which training holds
  fixed.

The negatives of an image's MI are the other images of its batch. An image that leaves once it is
fooled stays among them with its last perturbation. A batch of one image has no negatives; there M
is 0.
"""

import contextlib
import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from common.errors import InputError
from utils.attacks.projected_gradient import (
    ascend,
    at_least_float32,
    first_iterate,
    frozen,
    take_step,
)
from utils.mi import patterns
from utils.mi.estimator import MIEstimator

# {kind of MI: (the sign of its term in M, (x, x_adv) -> its pattern)}
TERMS = {
    "natural": (-1, patterns.natural),
    "adversarial": (1, patterns.adversarial),
    "standard": (-1, lambda x, x_adv: x_adv),
}


class Known(NamedTuple):
    """Hold what the attacker knows besides the target.

    estimators: {"natural": E_n, "adversarial": E_a}, one of them, or {"standard": E_s}. hashes:
    {option: hash of its file}, which the settings of a row keep.
    """

    estimators: dict[str, MIEstimator]
    hashes: dict[str, str | None]


def mi(
    model,
    x,
    y,
    norm,
    epsilon,
    steps=40,
    step_size=None,
    seed=0,
    until_fooled=False,
    estimators: Known | None = None,
    weight=0.5,
) -> torch.Tensor:
    """Attack by PGD on the cross-entropy plus `weight` times M.

    Args:
        model, x, y, norm, epsilon, steps, step_size, until_fooled: as in `utils.attacks.pgd`.
        seed: of the start.
        estimators: what the attacker knows; modes and flags are as before afterwards.
        weight: per nat. The default, 5 x 0.1, is alpha lambda of the paper: the weight of lambda's
            term in the loss of its defense. 0: the images of `utils.attacks.pgd`; inf: M alone.

    Raises InputError without estimators.
    """
    if estimators is None:
        raise InputError(
            "--attacks: mi and mi-values need the estimators that the defense was trained with; "
            "give --estimator-dir"
        )
    step_size = epsilon / 4 if step_size is None else step_size
    generator = torch.Generator(x.device).manual_seed(seed)
    with torch.inference_mode(False), contextlib.ExitStack() as stack:
        for net in (model, *estimators.estimators.values()):
            stack.enter_context(frozen(net))
        natural = at_least_float32(x.detach().clone())
        objective = _Objective(model, estimators.estimators, x, y, weight)
        images = ascend(
            objective.differentiate,
            partial(take_step, norm, epsilon, step_size),
            first_iterate(natural, norm, epsilon, generator=generator),
            natural,
            y,
            steps,
            until_fooled,
        )
        return images.to(x.dtype)


def mi_values(
    model,
    x,
    y,
    norm,
    epsilon,
    steps=40,
    step_size=None,
    seed=0,
    until_fooled=False,
    estimators: Known | None = None,
) -> torch.Tensor:
    """Attack by PGD on M alone, without the cross-entropy; see `mi`."""
    options = (steps, step_size, seed, until_fooled, estimators)
    return mi(model, x, y, norm, epsilon, *options, weight=math.inf)


class _Objective:
    """Compute the gradient of J for the images that are still attacked.

    The encodings of all images of the batch are kept, since those that left are still negatives.
    """

    def __init__(self, model, estimators: dict[str, MIEstimator], x, y, weight: float):
        """Encode the natural patterns, which do not change."""
        self.model, self.x, self.y = model, x, y
        self.estimators = estimators if weight and len(x) > 1 else {}
        self.ce_weight, self.weight = (0.0, 1.0) if math.isinf(weight) else (1.0, weight)
        self.local: dict[str, torch.Tensor] = {}
        self.output: dict[str, torch.Tensor] = {}
        if "natural" in self.estimators:
            with torch.no_grad():
                self.local["natural"] = estimators["natural"].encode_pattern(at_least_float32(x))

    def differentiate(self, x_adv, index) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradient of J in images `x_adv`, those at `index` of the batch, and their
        logits."""
        with torch.enable_grad():
            x_adv = x_adv.requires_grad_(True)
            seen = x_adv.view_as(x_adv).to(self.x.dtype)  # a view, as in `pgd`
            logits, output = self._outputs(seen)
            ce = F.cross_entropy(at_least_float32(logits), self.y[index], reduction="sum")
            value = self.ce_weight * ce
            for kind, estimator in self.estimators.items():
                term = self._term(kind, estimator, seen, at_least_float32(output), index)
                value = value + self.weight * term
            (gradient,) = torch.autograd.grad(value, x_adv)
        return gradient, logits.detach()

    def _outputs(self, x_adv) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the target once: its logits, and the output that the estimators take."""
        for estimator in self.estimators.values():
            if estimator.representation != "logits":
                return self.model(x_adv, tap=estimator.representation)
        logits = self.model(x_adv)
        return logits, logits

    def _term(self, kind: str, estimator: MIEstimator, x_adv, output, index) -> torch.Tensor:
        """Compute the sum of one kind of MI over the images at `index`, with its sign in M."""
        sign, pattern = TERMS[kind]
        if kind == "natural":
            local = self.local[kind]
        else:
            encoded = estimator.encode_pattern(at_least_float32(pattern(self.x[index], x_adv)))
            local = self._among_all(self.local, kind, encoded, index)
        output = self._among_all(self.output, kind, estimator.encode_output(output), index)
        return sign * estimator.mi(local, output)[index].sum()

    @staticmethod
    def _among_all(kept: dict[str, torch.Tensor], kind: str, encoded, index) -> torch.Tensor:
        """Put the encodings of the images at `index` among those kept of the whole batch."""
        if isinstance(index, torch.Tensor) and kind in kept:
            encoded = kept[kind].index_copy(0, index, encoded)
        kept[kind] = encoded.detach()
        return encoded
