r"""Stage 2 by plain MI maximisation, the paper's Equation 4, for comparison (Figures 4, 7), WMIM.

    python train_MI_estimator_only_max.py --pre-target runs/standard/best_model.pth \
        --model-dir runs/estimators_max

The natural estimator maximises its MI over correctly classified samples, the adversarial one over
the adversarial samples that fool the target. Everything else is as in train_MI_estimator.py.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.settings.command_line import parse
from utils.settings.options import EstimatorSettings, Run, Training, group


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

    loss_of = partial(
        estimators.step,
        target=target,
        natural_mi=nets["natural"],
        adversarial_mi=nets["adversarial"],
        objectives=OBJECTIVES,
        settings=settings,
        compute=stage.compute,
        compare=False,
    )
    with Loop(stage, nets, optimizer, settings.training, keep, "MI estimators") as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                loss, log = loss_of(x, y, epoch, loop.index, loop.generator)
                loop.step(loss, log)
            loop.end_of_epoch(evaluate())
    files = "local_n, global_n, local_a, global_a _model.pth"
    print(f"done: {stage.folder.path}/{files}, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
