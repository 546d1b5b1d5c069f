"""Train a representation g without labels, by worst-case or by normal mutual information.

    python train_worst_case_MI.py --model-dir runs/encoder             # the paper's, on CIFAR-10
    python train_worst_case_MI.py --mi normal --model-dir runs/encoder-normal
    python train_worst_case_MI.py --dataset digits --width 16 --n-units 256 --epochs 30 \
        --epsilon 0.12 --holdout 200 --model-dir runs/encoder-digits

The encoder g and a critic maximise J(x', g(x')), a lower bound on the mutual information I(X'; Z),
where the images x' of a batch are attacked to minimise it (Zhu, Zhang and Evans, ICML 2020, Eq.
5.4). With --mi normal x' = x (Deep InfoMax, Hjelm et al. 2019). The run's folder ends with
best_model.pth, the encoder of the largest J on attacked held-out images (with --mi normal: on
natural ones), and last_model.pth; local_model.pth and global_model.pth are the best encoder's
critic.
train_classifier.py trains a classifier on the encoder. docs/worst_case_MI.md says what J is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.settings.command_line import parse
from utils.settings.options import (
    Count,
    Data,
    Run,
    StageSettings,
    Training,
    group,
    need,
    need_memory,
)
from utils.settings.worst_case import CriticForm, WorstCaseAttack


@dataclass
class Settings(StageSettings):
    """Options of training a representation."""

    stage = "train_worst_case_MI"

    mi: Literal["worst", "normal"] = "worst"
    """What g maximises: worst-case mutual information (paper), or that of natural images."""
    beta: float = 1.0
    """Weight of RV, of 0 to 1: g maximises beta J(x') + (1 - beta) J(x) (paper: 1)."""
    epsilon_ramp: float = 0.0
    """Epochs over which the budget of the attack grows linearly from 0; 0: at once (paper)."""
    width: Count = None
    """Channels of the encoder's first convolution; when not given 64 (paper)."""
    critic: CriticForm = group(CriticForm, form="location", pairs="others")
    data: Data = group(Data)
    attack: WorstCaseAttack = group(WorstCaseAttack)
    training: Training = group(Training, epochs=300, batch_size=128, lr=1e-4, lr_milestones=())
    run: Run = group(Run, model_dir=Path("runs/encoder"))

    def check(self) -> None:
        need(0 <= self.beta <= 1, "beta", self.beta, "give a weight from 0 to 1")
        need(self.epsilon_ramp >= 0, "epsilon_ramp", self.epsilon_ramp, "give 0 or more epochs")
        need(self.width is None or self.width > 0, "width", self.width, "give 1 or more channels")
        need_memory("width", self.width, (self.width or 0) ** 2)
        for option, unused in (("beta", 1), ("epsilon_ramp", 0)):
            value = getattr(self, option)
            attacks = self.mi == "worst" or value == unused
            need(attacks, option, value, "applies to the attack; leave it out with --mi normal")
        self.training.check_adam("train_worst_case_MI.py")


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch

import models
from models.encoder import CODES, Encoder
from models.mi import save_net
from utils.attacks.mutual_information import lower_mi
from utils.mi.critic import Critic, build_critic
from utils.schedules import ramp
from utils.scripts import run_script
from utils.training.held_out_mi import held_out_mi, warnings
from utils.training.loop import Loop
from utils.training.stages import Stage, open_stage


def objective(x, x_adv, encoder: Encoder, critic: Critic, beta: float) -> dict[str, torch.Tensor]:
    """Compute what g and the critic maximise, beta J(x') + (1 - beta) J(x), and its terms.

    Each network runs once on each kind of images x, x_adv (N,3,H,W) whose term counts. With several
    processes each has a part of the batch, and J is that of the whole batch.
    """
    terms = {}
    if beta > 0:
        terms["worst_mi"] = critic(x_adv, encoder(x_adv))
    if beta < 1:
        terms["natural_mi"] = critic(x, encoder(x))
    weights = {"worst_mi": beta, "natural_mi": 1 - beta}
    return {"objective": sum(weights[name] * value for name, value in terms.items())} | terms


def main(settings: Settings) -> None:
    """Open the stage and train."""
    with open_stage(settings.stage, settings) as stage:
        train(stage, settings)


def train(stage: Stage, settings: Settings) -> None:
    """Train the encoder and its critic, and keep the best and the last encoder."""
    compute, form, worst = stage.compute, settings.critic, settings.mi == "worst"

    encoder = Encoder(settings.width or 64, stage.dataset.size)
    critic = build_critic(
        "code", CODES, form.n_units, form.local_convs, form.form, form.pairs, form.scale_scores
    )
    nets = {"encoder": encoder, "critic": critic}
    for net in nets.values():
        compute.prepare(net).train()
    for net in (encoder, critic.local_net, critic.global_net):
        compute.compiled(net)
    weights = [weight for net in nets.values() for weight in net.parameters()]
    optimizer = torch.optim.Adam(weights, settings.training.lr, fused=True)

    def evaluate():
        images, batch_size = stage.holdout_images, settings.training.batch_size
        budget = settings.attack.budget if worst else None
        return held_out_mi(encoder, critic, images, batch_size, budget, compute)

    def keep(which):
        about = settings.data.about | {"mi": settings.mi} | stage.split
        about |= {"beta": settings.beta} | settings.attack.threat_model if worst else {}
        models.save(encoder, stage.folder.path / f"{which}_model.pth", **about)
        if which == "best":
            save_net(critic.local_net, stage.folder.path / "local_model.pth", **about)
            save_net(critic.global_net, stage.folder.path / "global_model.pth", **about)

    norm, epsilon, steps, step_size = settings.attack.budget
    title = f"encoder, {settings.mi} mutual information"
    with Loop(stage, nets, optimizer, settings.training, keep, title) as loop:
        for epoch in loop.epochs():
            for x, _ in loop.batches(epoch):
                x_adv, beta = None, 0.0
                with compute.autocast():
                    if worst:
                        share = ramp(1, epoch + loop.index / len(loop.data), settings.epsilon_ramp)
                        budget = (norm, share * epsilon, steps, share * step_size)
                        x_adv, beta = lower_mi(encoder, critic, x, *budget), settings.beta
                    found = objective(x, x_adv, encoder, critic, beta)
                log = {name: value for name, value in found.items() if name != "objective"}
                loop.step(-found["objective"], log)  # Eq. 5.4, minimised
            loop.end_of_epoch(evaluate(), warnings)
    print(f"done: {stage.folder.path}/best_model.pth and last_model.pth, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
