"""The options of `analyze_MI.py mixture`."""

from dataclasses import dataclass
from pathlib import Path

from utils.settings.options import group, need
from utils.settings.values import need_memory


@dataclass
class MixtureTraining:
    """How the critics are trained."""

    critics: int = 3
    """Pairs of critics, with the seeds from --seed up; the deviations are over the pairs. 0: only
    closed forms.
    """
    steps: int = 3000
    """Training steps of a critic."""
    batch_size: int = 512
    """Samples in a batch, drawn afresh for each step."""
    seed: int = 1
    """Seed of the draws and of the first pair of critics."""

    def check(self) -> None:
        need(self.critics >= 0, "critics", self.critics, "give 0 or more")
        need(self.steps > 0, "steps", self.steps, "give 1 or more")
        need(self.batch_size > 1, "batch_size", self.batch_size, "give 2 or more samples")
        need_memory("batch_size", self.batch_size, self.batch_size**2)
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")


@dataclass
class Mixture:
    """Worst-case mutual information of a linear classifier on a Gaussian mixture: closed forms
    beside the estimates of trained critics."""

    margin: float = 1.0
    """a = w.theta, the distance of a class's mean from the decision boundary."""
    spread: float = 1.0
    """s, the standard deviation of w.x within a class."""
    shift: float = 0.5
    """b, how far the adversary moves w.x."""
    training: MixtureTraining = group(MixtureTraining)
    output: Path = Path("runs/mixture")
    """The folder for mixture.json."""

    def check(self) -> None:
        need(self.spread > 0, "spread", self.spread, "give a standard deviation above 0")
        need(self.shift >= 0, "shift", self.shift, "give 0 or more")
