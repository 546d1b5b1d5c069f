"""The command line: options declared once, as typed, documented fields of dataclasses.

A script's settings are a dataclass of shared groups (``Data``, ``Network``, ``Attack``, ``Training``, ``Weights``, ``Run``) and
its own fields; `parse` reads them with tyro. Nothing here imports torch: ``--help`` and a wrong option answer at once.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

import data
import models
from common.errors import InputError
from models import REPRESENTATIONS
from utils.mi.names import BOUNDS, SELECTIONS
from utils.settings import presets

# Before torch is imported: a thread that waits for another spins 1,000 times, then sleeps. PGD on two cores, images/s
# (ResNet-18 of width 16, 16x16, bf16), alone and beside a busy process: 772 and 336 so; 896 and 7 when it spins on; 443 to
# 517 and 449 when it sleeps at once (2026-11-20).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def fraction(text: str) -> float:
    """The number that "8/255" or "0.03" stands for. Raises ValueError for anything else and for what is not finite."""
    above, slash, below = text.partition("/")
    try:
        value = float(above) / (float(below) if slash else 1.0)
    except ZeroDivisionError:
        raise ValueError(
            f"{text} divides by zero; write a number or a fraction such as 8/255"
        ) from None
    except ValueError:
        raise ValueError(
            f"{text} is not a number; write a number or a fraction such as 8/255"
        ) from None
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite; write a number or a fraction such as 8/255")
    return value


def whole(text: str) -> int:
    """The whole number that `text` is; ValueError for anything else."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text} is not a whole number") from None


def _option(read, metavar: str, show: str):
    """How tyro reads an option that may be left out: one word, through `read`, whose ValueError is the user's message."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int | float),
        str_from_instance=lambda value: ["not given" if value is None else format(value, show)],
    )


Fraction = Annotated[float | None, _option(fraction, "NUMBER|A/B", "g")]
Count = Annotated[int | None, _option(whole, "INT", "d")]
Dataset = Literal[tuple(data.DATASETS)]
Arch = Literal[tuple(models.ARCHITECTURES)]
Representation = Literal[REPRESENTATIONS]
Bound = Literal[BOUNDS]
Selection = Literal[SELECTIONS]
Preset = Literal[tuple(presets.PRESETS)]
EPSILON = {"linf": 8 / 255, "l2": 0.5}  # the paper's budgets, section 5.1


def need(holds: bool, option: str, value, right: str) -> None:
    """Raise InputError, in one line that names the option, unless `holds`."""
    if not holds:
        raise InputError(f"--{option.replace('_', '-')} {value}: {right}")


def group(kind, **defaults):
    """A field that holds a group of options, with a stage's own defaults."""
    return field(default_factory=lambda: kind(**defaults))


@dataclass
class Data:
    """Images and how they are split."""

    dataset: Dataset = "cifar10"
    """The data set."""
    data_dir: Path = Path("datasets")
    """Where it is or is downloaded to: the set's own files, or four .npy arrays (docs/training.md, "Your own data")."""
    limit_train: Count = None
    """Only the first N training images, for a short run."""
    limit_test: Count = None
    """Only the first N test images."""
    holdout: int = 1000
    """Training images kept aside to choose the best epoch, at most a fifth; 0: the last model is kept."""
    augment: bool = True
    """Random crop, and horizontal flip where a mirrored image keeps its class (paper, section 5.1)."""

    def check(self) -> None:
        need(
            self.limit_train is None or self.limit_train > 0,
            "limit_train",
            self.limit_train,
            "give 1 or more images",
        )
        need(
            self.limit_test is None or self.limit_test > 0,
            "limit_test",
            self.limit_test,
            "give 1 or more images",
        )
        need(self.holdout >= 0, "holdout", self.holdout, "give 0 or more images")


@dataclass
class Network:
    """The target network."""

    arch: Arch = "resnet18"
    """Its architecture (paper: ResNet-18; released code: WRN-34-10)."""
    width: Count = None
    """Channels of its first stage; the architecture's own when not given: 64 for ResNet and VGG, 160 for WRN-*-10."""

    def check(self) -> None:
        need(
            self.width is None or self.width > 0,
            "width",
            self.width,
            "give 1 or more channels, or leave it out",
        )


