"""Stage 2: train the natural and the adversarial MI estimator on a frozen stage-1 target.

    python train_MI_estimator.py --pre-target runs/standard/best_model.pth --model-dir runs/estimators
    python train_MI_estimator.py --pre-target runs/standard/best_model.pth --objective difference --model-dir runs/eq5

With a = an estimator's MI on its own kind of sample and b = on the other kind, W the samples whose prediction the attack
turned wrong and R those that withstood it, the estimators learn to tell the two kinds apart: objective "cosine" as the
released code does (utils/losses.py), "difference" as the paper's Equation 5. The folder ends with the four networks,
local_n_model.pth, global_n_model.pth, local_a_model.pth and global_a_model.pth.
"""
from dataclasses import dataclass
from typing import Literal

from utils.settings.command_line import parse
from utils.settings.options import EstimatorSettings, Training, group


@dataclass
class Settings(EstimatorSettings):
    """Options of stage 2."""

    stage = "train_MI_estimator"

    objective: Literal["cosine", "difference"] = "cosine"
    """What the estimators minimise: the released code's cosine objectives, or the paper's Equation 5."""
    training: Training = group(Training, epochs=25, batch_size=400, lr=1e-2, lr_milestones=(0.4, 0.8))


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

from utils.mi import losses
from utils.mi.estimators import train
from utils.scripts import run_script

OBJECTIVES = {
    "cosine": {"natural": losses.cosine_natural, "adversarial": losses.cosine_adversarial},
    "difference": {"natural": losses.difference, "adversarial": losses.difference},  # Eq. 5
}


def main(settings: Settings) -> None:
    train(settings, OBJECTIVES[settings.objective])


if __name__ == "__main__":
    run_script(main, settings)
