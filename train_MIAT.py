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

With the paper's alpha of 5, short runs of narrow networks collapsed (results/cifar10-small), so
the log has the gradient norm of each part of the loss at the target's outputs. The run's folder
ends with target_model.pth, the best (natural + PGD accuracy)/2 on held-out training images, and
last_model.pth; with --ema, both hold the averaged network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from utils.settings.command_line import parse
from utils.settings.estimators import EstimatorFiles, Selection
from utils.settings.options import (
    Attack,
    Data,
    Fraction,
    Network,
    Run,
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
    """L_mi: the paper's Equation 8, or that of WMIM, which needs only the natural estimator."""
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
    estimators: EstimatorFiles = group(EstimatorFiles)
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
        files = self.estimators
        unused = {"pre_local_a": files.pre_local_a, "pre_global_a": files.pre_global_a}
        unused |= {"lam": self.lam, "without": self.without}
        for option, value in unused.items():
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
        self.weights.check_loss(LOSSES[self.adv_loss])

    def files(self) -> dict[str, Path]:
        """Return {option: path} of the estimators' files: four, or two for wmim."""
        letters = "na" if self.mi_loss == "namid" else "n"
        return self.estimators.paths(ESTIMATOR_DIR[self.mi_loss], letters)


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch

import models
from utils.attacks.projected_gradient import at_least_float32, pgd
from utils.distributed import gather
from utils.mi import patterns
from utils.mi.losses import namid_parts, wmim
from utils.schedules import ramp
from utils.scripts import run_script
from utils.training.collapse import gradient_norms, warnings
from utils.training.estimators import check_estimators, load_estimators
from utils.training.held_out import held_out, held_out_examples
from utils.training.loop import Loop
from utils.training.losses import natural_loss
from utils.training.optimisation import optimisation
from utils.training.stages import Stage, need_files, open_stage
from utils.training.targets import initial_target

LOOKS = 10  # batches of an epoch on which the gradients of the loss's parts are measured


@dataclass(frozen=True)
class Method:
    """Hold the values that Equation 9 uses, except alpha, which may grow."""

    defense: AdversarialLoss  # L_adv
    beta: float
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


def namid(x, x_adv, y, target, estimators, method: Method, alpha: float) -> Objective:
    """Compute L_all of NAMID (Equation 9) for images x, x_adv (N,3,H,W) in [0,1] and labels y (N,).

    Each network runs once per distinct input: the target on x and on x~, in train mode; the local
    networks on the patterns; the global networks on both outputs. The patterns carry no gradient.
    With several processes each has a part of the batch; `gather` collects the parts, and the loss
    is over the whole batch. estimators: {"natural": E_n, "adversarial": E_a}, frozen.
    """
    natural_mi, adversarial_mi = estimators["natural"], estimators["adversarial"]
    labels = gather(y)
    with method.autocast():
        logits, output = target(x, tap=natural_mi.representation)  # h(x)
        logits_adv, output_adv = target(x_adv, tap=natural_mi.representation)  # h(x~)
        logits = gather(at_least_float32(logits))
        logits_adv = gather(at_least_float32(logits_adv))
        selected = patterns.select(logits, logits_adv, labels, method.selection)["W"]  # Eq. 6
        natural = natural_adv = adversarial = adversarial_adv = None
        if method.without != "natural":  # E_n(x; h(x)) and E_n(x; h(x~))
            pattern = patterns.natural(x, x_adv)
            natural, natural_adv = natural_mi.of_outputs(pattern, output, output_adv)
        if method.without != "adversarial":  # E_a(n; h(x)) and E_a(n; h(x~))
            pattern = patterns.adversarial(x, x_adv)
            adversarial, adversarial_adv = adversarial_mi.of_outputs(pattern, output, output_adv)
        terms = namid_parts(
            natural, natural_adv, adversarial, adversarial_adv, selected, method.lam, method.without
        )
        mi_loss = sum(terms.values())  # Eq. 8
    adv_loss = method.defense(logits, logits_adv, labels, method.beta)
    loss = adv_loss + alpha * mi_loss  # Eq. 9
    parts = {"adv": adv_loss, "mi": alpha * mi_loss}
    parts |= {f"mi_{name}": alpha * term for name, term in terms.items()}
    log = {"adv_loss": adv_loss, "mi_loss": mi_loss, "selected": selected.float().mean()}
    log |= {f"mi_{name}": term for name, term in terms.items()}
    return Objective(loss, log, parts, (output, output_adv))


def wmim_baseline(x, x_adv, y, target, estimators, method: Method, alpha: float) -> Objective:
    """Compute L_all of WMIM, L_adv - alpha mean E_s(x~; h(x~)), of images as in `namid`.

    The baseline sees whole adversarial images and one estimator, E_s = estimators["natural"]. The
    target sees x only where L_adv needs h(x).
    """
    standard_mi = estimators["natural"]
    labels, logits, output = gather(y), None, None
    with method.autocast():
        if method.defense.natural_pass:
            logits, output = target(x, tap=standard_mi.representation)
            logits = gather(at_least_float32(logits))
        logits_adv, output_adv = target(x_adv, tap=standard_mi.representation)
        logits_adv = gather(at_least_float32(logits_adv))
        mi_loss = wmim(*standard_mi.of_outputs(x_adv, output_adv))
    adv_loss = method.defense(logits, logits_adv, labels, method.beta)
    loss = adv_loss + alpha * mi_loss
    parts = {"adv": adv_loss, "mi": alpha * mi_loss}
    return Objective(loss, {"adv_loss": adv_loss, "mi_loss": mi_loss}, parts, (output, output_adv))


OBJECTIVES = {"namid": namid, "wmim": wmim_baseline}


def main(settings: Settings) -> None:
    """Check the files that the options name, open the stage and train."""
    inputs = settings.files() | ({"init": settings.init} if settings.init else {})
    need_files(inputs)
    with open_stage(settings.stage, settings, inputs) as stage:
        train(stage, settings)


def train(stage: Stage, settings: Settings) -> None:
    """Train the target, and keep the best and the last model."""
    compute = stage.compute

    target = compute.prepare(initial_target(stage, settings, settings.init)).train()
    bound = settings.estimators.bound
    estimators = load_estimators(settings.files(), target, settings.threat, bound)
    check_estimators(estimators, settings.estimators)
    for estimator in estimators.values():
        compute.prepare(estimator)
        compute.compiled(estimator.local_net)
        compute.compiled(estimator.global_net)
    compute.compiled(target)
    optimizer, perturbation, nets, kept = optimisation(target, settings)

    def evaluate(epoch):
        tap = estimators["natural"].representation
        batches = held_out_examples(kept, stage, settings.attack, settings.training, tap)
        found = held_out(batches, estimators)
        if epoch < settings.warmup_epochs:
            found.pop("score", None)  # a naturally trained network cannot be the best defense
        return found

    def keep(which):
        name = "target_model.pth" if which == "best" else "last_model.pth"
        about = settings.data.about | stage.split | settings.attack.threat_model
        defense = f"{settings.mi_loss}-{settings.adv_loss}"
        models.save(kept, stage.folder.path / name, defense=defense, **about)

    budget, autocast, steps = settings.attack.budget, compute.autocast, len(stage.batches)
    method = Method(
        defense=LOSSES[settings.adv_loss].smoothed(settings.weights.label_smoothing),
        beta=settings.beta,
        lam=settings.lam,
        selection=settings.selection,
        without=settings.without,
        autocast=autocast,
    )
    l_all = OBJECTIVES[settings.mi_loss]  # Eq. 9
    with Loop(stage, nets, optimizer, settings.training, keep, settings.mi_loss.upper()) as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                if epoch < settings.warmup_epochs:
                    loop.step(natural_loss(x, y, target, autocast, method.defense.smoothing))
                    continue
                with autocast():
                    noise = loop.generator  # of the attack's start
                    x_adv = pgd(target, x, y, *budget, method.defense.attack, generator=noise)
                passed = epoch + loop.index / steps - settings.warmup_epochs
                alpha = ramp(settings.alpha, passed, settings.alpha_ramp)
                objective = partial(l_all, x, x_adv, y, target, estimators, method, alpha)
                if perturbation and epoch >= settings.weights.awp_warmup:
                    perturbation.ascend(lambda of=objective: of().loss)
                found = objective()  # with --awp at the moved weights
                if loop.index % -(-steps // LOOKS) == 0:
                    found.log.update(gradient_norms(found.parts, found.outputs))
                loop.step(found.loss, found.log)
            loop.end_of_epoch(evaluate(epoch), warnings)
    print(f"done: {stage.folder.path}/target_model.pth and last_model.pth, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
