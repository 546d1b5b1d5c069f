"""Declare the options of worst-case mutual information: the critic's form, the attack on it.

Nothing here imports torch.
"""

from dataclasses import dataclass

from utils.settings.choices import Form, LocalConvs, Pairs
from utils.settings.options import Attack
from utils.settings.values import Fraction, need, need_memory

STEP = 0.01 / (8 / 255)  # length of a step, as a share of the budget (paper, CIFAR-10)


@dataclass
class CriticForm:
    """The critic: its networks, and the bound that it maximises (Zhu et al. 2020, Table 2)."""

    form: Form = "average"
    """Where J averages over locations: average (paper), location (released code), pooled
    (docs/worst_case_MI.md).
    """
    pairs: Pairs = "all"
    """The pairs of J's second term: all (paper; J cannot exceed log B), others (no limit), or
    released (the released code's, which masks a score by 0).
    """
    n_units: int = 2048
    """Channels of the critic's outputs (paper: 2048)."""
    local_convs: LocalConvs = 2
    """Convolutions of the critic's local network: 2 (released code) or 3 (paper, Table 2)."""
    scale_scores: bool = False
    """Divide scores by the square root of --n-units (not in the paper)."""

    def check(self) -> None:
        need(self.n_units > 0, "n_units", self.n_units, "give 1 or more")
        need_memory("n_units", self.n_units, self.n_units**2)


@dataclass
class WorstCaseAttack(Attack):
    """The threat model and the attacks of training (Zhu et al. 2020)."""

    num_steps: int = 7
    """Steps of an attack (paper: 7 on CIFAR-10, else 10)."""
    step_size: Fraction = None
    """Length of a step in pixel units; when not given 0.31875 epsilon (paper: 0.01 at 8/255)."""

    def fill_in(self) -> None:
        given = self.step_size
        super().fill_in()
        if given is None and self.epsilon is not None:
            self.step_size = STEP * self.epsilon
