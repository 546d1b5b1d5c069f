"""Stage 3: train a target by NAMID, natural-adversarial mutual information-based defense; or by WMIM, its baseline.

    python train_MIAT.py --estimator-dir runs/estimators --model-dir runs/namid
    python train_MIAT.py --estimator-dir runs/estimators --adv-loss trades --model-dir runs/namid_t
    python train_MIAT.py --estimator-dir runs/estimators --lam 0 --model-dir runs/namid_iii       # ablation (iii), Figure 5

Minimises L_adv + alpha L_mi (paper, Equations 6, 8 and 9). E_n and E_a are the estimators of stage 2, frozen: the mutual
information of the target's output with the natural pattern x and with the adversarial pattern n = x~ - x. L_mi pulls both
kinds of MI of the samples that the attack turned wrong towards what they are for the natural samples. With --mi-loss wmim,
L_mi is minus the MI of whole adversarial images x~ with the target's output, by the natural estimator of
train_MI_estimator_only_max.py.

With alpha as large as the paper's 5, short runs of narrow networks were seen to collapse (results/cifar10-small): the record
therefore shows each part of L_mi and its gradient at the target's outputs beside L_adv's, a warning is printed where the MI part
dominates or the predictions collapse, and --alpha-ramp and --init make a gentler beginning. The folder ends with
target_model.pth, best (natural + PGD accuracy)/2 on held-out training images, and last_model.pth; with --ema, both of the
averaged network.
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

ESTIMATOR_DIR = {
    "namid": Path("runs/estimators"),
    "wmim": Path("runs/estimators_max"),
}  # what stage 2 writes
ALPHA = {"namid": 5.0, "wmim": 0.1}  # the paper's; ours, for the paper names none


@dataclass
class Settings(StageSettings):
    """Options of stage 3."""

    stage = "train_MIAT"

    mi_loss: Literal["namid", "wmim"] = "namid"
    """L_mi: the paper's Equation 8, or that of its baseline WMIM, which needs the natural estimator alone."""
    estimator_dir: Path | None = None
    """The folder of stage 2; when not given runs/estimators, and for wmim runs/estimators_max."""
    pre_local_n: Path | None = None
    """The natural estimator's local network, in place of the folder's (also the three below: the released code's options)."""
    pre_global_n: Path | None = None
    """The natural estimator's global network."""
    pre_local_a: Path | None = None
    """The adversarial estimator's local network."""
    pre_global_a: Path | None = None
    """The adversarial estimator's global network."""
    bound: Bound | None = None
    """The MI bound; the one that the estimators were trained with when not given."""
    n_units: Count = None
    """Units of the estimators: to check the files against; they say it themselves."""
    representation: Representation | None = None
    """What the estimators see of the target: to check the files against; they say it themselves."""
    selection: Selection = "eq6"
    """Which samples L_mi is taken over: eq6 (paper, Equation 6) goes by the largest logit; released (the released code) by the
    largest entry of a softmax over the batch."""
    adv_loss: Literal["ce", "trades", "mart"] = "ce"
    """L_adv: cross-entropy (NAMID), TRADES (NAMID_T) or MART (NAMID_M)."""
    alpha: Fraction = None
    """Weight of L_mi in Equation 9; when not given 5 (paper), and for wmim 0.1 (ours; the paper names none)."""
    alpha_ramp: float = 0.0
    """Epochs over which alpha grows linearly from 0, counted after the warm-up; 0: at once."""
    lam: Fraction = None
    """lambda of Equation 8; 0.1 when not given (paper; the released code leaves the term out)."""
    beta: float = 6.0
    """Weight of the regulariser of TRADES and MART (paper: 6)."""
    without: Literal["natural", "adversarial"] | None = None
    """Ablation (Figure 5): train without this kind of MI."""
    warmup_epochs: int = 2
    """Natural epochs before the adversarial ones, within --epochs (released code: 2; the paper names none)."""
    init: Path | None = None
    """Start from this model file, say a stage-1 target, in place of random weights."""
    data: Data = group(Data)
    network: Network = group(Network)
    attack: Attack = group(Attack)
    training: Training = group(Training)
    weights: Weights = group(Weights)
    run: Run = group(Run, model_dir=Path("runs/namid"))

    def check(self) -> None:
        if self.mi_loss == "wmim":
            for option in ("lam", "without", "pre_local_a", "pre_global_a"):
                need(
                    not getattr(self, option),
                    option,
                    getattr(self, option),
                    "is of NAMID; leave it out with --mi-loss wmim, which takes the natural estimator as it is",
                )
            self.lam = 0.0
        self.lam = 0.1 if self.lam is None else self.lam
        self.alpha = ALPHA[self.mi_loss] if self.alpha is None else self.alpha
        need(self.alpha >= 0, "alpha", self.alpha, "give 0 or more")
        need(self.alpha_ramp >= 0, "alpha_ramp", self.alpha_ramp, "give 0 or more epochs")
        need(self.beta >= 0, "beta", self.beta, "give 0 or more")
        need(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "give 0 or more epochs")
        need(self.n_units is None or self.n_units > 0, "n_units", self.n_units, "give 1 or more")

    def estimator_files(self) -> dict[str, Path]:
        """The files of the estimators, four or the natural one's two, by their options."""
        files = estimator_files(
            self.estimator_dir or ESTIMATOR_DIR[self.mi_loss],
            "na" if self.mi_loss == "namid" else "n",
        )
        return {option: getattr(self, option) or path for option, path in files.items()}


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch
import torch.nn.functional as F