@dataclass
class Attack:
    """The threat model and the attack of training, PGD (paper, section 5.1)."""

    norm: Literal["linf", "l2"] = "linf"
    """The norm of the budget."""
    epsilon: Fraction = None
    """The budget in pixel units, where 1 is the whole range; when not given 8/255 for linf and 0.5 for l2 (paper)."""
    num_steps: int = 10
    """Steps of PGD (paper: 10; stage 2, as released: 20)."""
    step_size: Fraction = None
    """Length of a step in pixel units; epsilon/4 when not given (paper)."""
    eval_steps: int = 20
    """Steps of the PGD that measures robust accuracy on held-out images after each epoch."""

    def check(self) -> None:
        # Filled in here, not at construction: tyro constructs the defaults before it reads --norm.
        self.epsilon = EPSILON[self.norm] if self.epsilon is None else self.epsilon
        self.step_size = self.epsilon / 4 if self.step_size is None else self.step_size
        largest = 1 if self.norm == "linf" else 128
        need(
            0 <= self.epsilon <= largest,
            "epsilon",
            f"{self.epsilon:g}",
            f"a budget from 0 to {largest} in pixel units is needed; write 8/255 for 8 grey levels",
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
    def threat_model(self) -> dict:
        """What has to agree through the chain of stages."""
        return {"norm": self.norm, "epsilon": self.epsilon}


@dataclass
class Training:
    """The optimiser and its schedule."""

    epochs: int = 100
    """Passes over the training images (paper: 100; stage 2, as released: 25, by Eq. 4 alone 50)."""
    batch_size: int = 1024
    """Images in a step (paper: 1024; stage 2, as released: 400, by Eq. 4 alone 200)."""
    lr: float = 0.1
    """The largest learning rate (paper: 0.1; stage 2, as released: 0.01)."""
    schedule: Literal["steps", "cosine", "cyclic"] = "steps"
    """The learning rate over the run. steps: falls at --lr-milestones (paper); cosine: half a cosine from lr to 0; cyclic: linear
    from 0 to lr over the first 40 % of the run, then linear to 0 (Wong et al. 2020, Fast Is Better than Free)."""
    lr_milestones: tuple[float, ...] = (0.75, 0.9)
    """Of steps: where the learning rate falls, as fractions of the epochs (paper: epochs 75 and 90 of 100; stage 2, as released:
    10 and 20 of 25, by Eq. 4 alone 20, 30 and 40 of 50)."""
    lr_factor: float = 0.1
    """Of steps: what it is multiplied by there (paper: 0.1; stage 2 by Eq. 4 alone, as released: 0.5)."""
    momentum: float = 0.9
    """Momentum of SGD (paper: 0.9); stage 2 has Adam, and no use for it."""
    weight_decay: float = 2e-4
    """Weight decay of SGD (paper: 2e-4); stage 2 has Adam without, and no use for it."""
    seed: int = 1
    """Fixes the initial weights, the held-out images, the order of the batches and the start of the attacks."""

    def check(self) -> None:
        need(self.epochs > 0, "epochs", self.epochs, "give 1 or more epochs")
        need(
            self.batch_size > 1,
            "batch_size",
            self.batch_size,
            "2 or more images are needed: batch norm and the MI bounds compare the images of a batch",
        )
        need(self.lr > 0, "lr", self.lr, "give a learning rate above 0")
        need(self.momentum >= 0, "momentum", self.momentum, "give 0 or more")
        need(self.weight_decay >= 0, "weight_decay", self.weight_decay, "give 0 or more")
        need(self.lr_factor > 0, "lr_factor", self.lr_factor, "give a factor above 0")
        need(
            all(0 <= m <= 1 for m in self.lr_milestones),
            "lr_milestones",
            self.lr_milestones,
            "give fractions of the epochs, from 0 to 1",
        )
        need(0 <= self.seed < 2**31, "seed", self.seed, "give a whole number from 0 to 2147483647")


@dataclass
class Weights:
    """What is done with the target's weights beside gradient descent. Nothing in the paper."""

    ema: float = 0.0
    """Decay of an exponential moving average of the weights and batch-norm statistics, say 0.999, which is evaluated and kept
    in place of the network itself; after t steps it is min(EMA, (1+t)/(10+t)), lest a short run average its beginning; 0: off."""
    awp: float = 0.0
    """gamma of adversarial weight perturbation (Wu et al. 2020; its authors: 0.005 to 0.01): gradients, and the loss in the
    record, are taken where the weights were moved up the loss by this fraction of each layer's norm; 0: off."""
    awp_warmup: int = 0
    """Epochs at the beginning without weight perturbation (its authors begin late, say after 10 of 200)."""

    def check(self) -> None:
        need(0 <= self.ema < 1, "ema", self.ema, "give a decay from 0 (off) to below 1, say 0.999")
        need(
            0 <= self.awp < 1,
            "awp",
            self.awp,
            "give a fraction of the weights' norm from 0 (off) to below 1, say 0.005",
        )
        need(self.awp_warmup >= 0, "awp_warmup", self.awp_warmup, "give 0 or more epochs")


@dataclass
class Run:
    """Where the run lives and what it runs on. None of these changes what is computed, but for rounding."""

    model_dir: Path = Path("runs/run")
    """The run's folder. The same command again goes on where it stopped."""
    restart: bool = False
    """Throw the run in --model-dir away and start anew."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the networks in training (auto: bf16 where the device has it); all else, and evaluation, is float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the target with torch.compile: --compile or --no-compile. auto: on CUDA; on a CPU the minute that it takes pays in
    runs of more than a few minutes only (docs/speed.md)."""

    def check(self) -> None:
        pass


@dataclass
class Estimation:
    """The form of the MI estimators (paper, section 3; Hjelm et al. 2018)."""

    bound: Bound = "dv"
    """The MI bound: Donsker-Varadhan, the released code's form of it, InfoNCE, or the f-divergence with JSD (its va_mode)."""
    n_units: int = 2048
    """Channels of the estimators' outputs (the released code's va_hsize)."""
    representation: Representation = "logits"
    """What of the target the estimators see: its logits, or a stage's feature map (its is_internal, is_internal_last)."""
    scale_scores: bool = False
    """Divide the scores of the bounds by the square root of --n-units (not in the paper; docs/stability.md)."""
    selection: Selection = "eq6"
    """Which samples the objectives are taken over: eq6 (paper, Equation 6) goes by the largest logit; released (the released
    code) by the largest entry of a softmax over the batch."""

    def check(self) -> None:
        need(self.n_units > 0, "n_units", self.n_units, "give 1 or more")


@dataclass
class StageSettings:
    """What every training script takes."""

    stage: ClassVar[str]  # the script's name without ".py"

    preset: Preset = "paper"
    """Where options that are not given have their values from: the paper; the code released with it; strong, the settings of
    present adversarial training (weight decay 5e-4, batch 128, averaged weights); or stable, with which short runs of NAMID were
    seen to train (alpha 0.1). utils/settings/presets.py has each with its reason."""


@dataclass
class EstimatorSettings(StageSettings):
    """Options that both scripts of stage 2 take."""

    pre_target: Path = Path("runs/standard/best_model.pth")
    """The frozen target: a file of stage 1, or a published checkpoint together with --arch."""
    arch: Arch | None = None
    """The architecture of --pre-target, for a file that does not say it."""
    data: Data = group(Data)
    attack: Attack = group(Attack, num_steps=20)
    estimation: Estimation = group(Estimation)
    run: Run = group(Run, model_dir=Path("runs/estimators"))

    def check(self) -> None:
        for option in ("momentum", "weight_decay"):
            value = getattr(self.training, option)
            need(
                value == getattr(Training, option),
                option,
                value,
                "is of SGD, and stage 2 trains with Adam; leave it out",
            )
