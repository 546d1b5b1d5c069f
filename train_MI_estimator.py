r"""Stage 2: train the natural and the adversarial MI estimator on a frozen stage-1 target.

    python train_MI_estimator.py --pre-target runs/standard/best_model.pth \
        --model-dir runs/estimators
    python train_MI_estimator.py --pre-target runs/standard/best_model.pth \
        --objective difference --model-dir runs/eq5

The two estimators learn to distinguish natural from adversarial samples: with --objective cosine as
in the released code (utils/mi/losses.py), with --objective difference by the paper's Equation 5.
The run's folder ends with the four networks local_n_model.pth, global_n_model.pth,
local_a_model.pth and global_a_model.pth.
"""

from dataclasses import dataclass
from typing import Literal

from utils.settings.command_line import parse
from utils.settings.estimators import EstimatorSettings
from utils.settings.options import Training, group


@dataclass
class Settings(EstimatorSettings):
    """Options of stage 2."""

    stage = "train_MI_estimator"

    objective: Literal["cosine", "difference"] = "cosine"
    """cosine: the objectives of the released code; difference: the paper's Equation 5."""
    training: Training = group(
        Training, epochs=25, batch_size=400, lr=1e-2, lr_milestones=(0.4, 0.8)
    )


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

from utils.attacks.projected_gradient import pgd
from utils.mi import losses
from utils.scripts import run_script
from utils.training import estimators
from utils.training.loop import Loop
from utils.training.stages import Stage, need_files, open_stage

OBJECTIVES = {
    "cosine": {"natural": losses.cosine_natural, "adversarial": losses.cosine_adversarial},
    "difference": {"natural": losses.difference, "adversarial": losses.difference},  # Eq. 5
}


def main(settings: Settings) -> None:
    """Check that the target's file exists, open the stage and train."""
    inputs = {"pre_target": settings.pre_target}
    need_files(inputs)
    with open_stage(settings.stage, settings, inputs) as stage:
        train(stage, settings)


def train(stage: Stage, settings: Settings) -> None:
    """Train both estimators and keep the last ones."""
    target, nets, optimizer = estimators.build(stage, settings)
    evaluate = estimators.evaluation(stage, settings, target, nets)

    def keep(which):
        if which == "last":
            estimators.save(stage, settings, nets)

    objectives = OBJECTIVES[settings.objective]
    budget, selection = settings.attack.budget, settings.estimation.selection
    with Loop(stage, nets, optimizer, settings.training, keep, "MI estimators") as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                with stage.compute.autocast():
                    x_adv = pgd(target, x, y, *budget, generator=loop.generator)
                    values = estimators.batch_values(x, x_adv, y, target, nets, selection)
                natural = objectives["natural"](*values.natural, values.masks)
                adversarial = objectives["adversarial"](*values.adversarial, values.masks)
                log = {"natural_loss": natural, "adversarial_loss": adversarial}
                loop.step(natural + adversarial, log)
            loop.end_of_epoch(evaluate())
    files = "local_n, global_n, local_a, global_a _model.pth"
    print(f"done: {stage.folder.path}/{files}, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