import models
from common.errors import InputError
from utils import distributed
from utils.attacks.projected_gradient import at_least_float32, pgd
from utils.distributed import gather
from utils.mi import patterns
from utils.mi.losses import namid_parts, wmim
from utils.scripts import run_script
from utils.training.estimators import load_estimators
from utils.training.held_out import examples, held_out
from utils.training.loop import Loop
from utils.training.losses import LOSSES, AdversarialLoss
from utils.training.optimisation import optimisation
from utils.training.stages import (
    Stage,
    check_classes,
    check_split,
    check_threat_model,
    need_files,
    open_stage,
)

LOOKS = 10  # steps of an epoch, at most, whose gradients are measured part by part
# How many times L_adv's gradient alpha L_mi's may be before a warning: in results/cifar10-small it was 0.7 to 1.9 times in
# the run that learned and 4.6 times in the first adversarial epoch of the one that collapsed.
DOMINANT = 3
COLLAPSED = 0.9  # the share of held-out images with one same predicted label that draws a warning


@dataclass(frozen=True)
class Method:
    """The values that Equation 9 takes in one batch."""

    defense: AdversarialLoss  # L_adv
    beta: float
    alpha: float
    lam: float
    selection: str
    without: str | None
    autocast: Callable  # () -> the context in which networks run


class Objective(NamedTuple):
    """L_all of a batch, what the log shows of it, its weighted parts, and the target's outputs at which they pull."""

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

    Each network runs once per distinct input: the target on x and on x~, in train mode; the local networks on the patterns;
    the global networks on both outputs. The patterns carry no gradient. `gather`: where several processes share the batch,
    each has a part of it here, and the loss is over all of it.
    """
    labels = gather(y)
    with method.autocast():
        logits, output = target(x, tap=natural_mi.representation)  # h(x)
        logits_adv, output_adv = target(x_adv, tap=natural_mi.representation)  # h(x~)
        logits, logits_adv = gather(at_least_float32(logits)), gather(at_least_float32(logits_adv))
        selected = patterns.select(logits, logits_adv, labels, method.selection)["W"]  # Eq. 6
        natural = natural_adv = adversarial = adversarial_adv = None
        if method.without != "natural":  # E_n(x; h(x)) and E_n(x; h(x~))
            natural, natural_adv = mi_of(natural_mi, patterns.natural(x, x_adv), output, output_adv)
        if method.without != "adversarial":  # E_a(n; h(x)) and E_a(n; h(x~))
            adversarial, adversarial_adv = mi_of(
                adversarial_mi, patterns.adversarial(x, x_adv), output, output_adv
            )
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
    """Compute L_all of WMIM, L_adv - alpha mean E_s(x~; h(x~)): the baseline sees whole adversarial images and one estimator.
    The target sees x only where L_adv does."""
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
    """Compute the MI of the patterns with each of the outputs of the target, (N,) each. The patterns carry no gradient, and
    their encoding, the largest tensor of a step, is gone when this returns."""
    with torch.no_grad():
        local = estimator.encode_pattern(pattern)
    encoded = estimator.encode_output(
        torch.cat(outputs)
    )  # at once: in eval mode samples do not touch each other
    return estimator.mi(local, encoded).chunk(len(outputs))


def step(
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
    """Compute the loss of one batch, x (N,3,H,W) in [0,1] and y (N,), and what the log shows of it. With weight perturbation the
    objective is computed twice, the second time at the moved weights. For WMIM, natural_mi is its E_s."""
    if epoch < settings.warmup_epochs:
        return natural_loss(x, y, target, compute.autocast), {}
    attack, defense = settings.attack, LOSSES[settings.adv_loss]
    with compute.autocast():
        x_adv = pgd(
            target,
            x,
            y,
            attack.norm,
            attack.epsilon,
            attack.num_steps,
            attack.step_size,
            defense.attack,
            generator=generator,
        )
    alpha = alpha_at(settings, epoch + index / steps_per_epoch)
    method = Method(
        defense,
        settings.beta,
        alpha,
        settings.lam,
        settings.selection,
        settings.without,
        compute.autocast,
    )
    if settings.mi_loss == "namid":
        objective = partial(
            namid_objective, x, x_adv, y, target, natural_mi, adversarial_mi, method
        )
    else:
        objective = partial(wmim_objective, x, x_adv, y, target, natural_mi, method)
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
    """Return alpha after `epoch` epochs, a whole or broken number: linear from 0 over --alpha-ramp epochs after the warm-up."""
    if settings.alpha_ramp == 0:
        return settings.alpha
    return settings.alpha * min(1.0, max(0.0, epoch - settings.warmup_epochs) / settings.alpha_ramp)


def gradient_norm(loss: torch.Tensor, outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Compute the Euclidean norm of the gradient of `loss` in the target's natural and adversarial outputs together."""
    if not loss.requires_grad:
        return torch.zeros_like(loss)
    outputs = [output for output in outputs if output is not None]
    gradients = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
    square = sum(
        at_least_float32(gradient).square().sum() for gradient in gradients if gradient is not None
    )
    return distributed.add(square).sqrt() / distributed.count()


