"""Every attack of the tables, by name: ``attack("pgd-40", model, x, y, norm="linf", epsilon=8 / 255)``.

A name is a family, for some families a number of steps, and for pgd a number of starts: ``fgsm``, ``pgd-40``,
``pgd-40x5``, ``fwa-fw-40``. The modules beside this one hold the attacks; this one holds what can be said of them
without PyTorch, so that a command line is read, and a misspelt name refused, before PyTorch is imported.

========  ====================================================================================================
none      the natural image
fgsm      fast gradient (sign) method, Goodfellow et al. 2015
bim       basic iterative method, Kurakin et al. 2017
pgd       projected gradient descent, Madry et al. 2018; pgd-40x5: the best of 5 starts, 4 of them uniform in the ball
mim       momentum iterative method, Dong et al. 2018
tidim     translation-invariant momentum attack with diverse inputs, Dong et al. 2019 and Xie et al. 2019
deepfool  Moosavi-Dezfooli et al. 2016
cw, ddn   Carlini and Wagner 2017; decoupled direction and norm, Rony et al. 2019 (both from advertorch)
sta       spatially transformed adversarial examples, Xiao et al. 2018
fwa       Wasserstein attack by projected gradients, Wu et al. 2020; fwa-fw: by Frank-Wolfe
aa        standard AutoAttack, Croce and Hein 2020: apgd-ce, apgd-t, fab-t, square, each on what the others left
========  ====================================================================================================
"""
from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Family:
    """What the attacks of one family have in common; `kind` and the flags as in Spec."""

    function: str             # dotted path of model, x, y, settings -> x_adv
    kind: str
    steps: int | None = None  # the number of steps where the name says none; None: the name has no say in it
    tabled: bool = True       # the tables write the number of steps into the name, as in pgd-40
    starts: bool = False      # the name may go on with a number of starts, as in pgd-40x5
    norms: tuple[str, ...] = ("linf", "l2")
    random: bool = False
    one_step: bool = False
    black_box: bool = False
    leaves: bool = False      # takes until_fooled: a sample may leave once it has fallen


_HERE = "utils.attacks"
FAMILIES = {
    "none": Family("", "none"),
    "fgsm": Family("utils.attacks.projected_gradient.fgsm", "bounded", one_step=True),
    "bim": Family("utils.attacks.projected_gradient.bim", "bounded", steps=10, tabled=False, leaves=True),
    "pgd": Family(f"{_HERE}.iterative.pgd", "bounded", steps=40, starts=True, random=True, leaves=True),
    "mim": Family(f"{_HERE}.iterative.mim", "bounded", steps=40, tabled=False, leaves=True),
    "tidim": Family(f"{_HERE}.iterative.tidim", "bounded", steps=40, tabled=False, random=True, leaves=True),
    "deepfool": Family(f"{_HERE}.deepfool.deepfool", "minimum-norm", steps=50, tabled=False),
    "cw": Family(f"{_HERE}.cw_ddn.cw", "minimum-norm", steps=20, norms=("l2",)),
    "ddn": Family(f"{_HERE}.cw_ddn.ddn", "minimum-norm", steps=20, norms=("l2",)),
    "sta": Family(f"{_HERE}.spatial.sta", "spatial", steps=100, tabled=False),
    "fwa": Family(f"{_HERE}.wasserstein.projected", "transport", steps=40, norms=("linf",), leaves=True),
    "fwa-fw": Family(f"{_HERE}.wasserstein.frank_wolfe", "transport", steps=40, norms=("linf",), leaves=True),
    "aa": Family(f"{_HERE}.auto.aa", "bounded", random=True),
    "apgd-ce": Family(f"{_HERE}.auto.apgd_ce", "bounded", random=True),
    "apgd-t": Family(f"{_HERE}.auto.apgd_t", "bounded", random=True),
    "fab-t": Family(f"{_HERE}.auto.fab_t", "bounded"),
    "square": Family(f"{_HERE}.auto.square", "bounded", random=True, black_box=True),
}

# What AutoAttack consists of, in its order, each on what the ones before left.
PARTS = {"aa": ("apgd-ce", "apgd-t", "fab-t", "square")}

# Keywords of the attacks' functions that are no settings of a row: what it is run on, and how its work is saved.
UNSAID = {"model", "x", "y", "seed", "generator", "index", "until_fooled", "rounded", "settings"}
# Families whose settings changed before a results file held them (TI-DIM's kernel): a row without settings is made again.
CHANGED = ("tidim",)

# The columns of the paper's Tables 1 to 6.
COLUMNS = {"linf": ["none", "pgd-40", "aa", "fwa-40", "tidim"], "l2": ["none", "pgd-40", "cw-20", "ddn-20"]}

# The same columns as the released script runs them, at Linf 8/255 and L2 0.5: name -> the settings that differ.
RELEASED = {
    "linf": {"none": {}, "pgd-40": {"step_size": 0.007}, "aa": {}, "fwa-40": {"kernel": 4},
             "tidim": {"step_size": 0.007, "decay": 0.1, "enlargement": 1.0}},
    "l2": {"none": {}, "pgd-40": {"step_size": 2 * 0.5 / 40}, "cw-10": {"confidence": 1.0}, "ddn-20": {"levels": 16}},
}


