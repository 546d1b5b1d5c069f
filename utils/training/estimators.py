"""Build, train, save and load the natural and the adversarial MI estimator.

Both scripts of stage 2 use these functions; they differ in the objective. Stage 3 loads the
estimators.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

import models
from common.errors import InputError
from models import mi
from models.targets import Target
from utils.attacks.projected_gradient import at_least_float32, frozen
from utils.distributed import gather
from utils.mi import patterns
from utils.mi.estimator import MIEstimator
from utils.mi.values import Examples
from utils.settings.estimators import EstimatorFiles
from utils.training.held_out import held_out, held_out_examples
from utils.training.stages import Stage, check_classes, check_threat_model
from utils.training.targets import warn_of_inputs

# The letter in local_n_model.pth, global_n_model.pth, local_a_model.pth, global_a_model.pth.
FILES = {"natural": "n", "adversarial": "a"}


class Values(NamedTuple):
    """Hold the MI values of a batch.

    natural, adversarial: (a, b) of E_n and of E_a; a is the estimator's value on its own kind of
    sample, b on the other kind, (N,) each. masks: the sets C, R, W and "fooled", (N,) each.
    """

    natural: tuple[torch.Tensor, torch.Tensor | None]
    adversarial: tuple[torch.Tensor, torch.Tensor | None]
    masks: dict[str, torch.Tensor]


def batch_values(
    x, x_adv, y, target, nets: dict[str, MIEstimator], selection: str, compare: bool = True
) -> Values:
    """Compute what both estimators say about one batch in stage 2.

    Each network runs once per distinct input. The natural and the adversarial outputs have separate
    passes of the global networks, because their batch norm is in train mode.

    Args:
        x, x_adv: images and adversarial images (N,3,H,W) in [0,1].
        y: labels (N,).
        target: the frozen target. It runs without gradients.
        nets: {"natural": E_n, "adversarial": E_a}.
        selection: how samples are selected, one of `utils.mi.names.SELECTIONS`.
        compare: False: the estimators do not see the other kind of sample, and b is None.
    """
    natural_mi, adversarial_mi = nets["natural"], nets["adversarial"]
    with frozen(target), torch.no_grad():
        logits, output = target(x, tap=natural_mi.representation)
        logits_adv, output_adv = target(x_adv, tap=natural_mi.representation)
    logits, logits_adv = gather(at_least_float32(logits)), gather(at_least_float32(logits_adv))
    masks = patterns.select(logits, logits_adv, gather(y), selection)
    pattern, other = patterns.natural(x, x_adv), output_adv if compare else None
    natural = own_and_other(natural_mi, pattern, output, other)
    pattern, other = patterns.adversarial(x, x_adv), output if compare else None
    adversarial = own_and_other(adversarial_mi, pattern, output_adv, other)
    return Values(natural, adversarial, masks)


def own_and_other(estimator, pattern, own, other):
    """Compute an estimator's MI values, (N,) each, of the patterns with the outputs `own` and
    `other`.

    `own` are the outputs of the estimator's own kind of sample, `other` those of the other kind.
    The second value is None where `other` is None.
    """
    local = estimator.encode_pattern(pattern)
    if other is None:
        return estimator.mi(local, estimator.encode_output(own)), None
    encoded = torch.cat([estimator.encode_output(own), estimator.encode_output(other)])
    # One call, so that the patterns are copied to float32 once.
    return estimator.mi(local, encoded).chunk(2)


def build(stage: Stage, settings) -> tuple[Target, dict[str, MIEstimator], torch.optim.Optimizer]:
    """Build what stage 2 needs.

    Returns the frozen target of --pre-target, {"natural": E_n, "adversarial": E_a}, and their Adam.
    """
    compute, estimation = stage.compute, settings.estimation
    normalisation = settings.inputs.normalisation
    target = models.load(settings.pre_target, settings.arch, normalisation=normalisation)
    target = compute.prepare(target)
    check_threat_model(f"--pre-target {settings.pre_target}", target.about, settings.threat)
    check_classes(target, stage.dataset, f"--pre-target {settings.pre_target}")
    warn_of_inputs(f"--pre-target {settings.pre_target}", target, normalisation, stage)
    channels = target.tap_channels[estimation.representation]
    nets: dict[str, MIEstimator] = {}
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
    """Return a function that measures accuracies and MI on the held-out images.

    The target is frozen, so its adversarial images are made once.
    """
    batches: list[Examples] = []
    representation = settings.estimation.representation

    def evaluate():
        if not batches:
            found = held_out_examples(
                target, stage, settings.attack, settings.training, representation
            )
            batches.extend(found)
        values = held_out(batches, nets)
        values.pop("score", None)  # epochs of the estimators have no ranking: the last is kept
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


def check_make(nets: dict[Path, mi.LocalNet | mi.OutputNet], bound: str | None) -> None:
    """Raise InputError where estimator files disagree on bound, scaling or representation.

    Such files do not belong together. nets: {path: network}; bound: overrides the files' bound,
    which is then not compared.
    """
    facts = {"scaled": "--scale-scores", "representation": "--representation"}
    if not bound:
        facts["bound"] = "--bound"
    for name, option in facts.items():
        values = {path: net.about.get(name, getattr(net, name, None)) for path, net in nets.items()}
        values = {path: value for path, value in values.items() if value is not None}
        (first, value), *others = values.items() or [(None, None)]
        for path, other in others:
            if other != value:
                raise InputError(
                    f"{path}: was trained with {option} {other}, and {first} with {value}; "
                    "give the files of one run of stage 2"
                )


def load_estimators(
    paths: dict[str, Path], target: torch.nn.Module, threat: dict, bound: str | None
) -> dict[str, MIEstimator]:
    """Load {"natural": E_n, "adversarial": E_a}, frozen and in eval mode, from files.

    The files are those of stage 2 or of the released code. Raises InputError where a file holds
    another network, where the files do not fit each other or the target's outputs, or where they
    were made under another threat model.

    Args:
        paths: {"pre_local_n": ..., "pre_global_n": ..., "pre_local_a": ..., "pre_global_a": ...},
            or the two of one estimator.
        target: the network whose outputs the estimators see.
        threat: {"norm", "epsilon", "dataset"} that the files must agree with.
        bound: the MI bound; None: the one that the files name, dv where they name none.
    """
    estimators: dict[str, MIEstimator] = {}
    nets: dict[Path, mi.LocalNet | mi.OutputNet] = {}
    for kind, letter in FILES.items():
        if f"pre_local_{letter}" not in paths:
            continue
        local_path, global_path = paths[f"pre_local_{letter}"], paths[f"pre_global_{letter}"]
        local_net, global_net = mi.load_net(local_path), mi.load_net(global_path)
        nets |= {local_path: local_net, global_path: global_net}
        check_make(nets, bound)
        _check_role(local_path, local_net, kind, "local")
        check_threat_model(str(local_path), local_net.about, threat)
        _check_role(global_path, global_net, kind, "global")
        check_threat_model(str(global_path), global_net.about, threat)
        assert isinstance(local_net, mi.LocalNet) and isinstance(global_net, mi.OutputNet)
        _check_sizes(local_path, local_net, global_path, global_net, target)
        about = global_net.about
        estimators[kind] = MIEstimator(
            local_net, global_net, bound or about.get("bound", "dv"), about.get("scaled", False)
        )
        estimators[kind].eval().requires_grad_(False)
    return estimators


def check_estimators(estimators: dict[str, MIEstimator], asked: EstimatorFiles) -> None:
    """Raise InputError where --n-units or --representation differs from the estimators' files."""
    for kind, estimator in estimators.items():
        for option in ("n_units", "representation"):
            value, found = getattr(asked, option), getattr(estimator, option)
            if value not in (None, found):
                raise InputError(
                    f"--{option.replace('_', '-')} {value}: the {kind} estimator's files have "
                    f"{found}; leave the option out"
                )


def _check_role(path: Path, net: mi.LocalNet | mi.OutputNet, kind: str, role: str) -> None:
    """Raise InputError unless `net` has the `role` ("local", "global") in the `kind` estimator."""
    found = "local" if isinstance(net, mi.LocalNet) else "global"
    if found != role:
        raise InputError(f"{path}: holds a {found} network; give a {role} one")
    pattern = net.about.get("pattern", kind)
    if pattern != kind:
        raise InputError(
            f"{path}: belongs to the {pattern} estimator; give a file of the {kind} one"
        )


def _check_sizes(local_path, local_net, global_path, global_net, target) -> None:
    """Raise InputError where two networks do not fit each other or the target's outputs."""
    n_units, local_units = global_net.options["n_units"], local_net.options["n_units"]
    if local_units != n_units:
        raise InputError(
            f"{global_path}: has {n_units} units and {local_path} has {local_units}; "
            "give two networks of one estimator"
        )
    n_inputs, representation = global_net.options["n_inputs"], global_net.representation
    channels = target.tap_channels[representation]
    if n_inputs != channels:
        raise InputError(
            f"{global_path}: takes {n_inputs} {representation} channels, but the target has "
            f"{channels}; train the estimators on a target of this architecture"
        )
