r"""Stage 1: train a target network, naturally or by adversarial training.

    python train_standard.py --model-dir runs/standard        # the paper's setting on CIFAR-10
    python train_standard.py --defense natural --model-dir runs/natural
    python train_standard.py --preset strong --defense trades --awp 0.005 --model-dir runs/strong
    python train_standard.py --dataset digits --width 8 --epochs 3 --epsilon 0.15 \
        --batch-size 128 --model-dir runs/try

Standard adversarial training minimises CE(h(x~), y) on PGD images x~ that are computed for each
batch (Madry et al. 2018; paper, section 5.1). The other defenses differ in their loss alone
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
from utils.training.registry import LOSSES


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


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch.nn.functional as F

import models
from utils.attacks.projected_gradient import at_least_float32, pgd
from utils.distributed import gather
from utils.scripts import run_script
from utils.training.held_out import examples, held_out
from utils.training.loop import Loop
from utils.training.optimisation import optimisation
from utils.training.stages import Stage, open_stage


def step(x, y, epoch, index, generator, *, target, settings, compute, perturbation=None):  # noqa: PLR0913
    """Compute the loss of one batch, x (N,3,H,W) in [0,1] and y (N,), and the values to log.

    With several processes each has a part of the batch; `gather` collects the parts, and the loss
    is over the whole batch.

    Args:
        epoch, index: the epoch and the batch in it, from 0.
        generator: the random numbers of PGD's start.
        target: the network that is trained, in train mode.
        perturbation: the `WeightPerturbation` of --awp, or None.
    """
    if settings.defense == "natural":
        with compute.autocast():
            logits = target(x)
        return F.cross_entropy(gather(logits.float()), gather(y)), {}
    defense = LOSSES["ce" if settings.defense == "standard" else settings.defense]
    attack = settings.attack
    with compute.autocast():
        budget = (attack.norm, attack.epsilon, attack.num_steps, attack.step_size)
        x_adv = pgd(target, x, y, *budget, defense.attack, generator=generator)

    def loss():
        with compute.autocast():
            logits = gather(at_least_float32(target(x))) if defense.natural_pass else None
            logits_adv = gather(at_least_float32(target(x_adv)))
        return defense(logits, logits_adv, gather(y), settings.beta)

    if perturbation and epoch >= settings.weights.awp_warmup:
        perturbation.ascend(loss)
    return loss(), {}


def main(settings: Settings) -> None:
    """Open the stage and train."""
    with open_stage(settings.stage, settings) as stage:
        train(stage, settings)


def train(stage: Stage, settings: Settings) -> None:
    """Train the target, and keep the best and the last model."""
    compute = stage.compute

    target = models.build(
        settings.network.arch, stage.dataset.num_classes, width=settings.network.width
    )
    target = compute.compiled(compute.prepare(target)).train()
    optimizer, perturbation, nets, kept = optimisation(target, settings)

    def evaluate():
        images, labels = stage.holdout_images, stage.holdout_labels
        batches = examples(
            kept,
            images,
            labels,
            settings.attack,
            compute,
            batch_size=settings.training.batch_size,
            seed=settings.training.seed,
        )
        return held_out(batches)

    def keep(which):
        about = {"dataset": settings.data.dataset} | stage.split
        if settings.defense != "natural":
            about |= settings.attack.threat_model
        path = stage.folder.path / f"{which}_model.pth"
        models.save(kept, path, defense=settings.defense, **about)

    loss_of = partial(
        step, target=target, settings=settings, compute=compute, perturbation=perturbation
    )
    title = f"{settings.defense} training"
    with Loop(stage, nets, optimizer, settings.training, keep, title) as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                loss, log = loss_of(x, y, epoch, loop.index, loop.generator)
                loop.step(loss, log)
            loop.end_of_epoch(evaluate())
    print(f"done: {stage.folder.path}/best_model.pth and last_model.pth, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
