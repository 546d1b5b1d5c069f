"""Stage 3: train a target by NAMID, natural-adversarial mutual information-based defense; or by
WMIM, its baseline.

    python train_MIAT.py --estimator-dir runs/estimators --model-dir runs/namid
    python train_MIAT.py --estimator-dir runs/estimators --adv-loss trades --model-dir runs/namid_t
    python train_MIAT.py --estimator-dir runs/estimators --lam 0 --model-dir runs/namid_iii  # (iii)

NAMID minimises L_adv + alpha L_mi (paper, Equations 6, 8 and 9). The last command is ablation (iii)
of Figure 5. E_n and E_a are the frozen estimators of stage 2: they compute the mutual information
of the target's output with the natural pattern x and with the adversarial pattern n = x~ - x. L_mi
moves both kinds of MI of fooled samples towards their values on natural samples. With --mi-loss
wmim, L_mi is minus the MI of whole adversarial images x~ with the target's output, by the natural
estimator of train_MI_estimator_only_max.py.

With the paper's alpha of 5, short runs of narrow networks collapsed (results/cifar10-small). The
log therefore has each part of L_mi and its gradient norm at the target's outputs beside L_adv's. A
warning is printed where the gradient ratio is large or the predictions collapse; --alpha-ramp and
--init make the start gentler. The run's folder ends with target_model.pth, which has the best
(natural + PGD accuracy)/2 on held-out training images, and last_model.pth; with --ema, both hold
the averaged network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from utils.mi.names import estimator_files
from utils.settings.command_line import parse
from utils.settings.options import (
    Attack,
    Bound,
    Count,
    Data,
    Fraction,
    Network,
    Representation,
    Run,
    Selection,
    StageSettings,
    Training,
    Weights,
    group,
    need,
)
from utils.training.registry import LOSSES, AdversarialLoss

ESTIMATOR_DIR = {
    "namid": Path("runs/estimators"),
    "wmim": Path("runs/estimators_max"),
}  # what stage 2 writes
ALPHA = {"namid": 5.0, "wmim": 0.1}  # 5 is the paper's; 0.1 is ours, the paper gives none


@dataclass
class Settings(StageSettings):
    """Options of stage 3."""

    stage = "train_MIAT"

    mi_loss: Literal["namid", "wmim"] = "namid"
    """L_mi: the paper's Equation 8, or the baseline WMIM, which needs the natural estimator alone.
    """
    estimator_dir: Path | None = None
    """The folder of stage 2; when not given runs/estimators, and for wmim runs/estimators_max."""
    pre_local_n: Path | None = None
    """The natural estimator's local network instead of the folder's (this and the three options
    below are the released code's).
    """
    pre_global_n: Path | None = None
    """The natural estimator's global network."""
    pre_local_a: Path | None = None
    """The adversarial estimator's local network."""
    pre_global_a: Path | None = None
    """The adversarial estimator's global network."""
    bound: Bound | None = None
    """The MI bound; when not given the one that the estimators were trained with."""
    n_units: Count = None
    """Units of the estimators, to check the files against; the files name them."""
    representation: Representation | None = None
    """Which output of the target the estimators see, to check the files against; the files name it.
    """
    selection: Selection = "eq6"
    """How samples are selected for L_mi: eq6 (paper, Equation 6) by the largest logit; released
    (the released code) by the largest entry of a softmax over the batch.
    """
    adv_loss: Literal[tuple(LOSSES)] = "ce"
    """L_adv: cross-entropy (NAMID), TRADES (NAMID_T) or MART (NAMID_M)."""
    alpha: Fraction = None
    """Weight of L_mi in Equation 9; when not given 5 (paper), and for wmim 0.1 (ours; the paper
    gives none).
    """
    alpha_ramp: float = 0.0
    """Epochs over which alpha grows linearly from 0, counted after the warm-up; 0: at once."""
    lam: Fraction = None
    """lambda of Equation 8; when not given 0.1 (paper; the released code leaves the term out)."""
    beta: float = 6.0
    """Weight of the regulariser of TRADES and MART (paper: 6)."""
    without: Literal["natural", "adversarial"] | None = None
    """Ablation (Figure 5): train without this kind of MI."""
    warmup_epochs: int = 2
    """Natural epochs before the adversarial ones, within --epochs (released code: 2; the paper
    gives none).
    """
    init: Path | None = None
    """Start from this model file, say a stage-1 target, instead of random weights."""
    data: Data = group(Data)
    network: Network = group(Network)
    attack: Attack = group(Attack)
    training: Training = group(Training)
    weights: Weights = group(Weights)
    run: Run = group(Run, model_dir=Path("runs/namid"))

    def fill_in(self) -> None:
        """Fill in the weights of the loss, which depend on --mi-loss."""
        if self.lam is None:
            self.lam = 0.1 if self.mi_loss == "namid" else 0.0
        if self.alpha is None:
            self.alpha = ALPHA[self.mi_loss]

    def check(self) -> None:
        for option in ("lam", "without", "pre_local_a", "pre_global_a"):
            value = getattr(self, option)
            need(
                self.mi_loss == "namid" or not value,
                option,
                value,
                "applies to NAMID; leave it out with --mi-loss wmim, which needs E_n alone",
            )
        need(self.alpha >= 0, "alpha", self.alpha, "give 0 or more")
        need(self.alpha_ramp >= 0, "alpha_ramp", self.alpha_ramp, "give 0 or more epochs")
        need(self.beta >= 0, "beta", self.beta, "give 0 or more")
        need(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "give 0 or more epochs")
        valid = self.n_units is None or self.n_units > 0
        need(valid, "n_units", self.n_units, "give 1 or more")

    def estimator_files(self) -> dict[str, Path]:
        """Return {option: path} of the estimators' files: four, or two for wmim."""
        folder = self.estimator_dir or ESTIMATOR_DIR[self.mi_loss]
        files = estimator_files(folder, "na" if self.mi_loss == "namid" else "n")
        return {option: getattr(self, option) or path for option, path in files.items()}


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch
import torch.nn.functional as F

import models
from common.errors import InputError
from models.targets import Target
from utils.attacks.projected_gradient import at_least_float32, pgd
from utils.distributed import gather
from utils.mi import patterns
from utils.mi.estimator import MIEstimator
from utils.mi.losses import namid_parts, wmim
from utils.scripts import run_script
from utils.training.collapse import gradient_norm, warnings
from utils.training.estimators import load_estimators
from utils.training.held_out import examples, held_out
from utils.training.loop import Loop
from utils.training.optimisation import optimisation
from utils.training.stages import (
    Stage,
    check_classes,
    check_split,
    check_threat_model,
    need_files,
    open_stage,
)

LOOKS = 10  # how often in an epoch, at most, the gradient of each part of the loss is measured


@dataclass(frozen=True)
class Method:
    """Hold the values that Equation 9 uses in one batch."""

    defense: AdversarialLoss  # L_adv
    beta: float
    alpha: float
    lam: float
    selection: str
    without: str | None
    autocast: Callable  # () -> context in which networks run


class Objective(NamedTuple):
    """Hold L_all of a batch, the values to log, and its weighted parts.

    outputs: the target's outputs at which the parts' gradients are compared.
    """

    loss: torch.Tensor
    log: dict[str, torch.Tensor]
    parts: dict[str, torch.Tensor]
    outputs: tuple[torch.Tensor | None, torch.Tensor]


def natural_loss(x, y, target, autocast) -> torch.Tensor:
    """Compute CE(h(x), y), which the warm-up epochs minimise."""
    with autocast():
        logits = target(x)
    return F.cross_entropy(gather(logits.float()), gather(y))


def namid_objective(x, x_adv, y, target, natural_mi, adversarial_mi, method: Method) -> Objective:
    """Compute L_all of NAMID (Equation 9) for images x, x_adv (N,3,H,W) in [0,1] and labels y (N,).

    Each network runs once per distinct input: the target on x and on x~, in train mode; the local
    networks on the patterns; the global networks on both outputs. The patterns carry no gradient.
    With several processes each has a part of the batch; `gather` collects the parts, and the loss
    is over the whole batch.
    """
    labels = gather(y)
    with method.autocast():
        logits, output = target(x, tap=natural_mi.representation)  # h(x)
        logits_adv, output_adv = target(x_adv, tap=natural_mi.representation)  # h(x~)
        logits = gather(at_least_float32(logits))
        logits_adv = gather(at_least_float32(logits_adv))
        selected = patterns.select(logits, logits_adv, labels, method.selection)["W"]  # Eq. 6
        natural = natural_adv = adversarial = adversarial_adv = None
        if method.without != "natural":  # E_n(x; h(x)) and E_n(x; h(x~))
            natural, natural_adv = mi_of(natural_mi, patterns.natural(x, x_adv), output, output_adv)
        if method.without != "adversarial":  # E_a(n; h(x)) and E_a(n; h(x~))
            pattern = patterns.adversarial(x, x_adv)
            adversarial, adversarial_adv = mi_of(adversarial_mi, pattern, output, output_adv)
        terms = namid_parts(
            natural, natural_adv, adversarial, adversarial_adv, selected, method.lam, method.without
        )
        mi_loss = sum(terms.values())  # Eq. 8
    adv_loss = method.defense(logits, logits_adv, labels, method.beta)
    loss = adv_loss + method.alpha * mi_loss  # Eq. 9
    log = {
        "adv_loss": adv_loss,
        "mi_loss": mi_loss,
        "selected": selected.float().mean(),
        **{f"mi_{name}": term for name, term in terms.items()},
    }
    parts = {
        "adv": adv_loss,
        "mi": method.alpha * mi_loss,
        **{f"mi_{name}": method.alpha * term for name, term in terms.items()},
    }
    return Objective(loss, log, parts, (output, output_adv))


def wmim_objective(x, x_adv, y, target, standard_mi, method: Method) -> Objective:
    """Compute L_all of WMIM, L_adv - alpha mean E_s(x~; h(x~)).

    The baseline sees whole adversarial images and one estimator, E_s. The target sees x only where
    L_adv needs h(x).
    """
    labels, logits, output = gather(y), None, None
    with method.autocast():
        if method.defense.natural_pass:
            logits, output = target(x, tap=standard_mi.representation)
            logits = gather(at_least_float32(logits))
        logits_adv, output_adv = target(x_adv, tap=standard_mi.representation)
        logits_adv = gather(at_least_float32(logits_adv))
        mi_loss = wmim(*mi_of(standard_mi, x_adv, output_adv))
    adv_loss = method.defense(logits, logits_adv, labels, method.beta)
    loss = adv_loss + method.alpha * mi_loss
    parts = {"adv": adv_loss, "mi": method.alpha * mi_loss}
    return Objective(loss, {"adv_loss": adv_loss, "mi_loss": mi_loss}, parts, (output, output_adv))


def mi_of(estimator, pattern, *outputs):
    """Compute the MI of the patterns with each of the target's outputs, (N,) each.

    The patterns carry no gradient. Their encoding, the largest tensor of a step, is freed on
    return.
    """
    with torch.no_grad():
        local = estimator.encode_pattern(pattern)
    # One call: in eval mode samples do not influence each other.
    encoded = estimator.encode_output(torch.cat(outputs))
    return estimator.mi(local, encoded).chunk(len(outputs))


def step(  # noqa: PLR0913
    x,
    y,
    epoch,
    index,
    generator,
    *,
    target,
    natural_mi,
    adversarial_mi,
    settings,
    compute,
    steps_per_epoch,
    perturbation=None,
):
    """Compute the loss of one batch, x (N,3,H,W) in [0,1] and y (N,), and the values to log.

    With weight perturbation the objective is computed twice, the second time at the moved weights.

    Args:
        epoch, index: the epoch and the batch in it, from 0.
        generator: the random numbers of PGD's start.
        target: the network that is trained, in train mode.
        natural_mi, adversarial_mi: E_n and E_a, frozen; for WMIM E_s and None.
        steps_per_epoch: turns `index` into a fraction of an epoch for --alpha-ramp.
    """
    if epoch < settings.warmup_epochs:
        return natural_loss(x, y, target, compute.autocast), {}
    attack, defense = settings.attack, LOSSES[settings.adv_loss]
    with compute.autocast():
        budget = (attack.norm, attack.epsilon, attack.num_steps, attack.step_size)
        x_adv = pgd(target, x, y, *budget, defense.attack, generator=generator)
    alpha = alpha_at(settings, epoch + index / steps_per_epoch)
    method = Method(
        defense=defense,
        beta=settings.beta,
        alpha=alpha,
        lam=settings.lam,
        selection=settings.selection,
        without=settings.without,
        autocast=compute.autocast,
    )
    if settings.mi_loss == "namid":
        objective, estimators = namid_objective, (natural_mi, adversarial_mi)
    else:
        objective, estimators = wmim_objective, (natural_mi,)
    objective = partial(objective, x, x_adv, y, target, *estimators, method)
    if perturbation and epoch >= settings.weights.awp_warmup:
        perturbation.ascend(lambda: objective().loss)
    found = objective()
    if index % -(-steps_per_epoch // LOOKS):
        return found.loss, found.log
    gradients = {
        f"gradient_{name}": gradient_norm(part, found.outputs) for name, part in found.parts.items()
    }
    return found.loss, found.log | gradients


def alpha_at(settings: Settings, epoch: float) -> float:
    """Return alpha after `epoch` epochs, which may be fractional.

    It grows linearly from 0 over --alpha-ramp epochs after the warm-up.
    """
    if settings.alpha_ramp == 0:
        return settings.alpha
    return settings.alpha * min(1.0, max(0.0, epoch - settings.warmup_epochs) / settings.alpha_ramp)


def main(settings: Settings) -> None:
    """Check the files that the options name, open the stage and train."""
    files = settings.estimator_files()
    inputs = dict(files)
    if settings.init:
        inputs["init"] = settings.init
    need_files(inputs)
    with open_stage(settings.stage, settings, inputs) as stage:
        train(stage, settings, files)


def initial_target(stage: Stage, settings: Settings) -> Target:
    """Load the target of --init, or build one with random weights."""
    arch, width = settings.network.arch, settings.network.width
    if not settings.init:
        return models.build(arch, stage.dataset.num_classes, width=width)
    source = f"--init {settings.init}"
    target = models.load(settings.init, arch)
    check_threat_model(source, target.about, settings.threat)
    check_classes(target, stage.dataset, source)
    check_split("--init", settings.init, target.about, stage)
    found = target.options["width"]
    if width not in (None, found):
        raise InputError(f"--width {width}: {source} has width {found}; leave --width out")
    return target


def check_estimators(settings: Settings, estimators: dict[str, MIEstimator]) -> None:
    """Raise InputError where --n-units or --representation differs from the estimators' files."""
    for kind, estimator in estimators.items():
        for option in ("n_units", "representation"):
            asked, found = getattr(settings, option), getattr(estimator, option)
            if asked not in (None, found):
                raise InputError(
                    f"--{option.replace('_', '-')} {asked}: the {kind} estimator's files have "
                    f"{found}; leave the option out"
                )


def train(stage: Stage, settings: Settings, files: dict[str, Path]) -> None:
    """Train the target, and keep the best and the last model."""
    compute = stage.compute

    target = compute.prepare(initial_target(stage, settings)).train()
    estimators = load_estimators(files, target, settings.threat, settings.bound)
    check_estimators(settings, estimators)
    for estimator in estimators.values():
        compute.prepare(estimator)
        compute.compiled(estimator.local_net)
        compute.compiled(estimator.global_net)
    compute.compiled(target)
    optimizer, perturbation, nets, kept = optimisation(target, settings)
    natural_mi, adversarial_mi = estimators["natural"], estimators.get("adversarial")

    def evaluate(epoch):
        images, labels = stage.holdout_images, stage.holdout_labels
        batches = examples(
            kept,
            images,
            labels,
            settings.attack,
            compute,
            natural_mi.representation,
            batch_size=settings.training.batch_size,
            seed=settings.training.seed,
        )
        found = held_out(batches, estimators)
        if epoch < settings.warmup_epochs:
            found.pop("score", None)  # a naturally trained network cannot be the best defense
        return found

    def keep(which):
        name = "target_model.pth" if which == "best" else "last_model.pth"
        about = {"dataset": settings.data.dataset} | stage.split | settings.attack.threat_model
        defense = f"{settings.mi_loss}-{settings.adv_loss}"
        models.save(kept, stage.folder.path / name, defense=defense, **about)

    loss_of = partial(
        step,
        target=target,
        natural_mi=natural_mi,
        adversarial_mi=adversarial_mi,
        settings=settings,
        compute=compute,
        steps_per_epoch=len(stage.batches),
        perturbation=perturbation,
    )
    with Loop(stage, nets, optimizer, settings.training, keep, settings.mi_loss.upper()) as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                loss, log = loss_of(x, y, epoch, loop.index, loop.generator)
                loop.step(loss, log)
            loop.end_of_epoch(evaluate(epoch), warnings)
    print(f"done: {stage.folder.path}/target_model.pth and last_model.pth, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
