r"""Stage 1: train a target network, naturally or by adversarial training.

    python train_standard.py --model-dir runs/standard        # the paper's setting on CIFAR-10
    python train_standard.py --defense natural --model-dir runs/natural
    python train_standard.py --preset leaderboard --model-dir runs/leaderboard
    python train_standard.py --dataset digits --width 8 --epochs 3 --epsilon 0.15 \
        --batch-size 128 --model-dir runs/try

Standard adversarial training minimises CE(h(x~), y) on PGD images x~ that are computed for each
batch (Madry et al. 2018; paper, section 5.1). The other defenses differ only in their loss
(utils/training/losses.py). The run's folder ends with best_model.pth, which has the best (natural +
PGD accuracy)/2 on held-out training images, and last_model.pth; with --ema, both hold the averaged
network.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from utils.settings.command_line import parse
from utils.settings.options import (
    Attack,
    Data,
    Network,
    Run,
    StageSettings,
    Training,
    Weights,
    group,
    need,
)
from utils.training.registry import LOSSES, AdversarialLoss


@dataclass
class Settings(StageSettings):
    """Options of stage 1."""

    stage = "train_standard"

    defense: Literal["natural", "standard", *(name for name in LOSSES if name != "ce")] = "standard"
    """What is minimised: CE on natural images; CE on adversarial images (standard AT); TRADES;
    MART.
    """
    beta: float = 6.0
    """Weight of the regulariser of TRADES and MART (paper: 6)."""
    init: Path | None = None
    """Start from this model file instead of random weights."""
    data: Data = group(Data)
    network: Network = group(Network)
    attack: Attack = group(Attack)
    training: Training = group(Training)
    weights: Weights = group(Weights)
    run: Run = group(Run, model_dir=Path("runs/standard"))

    def check(self) -> None:
        need(self.beta >= 0, "beta", self.beta, "give 0 or more")
        need(
            self.defense != "natural" or self.weights.awp == 0,
            "awp",
            self.weights.awp,
            "applies to adversarial training; leave it out with --defense natural",
        )
        self.weights.check_loss(self.loss)

    @property
    def loss(self) -> AdversarialLoss:
        """Return L_adv; that of natural training is the cross-entropy."""
        cross_entropy = self.defense in ("natural", "standard")
        loss = LOSSES["ce" if cross_entropy else self.defense]
        return loss.smoothed(self.weights.label_smoothing)


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import models
from utils.attacks.projected_gradient import at_least_float32, pgd
from utils.distributed import gather
from utils.scripts import run_script
from utils.training.held_out import held_out, held_out_examples
from utils.training.loop import Loop
from utils.training.losses import natural_loss
from utils.training.optimisation import optimisation
from utils.training.stages import Stage, need_files, open_stage
from utils.training.targets import initial_target


def adversarial_loss(x, x_adv, y, target, defense: AdversarialLoss, beta: float, autocast):
    """Compute L_adv for images x, adversarial images x_adv (N,3,H,W) in [0,1] and labels y (N,).

    The target, in train mode, sees x only where the defense needs h(x). With several processes each
    has a part of the batch; `gather` collects the parts, and the loss is over the whole batch.
    """
    with autocast():
        logits = gather(at_least_float32(target(x))) if defense.natural_pass else None
        logits_adv = gather(at_least_float32(target(x_adv)))
    return defense(logits, logits_adv, gather(y), beta)


def main(settings: Settings) -> None:
    """Check that the file of --init exists, open the stage and train."""
    inputs = {"init": settings.init} if settings.init else {}
    need_files(inputs)
    with open_stage(settings.stage, settings, inputs) as stage:
        train(stage, settings)


def train(stage: Stage, settings: Settings) -> None:
    """Train the target, and keep the best and the last model."""
    compute = stage.compute

    target = initial_target(stage, settings, settings.init)
    target = compute.compiled(compute.prepare(target)).train()
    optimizer, perturbation, nets, kept = optimisation(target, settings)

    def evaluate():
        return held_out(held_out_examples(kept, stage, settings.attack, settings.training))

    def keep(which):
        about = settings.data.about | stage.split
        if settings.defense != "natural":
            about |= settings.attack.threat_model
        path = stage.folder.path / f"{which}_model.pth"
        models.save(kept, path, defense=settings.defense, **about)

    natural = settings.defense == "natural"
    budget, autocast = settings.attack.budget, compute.autocast
    defense = settings.loss
    title = f"{settings.defense} training"
    with Loop(stage, nets, optimizer, settings.training, keep, title) as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                if natural:
                    loss = natural_loss(x, y, target, autocast, defense.smoothing)
                else:
                    with autocast():
                        noise = loop.generator  # of the attack's start
                        x_adv = pgd(target, x, y, *budget, defense.attack, generator=noise)
                    objective = partial(
                        adversarial_loss, x, x_adv, y, target, defense, settings.beta, autocast
                    )
                    if perturbation and epoch >= settings.weights.awp_warmup:
                        perturbation.ascend(objective)
                    loss = objective()  # with --awp at the moved weights
                loop.step(loss)
            loop.end_of_epoch(evaluate())
    print(f"done: {stage.folder.path}/best_model.pth and last_model.pth, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
