"""Train a classifier h on a frozen representation g; the result h o g is a target like any other.

    python train_classifier.py --encoder runs/encoder/best_model.pth --model-dir runs/classifier
    python train_classifier.py --encoder runs/encoder/best_model.pth --classifier linear \
        --defense robust --model-dir runs/classifier-robust

h minimises the cross-entropy of natural images (the paper, Zhu et al. 2020, calls this standard),
or, with --defense robust, of PGD images that are computed through h o g. Only h is trained. The
run's folder ends with best_model.pth, which has the best (natural + PGD accuracy)/2 on held-out
training images, and last_model.pth: networks baseline-h or baseline-h-linear, for
test_comparison.py and analyze_MI.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.settings.command_line import parse
from utils.settings.options import Data, Run, StageSettings, Training, group
from utils.settings.worst_case import WorstCaseAttack

ARCHITECTURE = {"mlp": "baseline-h", "linear": "baseline-h-linear"}


@dataclass
class Settings(StageSettings):
    """Options of training a classifier on an encoder."""

    stage = "train_classifier"

    encoder: Path = Path("runs/encoder/best_model.pth")
    """The frozen encoder: a file of train_worst_case_MI.py."""
    classifier: Literal["mlp", "linear"] = "mlp"
    """h: 64-200-classes with batch norm, or a linear layer (paper: both)."""
    defense: Literal["natural", "robust", "standard"] = "natural"
    """What h minimises: CE on natural images, or on adversarial images (robust; standard, the word
    of train_standard.py, is the same).
    """
    data: Data = group(Data)
    attack: WorstCaseAttack = group(WorstCaseAttack)
    training: Training = group(Training, epochs=300, batch_size=128, lr=1e-4, lr_milestones=())
    run: Run = group(Run, model_dir=Path("runs/classifier"))

    def fill_in(self) -> None:
        """Give the defense its one name in files."""
        self.defense = "natural" if self.defense == "natural" else "robust"

    def check(self) -> None:
        self.training.check_adam("train_classifier.py")


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch
import torch.nn.functional as F

import models
from common.errors import InputError
from models.encoder import BaselineH, load_encoder
from utils.attacks.projected_gradient import at_least_float32, pgd
from utils.distributed import gather
from utils.scripts import run_script
from utils.training.held_out import held_out, held_out_examples
from utils.training.loop import Loop
from utils.training.stages import Stage, check_split, check_threat_model, need_files, open_stage


def classifier_loss(x, y, target: BaselineH) -> torch.Tensor:
    """Compute CE(h(g(x)), y) of images x (N,3,H,W) in [0,1] and labels y (N,); g takes no gradient.

    With several processes each has a part of the batch, and the loss is over the whole batch.
    """
    with torch.no_grad():
        codes = target.encoder(x)
    return F.cross_entropy(gather(at_least_float32(target.classifier(codes))), gather(y))


def main(settings: Settings) -> None:
    """Check that the encoder's file exists, open the stage and train."""
    inputs = {"encoder": settings.encoder}
    need_files(inputs)
    with open_stage(settings.stage, settings, inputs) as stage:
        train(stage, settings)


def target_on(stage: Stage, settings: Settings) -> BaselineH:
    """Build h with random weights on the encoder, which is frozen and in eval mode."""
    encoder, source = load_encoder(settings.encoder), f"--encoder {settings.encoder}"
    check_threat_model(source, encoder.about, settings.threat)
    check_split("--encoder", settings.encoder, encoder.about, stage)
    size, found = list(stage.dataset.size), encoder.options["size"]
    if size != found:
        raise InputError(
            f"{source}: was trained on images of {found[0]}x{found[1]} pixels; "
            f"{stage.dataset.name} has {size[0]}x{size[1]}; give its own data set"
        )
    arch, classes = ARCHITECTURE[settings.classifier], stage.dataset.num_classes
    target = models.build(arch, classes, **encoder.options)
    target.encoder.load_state_dict(encoder.state_dict())
    target.encoder.eval().requires_grad_(False)
    return target


def train(stage: Stage, settings: Settings) -> None:
    """Train the classifier, and keep the best and the last target."""
    compute, robust = stage.compute, settings.defense == "robust"

    target = compute.compiled(compute.prepare(target_on(stage, settings)))
    nets = {"classifier": target.classifier.train()}
    optimizer = torch.optim.Adam(target.classifier.parameters(), settings.training.lr, fused=True)

    def evaluate():
        return held_out(held_out_examples(target, stage, settings.attack, settings.training))

    def keep(which):
        about = settings.data.about | {"defense": settings.defense} | stage.split
        about |= settings.attack.threat_model if robust else {}
        models.save(target, stage.folder.path / f"{which}_model.pth", **about)

    title = f"{settings.classifier} classifier, {settings.defense} training"
    with Loop(stage, nets, optimizer, settings.training, keep, title) as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                with compute.autocast():
                    if robust:
                        noise = loop.generator  # of the attack's start
                        x = pgd(target, x, y, *settings.attack.budget, generator=noise)
                    loss = classifier_loss(x, y, target)
                loop.step(loss)
            loop.end_of_epoch(evaluate())
    print(f"done: {stage.folder.path}/best_model.pth and last_model.pth, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
