r"""Train a network further on natural images, with a term that moves the entropy of its layers.

    python train_standard.py --defense natural --arch sperl-cnn --lr 0.01 --model-dir runs/natural
    python train_entropic.py --init runs/natural/best_model.pth --signs=-1,-1,-1,-1,1 \
        --model-dir runs/entropic
    python train_entropic.py --init runs/natural/best_model.pth --profile runs/layers/profile.json \
        --model-dir runs/entropic

Entropic retraining (Sperl and Boettinger 2020) should make a network robust without adversarial
images, by a term that mimics what adversarial training does to the layers. Its formula was not
found. The loss here is our reading of the abstract: CE(h(x), y) - lam sum_l s_l Q_l. Q_l is the
mean activation entropy of layer l; s_l is the sign of its change by adversarial training, which
analyze_MI.py layers measures. Results with this loss say nothing against the paper's own
(docs/entropic_retraining.md). Training makes no adversarial image; only the held-out images are
attacked, after each epoch, to choose best_model.pth.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.settings.choices import TrainedQuantity
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


@dataclass
class Settings(StageSettings):
    """Options of entropic retraining."""

    stage = "train_entropic"

    init: Path = Path("runs/natural/best_model.pth")
    """The network to train further, a file of stage 1 (train_standard.py --defense natural)."""
    mode: Literal["sign", "match", "class"] = "sign"
    """The term: sign, move each layer's quantity up or down; match, towards its value in the
    adversarially trained network of --profile; class, reduce what layers know of x beyond y.
    """
    profile: Path | None = None
    """The profile.json of analyze_MI.py layers, with the sign and the values of each layer; when
    neither --profile nor --signs is given, runs/layers/profile.json.
    """
    signs: str | None = None
    """Signs instead of a profile, one for each layer of --layers: --signs=-1,0,1."""
    layers: str | None = None
    """The hidden layers: dense, stages (the last one of each part of the network), all, or names
    between commas. When not given the dense ones, or the stages where there are none (ours).
    """
    quantity: TrainedQuantity | None = None
    """The quantity that the modes sign and match move: the activation entropy (when not given), the
    information of the noisy layer (lower bound), or the Gaussian entropy of the units.
    """
    lam: float = 1.0
    """Weight of the term; 0 is natural training."""
    control: Literal["none", "reversed", "random"] = "none"
    """A control of the mode sign: reversed signs, or the signs on layers drawn at random."""
    logit_penalty: float = 0.0
    """A control: weight of the mean squared norm of the logits, say 0.01 with --lam 0."""
    data: Data = group(Data)
    network: Network = group(Network, arch="sperl-cnn")
    attack: Attack = group(Attack)
    training: Training = group(Training, epochs=40, batch_size=128, lr=0.01)
    weights: Weights = group(Weights)
    run: Run = group(Run, model_dir=Path("runs/entropic"))

    def fill_in(self) -> None:
        """Fill in the profile, where the mode needs one."""
        if self.mode != "class" and self.lam and self.profile is None and self.signs is None:
            self.profile = Path("runs/layers/profile.json")

    def check(self) -> None:
        need(self.lam >= 0, "lam", self.lam, "give 0 or more")
        need(self.logit_penalty >= 0, "logit_penalty", self.logit_penalty, "give 0 or more")
        need(self.weights.awp == 0, "awp", self.weights.awp, "applies to adversarial training")
        read = self.run.compile != "on"
        need(read, "compile", "on", "the layers are read as the network runs; leave it out")
        self.check_mode()

    def check_mode(self) -> None:
        """Check the options that depend on --mode."""
        mode = f"with --mode {self.mode}"
        if self.mode == "sign":
            once = self.profile is None or self.signs is None
            need(once, "signs", self.signs, "give --profile or --signs, not both")
        if self.mode == "class":
            need(self.profile is None, "profile", self.profile, f"leave it out {mode}")
            need(self.quantity is None, "quantity", self.quantity, f"leave it out {mode}")
        if self.mode != "sign":
            need(self.signs is None, "signs", self.signs, f"leave it out {mode}")
            need(self.control == "none", "control", self.control, f"leave it out {mode}")
        self.sign_list()

    def sign_list(self) -> list[int]:
        """Return the signs of --signs, [] where there are none."""
        words = [] if self.signs is None else self.signs.split(",")
        valid = all(word.strip() in ("-1", "0", "1", "+1") for word in words)
        need(valid, "signs", self.signs, "give -1, 0 or 1 for each layer, such as --signs=-1,0,1")
        return [int(word) for word in words]


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch
import torch.nn.functional as F

import models
from common.errors import InputError
from utils.attacks.projected_gradient import at_least_float32, frozen
from utils.distributed import gather
from utils.mi.layers import QUANTITIES
from utils.mi.profiles import read_profile
from utils.mi.taps import Pass, select, tapped
from utils.scripts import run_script
from utils.training.entropic import (
    class_term,
    logit_penalty,
    match_term,
    random_layers,
    reversed_signs,
    sign_term,
)
from utils.training.held_out import held_out, held_out_examples
from utils.training.loop import Loop
from utils.training.optimisation import optimisation
from utils.training.stages import Stage, need_files, open_stage
from utils.training.targets import initial_target


@dataclass
class Plan:
    """Hold what is asked of the layers: their names, signs, and values in h_adv."""

    names: list[str]
    signs: dict[str, int]
    aims: dict[str, float]


def plan(target: torch.nn.Module, x: torch.Tensor, settings: Settings) -> Plan:
    """Choose the hidden layers, seen on images x, and what --profile or --signs asks of them."""
    with frozen(target), torch.no_grad():
        found = tapped(target, x)
    names, aims = select(found, settings.layers), {}
    signs, given = dict.fromkeys(names, 0), settings.sign_list()
    if settings.profile:
        known = read_profile(settings.profile, settings.quantity or "activation")
        if absent := [name for name in names if name not in known]:
            raise InputError(
                f"--profile {settings.profile}: says nothing of the layer {absent[0]!r}; "
                f"it has {','.join(known)}; give --layers, or the profile of such a network"
            )
        signs = {name: known[name].sign for name in names}
        aims = {name: known[name].adversarial for name in names}
    if given:
        if len(given) != len(names):
            raise InputError(
                f"--signs {settings.signs}: has {len(given)} of {len(names)} signs; "
                f"give one for each of {','.join(names)}"
            )
        signs = dict(zip(names, given))
    if settings.control == "reversed":
        signs = reversed_signs(signs)
    if settings.control == "random":
        signs = random_layers(signs, list(found.layers), settings.training.seed)
        names = list(signs)
    return Plan(names, signs, aims)


def entropic_term(found: Pass, y: torch.Tensor, asked: Plan, mode: str, quantity: str) -> tuple:
    """Compute the term of a batch (N,) that lam weighs, and the quantity of each layer to log.

    With several processes each has a part of the batch; `gather` collects the parts, and the
    quantities are over the whole batch.
    """
    layers = {name: gather(found.layers[name]) for name in asked.names}
    if mode == "class":
        return class_term(layers, gather(y)), {}
    values = {name: QUANTITIES[quantity](a) for name, a in layers.items()}
    log = {f"layer {name}": value for name, value in values.items()}
    if mode == "match":
        return match_term(values, asked.aims), log
    return sign_term(values, asked.signs), log


def main(settings: Settings) -> None:
    """Check that the files of the options exist, open the stage and train."""
    inputs = {"init": settings.init}
    need_files(inputs)
    if settings.profile:
        read_profile(settings.profile, settings.quantity or "activation")
        inputs["profile"] = settings.profile
    with open_stage(settings.stage, settings, inputs) as stage:
        train(stage, settings)


def train(stage: Stage, settings: Settings) -> None:
    """Train the target, and keep the best and the last model."""
    compute = stage.compute

    target = compute.prepare(initial_target(stage, settings, settings.init)).train()
    optimizer, _, nets, kept = optimisation(target, settings)
    x = stage.dataset.train_images[:2].to(compute.device).float() / 255
    asked = plan(target, x, settings)
    signed = {name: f" {asked.signs[name]:+d}" * (settings.mode == "sign") for name in asked.names}
    print("layers: " + ", ".join(name + sign for name, sign in signed.items()))
    if settings.mode == "sign" and settings.lam and not any(asked.signs.values()):
        print("warning: every sign is 0, so that this is natural training")

    def evaluate():
        return held_out(held_out_examples(kept, stage, settings.attack, settings.training))

    def keep(which):
        about = settings.data.about | stage.split
        path = stage.folder.path / f"{which}_model.pth"
        models.save(kept, path, defense=f"entropic-{settings.mode}", **about)

    lam, penalty = settings.lam, settings.logit_penalty
    smoothing = settings.weights.label_smoothing
    mode, quantity = settings.mode, settings.quantity or "activation"
    with Loop(stage, nets, optimizer, settings.training, keep, "entropic retraining") as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                with compute.autocast():
                    found = tapped(target, x)
                logits, labels = gather(at_least_float32(found.output)), gather(y)
                loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
                term, log = entropic_term(found, y, asked, mode, quantity)
                log |= {"ce_loss": loss, "entropic_term": term}
                if lam:
                    loss = loss + lam * term
                if penalty:
                    loss = loss + penalty * logit_penalty(logits)
                loop.step(loss, log)
            loop.end_of_epoch(evaluate())
    print(f"done: {stage.folder.path}/best_model.pth and last_model.pth, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
