"""The natural and the adversarial MI estimator: trained against a frozen target (stage 2), and loaded again (stage 3).

Both scripts of stage 2 build, step, evaluate and save with these functions; what differs between them is the objective.
"""

from collections.abc import Callable
from pathlib import Path

import torch

import models
from common.errors import InputError
from models import mi
from utils.attacks.projected_gradient import at_least_float32, frozen, pgd
from utils.distributed import gather
from utils.mi import patterns
from utils.mi.estimator import MIEstimator
from utils.training.held_out import examples, held_out
from utils.training.stages import Stage, check_classes, check_threat_model

FILES = {
    "natural": "n",
    "adversarial": "a",
}  # local_n_model.pth, global_n_model.pth, local_a_model.pth, global_a_model.pth


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
    objectives,
    settings,
    compute,
    compare=True,
):
    """Compute the loss of one batch, x (N,3,H,W) in [0,1] and y (N,), and what the log shows of it.

    objectives: {"natural", "adversarial": (a, b, masks) -> scalar} (utils/mi/losses.py). a: an estimator's value on its own kind
    of sample, b: on the other, both (N,); masks: C, R, W and "fooled". compare=False: the objectives do not use b, the
    estimators do not see the other kind of sample, and b is None.

    The target runs without gradients, once per distinct input; each estimator network runs once per distinct input, the
    natural and the adversarial outputs in passes of their own, for its batch norm is in train mode.
    """
    attack, representation = settings.attack, settings.estimation.representation
    with compute.autocast():
        x_adv = pgd(
            target,
            x,
            y,
            attack.norm,
            attack.epsilon,
            attack.num_steps,
            attack.step_size,
            generator=generator,
        )
        with frozen(target), torch.no_grad():
            logits, output = target(x, tap=representation)
            logits_adv, output_adv = target(x_adv, tap=representation)
        logits, logits_adv, labels = (
            gather(at_least_float32(logits)),
            gather(at_least_float32(logits_adv)),
            gather(y),
        )
        masks = patterns.select(logits, logits_adv, labels, settings.estimation.selection)
        natural = own_and_other(
            natural_mi, patterns.natural(x, x_adv), output, output_adv if compare else None
        )
        adversarial = own_and_other(
            adversarial_mi, patterns.adversarial(x, x_adv), output_adv, output if compare else None
        )
    loss_n = objectives["natural"](*natural, masks)
    loss_a = objectives["adversarial"](*adversarial, masks)
    return loss_n + loss_a, {"natural_loss": loss_n, "adversarial_loss": loss_a}


def own_and_other(estimator, pattern, own, other):
    """Compute an estimator's MI values (N,) of the patterns with the outputs of its own kind of sample and, unless `other` is
    None, with those of the other kind; None for the latter otherwise."""
    local = estimator.encode_pattern(pattern)
    if other is None:
        return estimator.mi(local, estimator.encode_output(own)), None
    encoded = torch.cat([estimator.encode_output(own), estimator.encode_output(other)])
    return estimator.mi(local, encoded).chunk(
        2
    )  # one call: the patterns are copied to float32 once


def build(
    stage: Stage, settings
) -> tuple[torch.nn.Module, dict[str, MIEstimator], torch.optim.Optimizer]:
    """Build what stage 2 trains: the frozen target of --pre-target, {"natural": E_n, "adversarial": E_a}, and their Adam."""
    compute, estimation = stage.compute, settings.estimation
    target = compute.prepare(models.load(settings.pre_target, settings.arch))
    check_threat_model(f"--pre-target {settings.pre_target}", target.about, settings)
    check_classes(target, stage.dataset, f"--pre-target {settings.pre_target}")
    channels, nets = target.tap_channels[estimation.representation], {}
    for kind in FILES:
        global_net = mi.global_net(estimation.representation, channels, estimation.n_units)
        estimator = MIEstimator(
            mi.LocalNet(estimation.n_units), global_net, estimation.bound, estimation.scale_scores
        )
        nets[kind] = compute.prepare(estimator).train()
    compute.compiled(target)
    parameters = [parameter for net in nets.values() for parameter in net.parameters()]
    return target, nets, torch.optim.Adam(parameters, settings.training.lr, fused=True)


