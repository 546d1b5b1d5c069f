r"""Stage 2: train the MI estimators by plain MI maximisation (Eq. 4), for Figures 4, 7 and WMIM.

    python train_MI_estimator_only_max.py --pre-target runs/standard/best_model.pth \
        --model-dir runs/estimators_max

The natural estimator maximises its MI on correctly classified samples, the adversarial estimator on
the adversarial samples that fool the target. Everything else is as in train_MI_estimator.py.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.settings.command_line import parse
from utils.settings.estimators import EstimatorSettings
from utils.settings.options import Run, Training, group


@dataclass
class Settings(EstimatorSettings):
    """Options of stage 2, plain maximisation."""

    stage = "train_MI_estimator_only_max"

    training: Training = group(
        Training, epochs=50, batch_size=200, lr=1e-2, lr_milestones=(0.4, 0.6, 0.8), lr_factor=0.5
    )
    run: Run = group(Run, model_dir=Path("runs/estimators_max"))


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

from utils.attacks.projected_gradient import pgd
from utils.mi.losses import maximum
from utils.scripts import run_script
from utils.training import estimators
from utils.training.loop import Loop
from utils.training.stages import Stage, need_files, open_stage

OBJECTIVES = {
    "natural": partial(maximum, over="C"),
    "adversarial": partial(maximum, over="fooled"),
}  # Eq. 4


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

    budget, selection = settings.attack.budget, settings.estimation.selection
    with Loop(stage, nets, optimizer, settings.training, keep, "MI estimators") as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                with stage.compute.autocast():
                    x_adv = pgd(target, x, y, *budget, generator=loop.generator)
                    values = estimators.batch_values(
                        x, x_adv, y, target, nets, selection, compare=False
                    )
                natural = OBJECTIVES["natural"](*values.natural, values.masks)
                adversarial = OBJECTIVES["adversarial"](*values.adversarial, values.masks)
                log = {"natural_loss": natural, "adversarial_loss": adversarial}
                loop.step(natural + adversarial, log)
            loop.end_of_epoch(evaluate())
    files = "local_n, global_n, local_a, global_a _model.pth"
    print(f"done: {stage.folder.path}/{files}, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
