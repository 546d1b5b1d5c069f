"""Options that several parts of analyze_MI.py have: what is measured, and under which attack."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.settings.choices import Arch, Bound, Dataset
from utils.settings.normalisation import Normalization
from utils.settings.values import Count, Fraction, group, need


@dataclass
class NetworkFile:
    """The network that is measured."""

    model_dir: Path | None = None
    """A run's folder; its best model is measured."""
    model: Path | None = None
    """A model file, instead of a folder."""
    arch: Arch | None = None
    """The architecture of --model, for a file that does not say it."""
    which: Literal["best", "last"] = "best"
    """Which model of the folder is measured."""
    inputs: Normalization = group(Normalization)

    def check(self) -> None:
        need(
            (self.model_dir is None) != (self.model is None),
            "model-dir or --model",
            "",
            "give one of --model-dir (a run's folder) and --model (a model file)",
        )


@dataclass
class Estimators:
    """The MI estimators."""

    estimator_dir: Path = Path("runs/estimators")
    """The folder of stage 2."""
    bound: Bound | None = None
    """The MI bound; the one that the estimators were trained with when not given."""


@dataclass
class Images:
    """The test images."""

    dataset: Dataset | None = None
    """The data set; the run's own when not given."""
    data_dir: Path | None = None
    """The folder of the data set; the run's own when not given."""
    limit_test: Count = None
    """Only the first N test images."""

    def check(self) -> None:
        need(
            self.limit_test is None or self.limit_test > 1,
            "limit_test",
            self.limit_test,
            "give 2 or more images: the others are a sample's negatives",
        )


@dataclass
class PGD:
    """The attack on the test images."""

    norm: Literal["linf", "l2"] | None = None
    """The norm of the budget; the run's own when not given."""
    epsilon: Fraction = None
    """The budget in pixel units; the run's own when not given."""
    num_steps: int = 20
    """Steps of the PGD attack, each epsilon/4 long (as in stage 2)."""
    seed: int = 1
    """Seed of the attack's start."""

    def check(self) -> None:
        need(self.num_steps > 0, "num_steps", self.num_steps, "give 1 or more steps")
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")