def evaluation(
    stage: Stage, settings, target: torch.nn.Module, nets: dict[str, MIEstimator]
) -> Callable[[], dict]:
    """Return a function that measures accuracies and MI on the held-out images. The target is frozen: its adversarial images are
    made once."""
    held = []

    def evaluate():
        if not held:
            held.extend(
                examples(
                    target,
                    stage.held_images,
                    stage.held_labels,
                    settings,
                    stage.compute,
                    settings.estimation.representation,
                )
            )
        values = held_out(held, nets)
        values.pop(
            "score", None
        )  # no epoch of the estimators is better than another: the last is kept
        return values

    return evaluate


def save(stage: Stage, settings, nets: dict[str, MIEstimator]) -> None:
    """Write the four files of both estimators into the run's folder."""
    estimation = settings.estimation
    for kind, letter in FILES.items():
        about = {
            "pattern": kind,
            "bound": estimation.bound,
            "scaled": estimation.scale_scores,
            "representation": estimation.representation,
            "dataset": settings.data.dataset,
            **settings.attack.threat_model,
        }
        mi.save_net(nets[kind].local_net, stage.folder.path / f"local_{letter}_model.pth", **about)
        mi.save_net(
            nets[kind].global_net, stage.folder.path / f"global_{letter}_model.pth", **about
        )


def check_make(nets: dict[Path, torch.nn.Module], bound: str | None) -> None:
    """InputError where files of estimators say that they were made with different bounds (unless `bound` is given, which is
    taken instead), scalings or representations: they do not belong together. nets: {path: network}."""
    facts = {"scaled": "--scale-scores", "representation": "--representation"} | (
        {} if bound else {"bound": "--bound"}
    )
    for name, option in facts.items():
        said = {path: net.about.get(name, getattr(net, name, None)) for path, net in nets.items()}
        said = {path: value for path, value in said.items() if value is not None}
        (first, value), *others = said.items() or [(None, None)]
        for path, other in others:
            if other != value:
                raise InputError(
                    f"{path}: was made with {option} {other}, and {first} with {value}; the files of one run of "
                    "stage 2 are needed"
                )


def load_estimators(
    paths: dict[str, Path], settings, target: torch.nn.Module, bound: str | None
) -> dict[str, MIEstimator]:
    """{"natural": E_n, "adversarial": E_a}, frozen and in eval mode, from the files of stage 2 or the released code's.

    paths: {"pre_local_n": ..., "pre_global_n": ..., "pre_local_a": ..., "pre_global_a": ...}, or one estimator's two. bound:
    None takes the one that the files name, dv where they name none. Raises InputError where a file is no such network, where
    the files do not fit each other or the target's outputs, or were made under another threat model.
    """
    estimators, nets = {}, {}
    for kind, letter in FILES.items():
        if f"pre_local_{letter}" not in paths:
            continue
        local_path, global_path = paths[f"pre_local_{letter}"], paths[f"pre_global_{letter}"]
        local_net, global_net = mi.load_net(local_path), mi.load_net(global_path)
        nets |= {local_path: local_net, global_path: global_net}
        check_make(nets, bound)
        for path, net, local in ((local_path, local_net, True), (global_path, global_net, False)):
            if isinstance(net, mi.LocalNet) != local:
                raise InputError(
                    f"{path}: holds a {'global' if local else 'local'} network; a "
                    f"{'local' if local else 'global'} one is needed here"
                )
            if net.about.get("pattern", kind) != kind:
                raise InputError(
                    f"{path}: belongs to the {net.about['pattern']} estimator; "
                    f"a file of the {kind} one is needed here"
                )
            check_threat_model(str(path), net.about, settings)
        if local_net.options["n_units"] != global_net.options["n_units"]:
            raise InputError(
                f"{global_path}: has {global_net.options['n_units']} units and {local_path} has "
                f"{local_net.options['n_units']}; two networks of one estimator are needed"
            )
        wanted = target.tap_channels[global_net.representation]
        if global_net.options["n_inputs"] != wanted:
            raise InputError(
                f"{global_path}: takes {global_net.options['n_inputs']} {global_net.representation} channels, "
                f"but the target has {wanted}; train the estimators on a target of this architecture"
            )
        estimators[kind] = MIEstimator(
            local_net,
            global_net,
            bound or global_net.about.get("bound", "dv"),
            global_net.about.get("scaled", False),
        )
        estimators[kind].eval().requires_grad_(False)
    return estimators
