"""Evaluate a network with a Gaussian bottleneck as one of three classifiers.

`mean` and `bank` are functions of the image, and attacked like any network. `fresh` draws new noise
at each query: its attacks average the probabilities of `attack_samples` draws at each step, and the
images that they make are judged on other draws.
"""

from dataclasses import dataclass

import torch

from common.errors import InputError
from models.bottleneck import Bottleneck, Predicted
from models.predictors import SAMPLES, Bank, Fresh, Mean

FRESH_DRAWS = 20  # single draws on which each image is judged besides
ATTACK_SAMPLES = 20  # draws of an attack's step, as in AutoAttack's version for random networks


@dataclass
class Predictors:
    """Hold a network as the classifier that is judged, the one that is attacked, and single draws.

    name: "bank", "mean" or "fresh".
    """

    name: str
    judged: Predicted
    attacked: Predicted
    single: Predicted

    @property
    def random(self) -> bool:
        """Return whether the judged classifier draws at each query."""
        return not self.judged.predictor.deterministic

    @property
    def facts(self) -> dict:
        """Return what a results file says of them: draws of the judged and the attacked one."""
        draws = {
            "samples": getattr(self.judged.predictor, "samples", None),
            "attack_samples": getattr(self.attacked.predictor, "samples", None),
        }
        return {"predictor": self.name} | draws

    def restart(self, seed: int) -> None:
        """Draw from `seed` on, so that a batch has the same draws whenever it is evaluated."""
        for number, each in enumerate((self.judged, self.attacked, self.single)):
            each.predictor.restart(seed + number)

    @torch.no_grad()
    def right(self, x: torch.Tensor, y: torch.Tensor) -> int:
        """Count the right judgements of images x (N,3,H,W) over FRESH_DRAWS single draws."""
        return sum(int((self.single(x).argmax(1) == y).sum()) for _ in range(FRESH_DRAWS))


def predictors(
    net: torch.nn.Module,
    name: str | None,
    samples: int = SAMPLES,
    attack_samples: int = ATTACK_SAMPLES,
) -> Predictors | None:
    """Return the classifiers of a network; None for one without a bottleneck.

    name: "bank", "mean" or "fresh"; None: "bank". Raises InputError where a name is given for a
    network without a bottleneck.
    """
    if not isinstance(net, Bottleneck):
        if name is not None:
            raise InputError(
                f"--predictor {name}: this network has no bottleneck; leave --predictor out"
            )
        return None
    name = name or "bank"
    if name == "fresh":
        judged = Predicted(net, Fresh(samples))
        attacked = Predicted(net, Fresh(attack_samples))
    else:
        judged = attacked = Predicted(net, Mean() if name == "mean" else Bank(samples))
    return Predictors(name, judged, attacked, Predicted(net, Fresh(1)))
