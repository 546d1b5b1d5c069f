"""Declare the options once, as typed, documented fields of dataclasses.

A script's settings are a dataclass of shared groups (``Data``, ``Network``, ``Attack``,
``Training``, ``Weights``, ``Run``) and its own fields; `utils.settings.command_line.parse` reads
them with tyro. `fill_in` sets the values that depend on other options; `check` raises InputError at
a wrong value. Nothing here imports torch: ``--help`` and a wrong option answer at once.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from utils.settings.choices import Arch, Augmentation, Dataset, Norm, Preset, Schedule
from utils.settings.normalisation import Normalization
from utils.settings.values import Count, Fraction, need, need_memory
from utils.settings.values import group as group  # the scripts import it from here, too
from utils.settings.weights import Weights as Weights

# This must be set before torch is imported. A waiting thread spins 1,000 times, then sleeps.
# Images/s of PGD on two cores (ResNet-18 of width 16, 16x16, bf16; 2026-11-20), alone and beside a
# busy process: 772 and 336 with this value, 896 and 7 with endless spinning, 443 to 517 and 449
# without spinning.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

EPSILON = {"linf": 8 / 255, "l2": 0.5}  # the paper's budgets, section 5.1


@dataclass
class Data:
    """The images and how they are split."""

    dataset: Dataset = "cifar10"
    """The data set."""
    data_dir: Path = Path("datasets")
    """The folder of the data set, or where to download it: its own files, or four .npy arrays
    (docs/training.md, "Your own data").
    """
    limit_train: Count = None
    """Use the first N training images only, for a short run."""
    limit_test: Count = None
    """Use the first N test images only."""
    holdout: int = 1000
    """Training images held out to choose the best epoch, at most a fifth; 0: the last model is
    kept.
    """
    augment: bool = True
    """Augment the training images, by --augmentation."""
    augmentation: Augmentation = "crop"
    """How: crop at random, and flip horizontally where a mirrored image keeps its class (paper,
    section 5.1); cropshift or idbh-weak (Li and Spratling 2023, docs/leaderboard.md).
    """
    extra_data: Path | None = None
    """An .npz file of further training images, say generated ones: image, uint8 (M,H,W,3), and
    label, integers (M,).
    """
    extra_fraction: Fraction = 0.7
    """Which part of each batch comes from --extra-data (Rebuffi et al. 2021: 0.7)."""

    def check(self) -> None:
        for option in ("limit_train", "limit_test"):
            limit = getattr(self, option)
            need(limit is None or limit > 0, option, limit, "give 1 or more images")
        need(self.holdout >= 0, "holdout", self.holdout, "give 0 or more images")
        need(
            self.augment or self.augmentation == "crop",
            "augmentation",
            self.augmentation,
            "does nothing with --no-augment; leave one of the two out",
        )
        need(
            self.extra_fraction is not None and 0 < self.extra_fraction < 1,
            "extra_fraction",
            self.extra_fraction,
            "give a fraction between 0 and 1, say 0.7",
        )

    @property
    def about(self) -> dict:
        """Return what the file of a network says of its data, --extra-data included."""
        if self.extra_data is None:
            return {"dataset": self.dataset}
        extra = {"extra_data": self.extra_data.name, "extra_fraction": self.extra_fraction}
        return {"dataset": self.dataset, **extra}


@dataclass
class Network:
    """The target network."""

    arch: Arch = "resnet18"
    """Its architecture (paper: ResNet-18; released code: WRN-34-10)."""
    width: Count = None
    """Channels of its first stage; when not given the architecture's own: 64 for ResNet and VGG,
    160 for WRN-*-10.
    """
    inputs: Normalization = group(Normalization)

    def check(self) -> None:
        valid = self.width is None or self.width > 0
        need(valid, "width", self.width, "give 1 or more channels, or leave it out")
        need_memory("width", self.width, (self.width or 0) ** 2)  # of one layer, at the least


@dataclass
class Attack:
    """The threat model and the PGD attack of training (paper, section 5.1)."""

    norm: Norm = "linf"
    """The norm that bounds the perturbation."""
    epsilon: Fraction = None
    """The budget in pixel units, where 1 is the whole range; when not given 8/255 for linf and 0.5
    for l2 (paper).
    """
    num_steps: int = 10
    """Steps of PGD (paper: 10; released stage 2: 20)."""
    step_size: Fraction = None
    """Length of a step in pixel units; when not given epsilon/4 (paper)."""
    eval_steps: int = 20
    """Steps of the PGD that measures robust accuracy on held-out images after each epoch."""

    def fill_in(self) -> None:
        """Fill in budget and step size; tyro constructs the defaults before it reads --norm."""
        if self.epsilon is None:
            self.epsilon = EPSILON[self.norm]
        if self.step_size is None:
            self.step_size = self.epsilon / 4

    def check(self) -> None:
        assert self.epsilon is not None and self.step_size is not None  # fill_in
        largest = 1 if self.norm == "linf" else 128
        need(
            0 <= self.epsilon <= largest,
            "epsilon",
            f"{self.epsilon:g}",
            f"give a budget from 0 to {largest} in pixel units, such as 8/255 for 8 grey levels",
        )
        need(self.num_steps > 0, "num_steps", self.num_steps, "give 1 or more steps")
        need(
            self.step_size > 0 or self.epsilon == 0,
            "step_size",
            self.step_size,
            "give a step above 0",
        )
        need(self.eval_steps > 0, "eval_steps", self.eval_steps, "give 1 or more steps")

    @property
    def budget(self) -> tuple[str, float, int, float | None]:
        """Return what `pgd` takes in training: norm, epsilon, steps and step size."""
        assert self.epsilon is not None  # fill_in
        return self.norm, self.epsilon, self.num_steps, self.step_size

    @property
    def eval_budget(self) -> tuple[str, float, int, float | None]:
        """Return what `pgd` takes when held-out images are attacked."""
        norm, epsilon, _, step_size = self.budget
        return norm, epsilon, self.eval_steps, step_size

    @property
    def threat_model(self) -> dict:
        """Return the facts that must agree in all stages."""
        return {"norm": self.norm, "epsilon": self.epsilon}


@dataclass
class Training:
    """The optimiser and its schedule."""

    epochs: int = 100
    """Passes over the training images (paper: 100; released stage 2: 25, with Eq. 4: 50)."""
    batch_size: int = 1024
    """Images in a step (paper: 1024; released stage 2: 400, with Eq. 4: 200)."""
    lr: float = 0.1
    """The largest learning rate (paper: 0.1; released stage 2: 0.01)."""
    schedule: Schedule = "steps"
    """How the learning rate changes. steps: it falls at --lr-milestones (paper); exponential: it
    is multiplied by --lr-factor every two epochs (the released code of the variational bottleneck);
    cosine: half a cosine from lr to 0; cyclic: linear from 0 to lr over the first 40 % of the run,
    then linear to 0 (Wong et al. 2020, Fast Is Better than Free).
    """
    lr_milestones: tuple[float, ...] = (0.75, 0.9)
    """For --schedule steps: where the learning rate falls, as fractions of the epochs (paper:
    epochs 75 and 90 of 100; released stage 2: 10 and 20 of 25, with Eq. 4: 20, 30 and 40 of 50).
    """
    lr_factor: float = 0.1
    """For --schedule steps: the factor at each milestone (paper: 0.1; released stage 2 with Eq. 4:
    0.5). For --schedule exponential: the factor every two epochs.
    """
    optimizer: Literal["sgd", "adam"] = "sgd"
    """The optimiser of the target (paper: SGD). Adam (Kingma and Ba 2015) is for networks without
    batch norm, whose first steps on adversarial images are too long with SGD. Stage 2 always trains
    with Adam.
    """
    momentum: float = 0.9
    """Momentum of SGD (paper: 0.9). Stage 2 trains with Adam and refuses another value."""
    weight_decay: float = 2e-4
    """Weight decay of SGD (paper: 2e-4). Stage 2 trains with Adam without it and refuses another
    value.
    """
    seed: int = 1
    """Seed of the initial weights, the held-out images, the order of the batches and the start of
    the attacks.
    """

    def check(self) -> None:
        need(self.epochs > 0, "epochs", self.epochs, "give 1 or more epochs")
        need(
            self.batch_size > 1,
            "batch_size",
            self.batch_size,
            "give 2 or more images: batch norm and the MI bounds compare the images of a batch",
        )
        need(self.lr > 0, "lr", self.lr, "give a learning rate above 0")
        need(self.momentum >= 0, "momentum", self.momentum, "give 0 or more")
        need(self.weight_decay >= 0, "weight_decay", self.weight_decay, "give 0 or more")
        need(self.lr_factor > 0, "lr_factor", self.lr_factor, "give a factor above 0")
        milestones = self.lr_milestones
        valid = all(0 <= each <= 1 for each in milestones)
        need(valid, "lr_milestones", milestones, "give fractions of the epochs, from 0 to 1")
        need(0 <= self.seed < 2**31, "seed", self.seed, "give a whole number from 0 to 2147483647")

    def check_adam(self, script: str) -> None:
        """Refuse options of SGD where a script trains with Adam."""
        for option in ("momentum", "weight_decay"):
            value = getattr(self, option)
            unused = value == getattr(Training, option)
            need(unused, option, value, f"applies to SGD; {script} trains with Adam, leave it out")
        right = f"{script} trains with Adam anyhow; leave it out"
        need(self.optimizer == "sgd", "optimizer", self.optimizer, right)


@dataclass
class Run:
    """The run's folder and the machine. None of these options changes a result, up to rounding."""

    model_dir: Path = Path("runs/run")
    """The run's folder. The same command again resumes an unfinished run."""
    restart: bool = False
    """Replace the run in --model-dir, and start from scratch. It is deleted when the new run saves
    its first state.
    """
    checkpoint_every: float = 10.0
    """Minutes between two checkpoints inside an epoch; the end of each epoch saves one as well."""
    log: Literal["tensorboard", "wandb", "trackio"] | None = None
    """Show the rows of metrics.csv elsewhere, too: in TensorBoard (event files in the run's folder)
    or by the package wandb or trackio (docs/log.md).
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, otherwise the CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the networks in training (auto: bf16 where the device supports it). Everything
    else, and evaluation, is float32.
    """
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the target with torch.compile: --compile or --no-compile. auto: on CUDA only. On a
    CPU compiling takes a minute, which pays off in runs of more than a few minutes (docs/speed.md).
    """

    def check(self) -> None:
        every = self.checkpoint_every
        need(every > 0, "checkpoint_every", every, "give a number of minutes above 0")


class StageGroups:
    """Name the groups that every training script declares, each with its own defaults."""

    data: Data
    attack: Attack
    training: Training
    run: Run


@dataclass
class StageSettings(StageGroups):
    """The options of every training script."""

    stage: ClassVar[str]  # the script's name without ".py"

    preset: Preset = "paper"
    """Values of the options that are not given: paper; released, the code released with it; strong,
    common settings of adversarial training (weight decay 5e-4, batch 128, averaged weights);
    leaderboard, those with which published networks are trained today (docs/leaderboard.md); or
    stable, with which short runs of NAMID trained (alpha 0.1). utils/settings/presets.py lists each
    value with its reason.
    """

    @property
    def threat(self) -> dict:
        """Return the facts that the files of all stages must agree on: norm, epsilon, dataset."""
        return self.attack.threat_model | {"dataset": self.data.dataset}
