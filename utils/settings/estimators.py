"""Declare the options of the MI estimators: their form, their training, and their files.

Nothing here imports torch.
"""

from dataclasses import dataclass
from pathlib import Path

from utils.mi.names import estimator_files
from utils.settings.choices import Bound, Representation, Selection
from utils.settings.normalisation import Normalization
from utils.settings.options import Arch, Attack, Data, Run, StageSettings
from utils.settings.values import Count, group, need, need_memory


@dataclass
class Estimation:
    """The form of the MI estimators (paper, section 3; Hjelm et al. 2018)."""

    bound: Bound = "dv"
    """The MI bound: Donsker-Varadhan, the released code's form of it, InfoNCE, or the f-divergence
    with JSD (the released code's va_mode).
    """
    n_units: int = 2048
    """Channels of the estimators' outputs (the released code's va_hsize)."""
    representation: Representation = "logits"
    """Which output of the target the estimators see: its logits, or a stage's feature map (the
    released code's is_internal, is_internal_last).
    """
    scale_scores: bool = False
    """Divide the scores of the bounds by the square root of --n-units (not in the paper;
    docs/stability.md).
    """
    selection: Selection = "eq6"
    """How samples are selected for the objectives: eq6 (paper, Equation 6) by the largest logit;
    released (the released code) by the largest entry of a softmax over the batch.
    """

    def check(self) -> None:
        need(self.n_units > 0, "n_units", self.n_units, "give 1 or more")
        need_memory("n_units", self.n_units, self.n_units**2)


@dataclass
class EstimatorFiles:
    """The trained estimators that stage 3 reads."""

    estimator_dir: Path | None = None
    """The folder of stage 2; when not given runs/estimators, and for wmim runs/estimators_max."""
    pre_local_n: Path | None = None
    """The natural estimator's local network instead of the folder's (this and the three options
    below are the released code's).
    """
    pre_global_n: Path | None = None
    """The natural estimator's global network."""
    pre_local_a: Path | None = None
    """The adversarial estimator's local network."""
    pre_global_a: Path | None = None
    """The adversarial estimator's global network."""
    bound: Bound | None = None
    """The MI bound; when not given the one that the estimators were trained with."""
    n_units: Count = None
    """Units of the estimators, to check the files against; the files name them."""
    representation: Representation | None = None
    """Which output of the target the estimators see, to check the files against; the files name it.
    """

    def check(self) -> None:
        valid = self.n_units is None or self.n_units > 0
        need(valid, "n_units", self.n_units, "give 1 or more")
        need_memory("n_units", self.n_units, (self.n_units or 0) ** 2)

    def paths(self, folder: Path, letters: str) -> dict[str, Path]:
        """Return {option: path} of the estimators' files.

        Args:
            folder: the folder where --estimator-dir is not given.
            letters: "na" for both estimators, "n" for the natural one alone.
        """
        files = estimator_files(self.estimator_dir or folder, letters)
        return {option: getattr(self, option) or path for option, path in files.items()}


@dataclass
class EstimatorSettings(StageSettings):
    """The options of both scripts of stage 2."""

    pre_target: Path = Path("runs/standard/best_model.pth")
    """The frozen target: a file of stage 1, or a published checkpoint together with --arch."""
    arch: Arch | None = None
    """The architecture of --pre-target, for a file that does not name it."""
    inputs: Normalization = group(Normalization)
    data: Data = group(Data)
    attack: Attack = group(Attack, num_steps=20)
    estimation: Estimation = group(Estimation)
    run: Run = group(Run, model_dir=Path("runs/estimators"))

    def check(self) -> None:
        self.training.check_adam("stage 2")