def warnings(row: dict) -> list[str]:
    """Say what is suspect in a row of the log."""
    found = []
    ratio = row.get("gradient_mi", 0) / max(row.get("gradient_adv", 1), 1e-12)
    if ratio > DOMINANT:
        found.append(
            f"alpha L_mi pulls {ratio:.1f} times as hard at the target's outputs as L_adv; "
            "a smaller --alpha or an --alpha-ramp keeps the classification in charge"
        )
    if row.get("largest_class", 0) > COLLAPSED:
        found.append(
            f"{100 * row['largest_class']:.0f}% of the held-out images get one same label: the logits have collapsed; "
            "a smaller --alpha, --lam 0, an --alpha-ramp or --init may help"
        )
    return found


def main(settings: Settings) -> None:
    files = settings.estimator_files()
    inputs = files | ({"init": settings.init} if settings.init else {})
    need_files(inputs)
    with open_stage(settings.stage, settings, inputs) as stage:
        train(stage, settings, files)


def train(stage: Stage, settings: Settings, files: dict[str, Path]) -> None:
    compute = stage.compute

    if settings.init:
        target = models.load(settings.init, settings.network.arch)
        check_threat_model(f"--init {settings.init}", target.about, settings)
        check_classes(target, stage.dataset, f"--init {settings.init}")
        check_split("--init", settings.init, target.about, stage)
        if settings.network.width not in (None, target.options["width"]):
            raise InputError(
                f"--width {settings.network.width}: --init {settings.init} has width {target.options['width']}; "
                "leave --width out"
            )
    else:
        target = models.build(
            settings.network.arch, stage.dataset.num_classes, width=settings.network.width
        )
    target = compute.prepare(target).train()
    estimators = load_estimators(files, settings, target, settings.bound)
    for kind, estimator in estimators.items():
        for option in ("n_units", "representation"):
            asked, found = getattr(settings, option), getattr(estimator, option)
            if asked not in (None, found):
                raise InputError(
                    f"--{option.replace('_', '-')} {asked}: the {kind} estimator's files have {found}; "
                    "leave the option out"
                )
        compute.prepare(estimator)
        for net in (estimator.local_net, estimator.global_net):
            compute.compiled(net)
    compute.compiled(target)
    optimizer, perturbation, nets, kept = optimisation(target, settings)

    def evaluate(epoch):
        found = held_out(
            examples(
                kept,
                stage.holdout_images,
                stage.holdout_labels,
                settings,
                compute,
                estimators["natural"].representation,
            ),
            estimators,
        )
        if epoch < settings.warmup_epochs:
            found.pop(
                "score", None
            )  # what was trained naturally so far is not the best of a defense
        return found

    def keep(which):
        models.save(
            kept,
            stage.folder.path / ("target_model.pth" if which == "best" else "last_model.pth"),
            defense=f"{settings.mi_loss}-{settings.adv_loss}",
            dataset=settings.data.dataset,
            **stage.split,
            **settings.attack.threat_model,
        )

    natural_mi, adversarial_mi = estimators["natural"], estimators.get("adversarial")
    with Loop(stage, nets, optimizer, settings.training, keep, settings.mi_loss.upper()) as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                loss, log = step(
                    x,
                    y,
                    epoch,
                    loop.index,
                    loop.generator,
                    target=target,
                    natural_mi=natural_mi,
                    adversarial_mi=adversarial_mi,
                    settings=settings,
                    compute=compute,
                    steps_per_epoch=len(stage.batches),
                    perturbation=perturbation,
                )
                loop.step(loss, log)
            loop.end_of_epoch(evaluate(epoch), warnings)
    print(f"done: {stage.folder.path}/target_model.pth and last_model.pth, metrics.csv, curves.png")


if __name__ == "__main__":
    run_script(main, settings)
