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
    training: Training = group(
        Training, epochs=25, batch_size=400, lr=1e-2, lr_milestones=(0.4, 0.8)
    )


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

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
    inputs = {"pre_target": settings.pre_target}
    need_files(inputs)
    with open_stage(settings.stage, settings, inputs) as stage:
        train(stage, settings)


def train(stage: Stage, settings: Settings) -> None:
    target, nets, optimizer = estimators.build(stage, settings)
    evaluate = estimators.evaluation(stage, settings, target, nets)

    def keep(which):
        if which == "last":
            estimators.save(stage, settings, nets)

    with Loop(stage, nets, optimizer, settings.training, keep, "MI estimators") as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                loss, log = estimators.step(
                    x,
                    y,
                    epoch,
                    loop.index,
                    loop.generator,
                    target=target,
                    natural_mi=nets["natural"],
                    adversarial_mi=nets["adversarial"],
                    objectives=OBJECTIVES[settings.objective],
                    settings=settings,
                    compute=stage.compute,
                )
                loop.step(loss, log)
            loop.end_of_epoch(evaluate())
    print(
        f"done: {stage.folder.path}/local_n, global_n, local_a, global_a _model.pth, metrics.csv, curves.png"
    )


if __name__ == "__main__":
    run_script(main, settings)