@dataclass(frozen=True)
class Spec:
    """What a name says.

    kind: "none"; "bounded" (stays in the ball of radius epsilon); "minimum-norm" (the smallest perturbation it finds,
    whatever epsilon); "transport" (epsilon is the distance in pixels by which a unit of mass may move on average);
    "spatial" (a smooth flow, without a budget).
    random: draws random numbers, from `seed`. black_box: sees outputs only. norms: those that it exists for. leaves: may
    let a sample go once it has fallen (until_fooled).
    """

    name: str               # as the tables write it: pgd becomes pgd-40, tidim-40 becomes tidim
    family: str
    steps: int | None       # None where the name has no say in it
    restarts: int           # the number of starts, the first included
    kind: str
    random: bool
    norms: tuple[str, ...]
    one_step: bool
    black_box: bool
    leaves: bool


def choices(norm: str | None = None) -> list[str]:
    """The names there are, N for a number, for one norm or for any."""
    names = []
    for name, family in FAMILIES.items():
        if norm is None or norm in family.norms:
            names += [f"{name}-N" if family.steps else name] + [f"{name}-NxSTARTS"] * family.starts
    return names


def parse(name: str, norm: str | None = None) -> Spec:
    """What `name` says. Raises InputError for an unknown name, for a number that does not belong there and, where
    `norm` is given, for a norm that the attack does not exist for."""
    form = re.fullmatch(r"(?P<family>[a-z-]*[a-z])(?:-(?P<steps>[1-9]\d*)(?:x(?P<starts>[1-9]\d*))?)?",
                        name.strip().lower())
    family = FAMILIES.get(form["family"]) if form else None
    if family is None:
        raise InputError(f"--attacks: {name!r} is unknown; choose from {', '.join(choices(norm))}, or linf, l2 or released alone")
    if form["steps"] and family.steps is None:
        raise InputError(f"--attacks: {name!r}: {form['family']} takes no number of steps; write {form['family']}")
    if form["starts"] and not family.starts:
        raise InputError(f"--attacks: {name!r}: {form['family']} takes no number of starts; "
                         f"write {form['family']}-{form['steps']}")
    if norm is not None and norm not in family.norms:
        raise InputError(f"--attacks: {name!r} exists for --norm {' and '.join(family.norms)}, not for {norm}; "
                         f"choose from {', '.join(choices(norm))}")
    steps = int(form["steps"]) if form["steps"] else family.steps
    restarts = int(form["starts"] or 1)
    spelt = form["family"]
    if steps and (family.tabled or steps != family.steps):
        spelt += f"-{steps}"
    if restarts > 1:
        spelt += f"x{restarts}"
    return Spec(spelt, form["family"], steps, restarts, family.kind, family.random, family.norms, family.one_step,
                family.black_box, family.leaves)


def kind_of(name: str) -> str | None:
    """The kind of the attack of that name, None where there is none."""
    try:
        return parse(name).kind
    except InputError:
        return None


def settings_of(name: str, norm: str, epsilon: float, **extra) -> dict:
    """Return the settings that the attack of that name runs with: {keyword of its function: plain value}, the defaults
    included and the random seed left out; {} for "none". A default step of bim, pgd, mim and tidim is epsilon/4.

    Two rows of a results file compare only where these agree. Imports PyTorch.
    """
    spec = parse(name, norm)
    if spec.kind == "none":
        return {}
    parameters = inspect.signature(_function(spec)).parameters.values()
    known = {each.name: each.default for each in parameters if each.default is not each.empty}
    known |= {"norm": norm, "epsilon": epsilon, "steps": spec.steps, "restarts": spec.restarts}
    wanted = {each.name for each in parameters} - UNSAID
    settings = {key: value for key, value in (known | extra).items() if key in wanted}
    if settings.get("step_size", 0) is None:
        settings["step_size"] = epsilon / 4
    return settings


def _function(spec: Spec):
    """Import the attack's function."""
    module, function = FAMILIES[spec.family].function.rsplit(".", 1)
    return getattr(importlib.import_module(module), function)


def attack(name: str, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, norm: str = "linf",
           epsilon: float = 8 / 255, seed: int = 0, **settings) -> torch.Tensor:
    """Adversarial images x~ (N,C,H,W) in [0,1] for the images `x` in [0,1] with labels `y` (N,).

    epsilon: the radius, in pixel units (1 is the whole range), of the ball of `norm`; for a transport attack the
    transport budget in pixels; minimum-norm and spatial attacks have none. seed: for the random attacks; the same seed
    and batch give the same images. settings: further keywords of the attack's function, such as ``step_size``.

    What a bounded or transport attack returns is for the caller to judge. A minimum-norm or spatial attack returns the
    natural image where the network errs on it already and where the attack fails, judged here by the label that the
    network gives to the image that would be returned. The model runs in eval mode; its modes, flags, buffers and
    ``.grad`` and the global random state are afterwards as before. Raises InputError as `parse` does and where the
    attack cannot run on such a network, ValueError for a negative epsilon.
    """
    spec = parse(name, norm)
    if not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon}, and must be at least 0")
    import torch

    from utils.attacks.projected_gradient import frozen

    budgeted = spec.kind in ("bounded", "transport")
    if spec.kind == "none" or x.shape[0] == 0 or (budgeted and epsilon == 0):
        return x.detach().clone()
    run = _function(spec)
    common = {"norm": norm, "epsilon": epsilon, "steps": spec.steps, "restarts": spec.restarts, "seed": seed}
    wanted = inspect.signature(run).parameters
    settings = {key: value for key, value in common.items() if key in wanted} | settings
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        x, y = x.detach().clone(), y.detach().clone()
        x_adv = run(model, x, y, **settings).detach()
        if budgeted:
            return x_adv
        with torch.no_grad():
            succeeds = (model(x).argmax(1) == y) & (model(x_adv).argmax(1) != y)
        return torch.where(succeeds[:, None, None, None], x_adv, x)
