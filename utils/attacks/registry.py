"""Every attack of the tables, by name: ``attack("pgd-40", model, x, y, norm="linf", epsilon=8 /
255)``.

A name is a family, for some families a number of steps, and for pgd a number of starts: ``fgsm``,
``pgd-40``, ``pgd-40x5``, ``fwa-fw-40``. The modules beside this one hold the attacks; this one
holds what is known of them without PyTorch, so that the command line is read before its import.

========  =========================================================================================
none      the natural image
fgsm      fast gradient (sign) method, Goodfellow et al. 2015
bim       basic iterative method, Kurakin et al. 2017
pgd       projected gradient descent, Madry et al. 2018; pgd-40x5: the best of 5 starts;
          pgd-margin: on the margin of the logits instead of the cross-entropy
mi        PGD on cross-entropy plus a defense's MI estimators, ours; mi-values: on these alone
mim       momentum iterative method, Dong et al. 2018
tidim     translation-invariant momentum attack, Dong et al. 2019; diverse inputs, Xie et al. 2019
deepfool  Moosavi-Dezfooli et al. 2016
cw, ddn   Carlini and Wagner 2017; decoupled direction and norm, Rony et al. 2019 (advertorch's)
sta       spatially transformed adversarial examples, Xiao et al. 2018
fwa       Wasserstein attack by projected gradients, Wu et al. 2020; fwa-fw: by Frank-Wolfe
aa        standard AutoAttack, Croce and Hein 2020: apgd-ce, apgd-t, fab-t, square
aa-rand   AutoAttack for random networks: apgd-ce and apgd-dlr, gradients averaged over 20 draws
grey      each pixel moved towards 1/2: from Linf 1/2 on all images can be made the same
========  =========================================================================================
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from common.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Family:
    """State what is known of the attacks of one family.

    kind: "none"; "bounded" (in the ball of radius epsilon); "minimum-norm" (the smallest
    perturbation found); "transport" (epsilon: the distance in pixels that a unit of mass may move
    on average); "spatial" (a smooth flow, without a budget).
    """

    function: str  # dotted path of model, x, y, settings -> x_adv
    kind: str
    norms: tuple[str, ...] = ("linf", "l2")  # those that it exists for
    label: str = ""  # in tables and figures, {steps} filled in; the name where there is none
    steps: int | None = None  # where the name says none; None: the name takes no number
    tabled: bool = True  # the tables write the number of steps into the name, as in pgd-40
    starts: bool = False  # the name may end with a number of starts, as in pgd-40x5
    # What it sees and draws.
    random: bool = False  # draws random numbers, from `seed`
    black_box: bool = False  # sees outputs only
    one_step: bool = False
    parts: tuple[str, ...] = ()  # attacks that it consists of, each on what the ones before left
    # What its function takes.
    takes_step_size: bool = False  # step_size in pixel units, which test_comparison's option sets
    takes_index: bool = False  # index: the samples' places in the data set, which fix its draws
    takes_draws: bool = False  # draws: passes of a random network that it averages over
    takes_estimators: bool = False  # estimators: utils.mi.adaptive.Known
    leaves: bool = False  # until_fooled: a sample may leave once it is fooled
    # What its evaluation is judged by.
    climbs: bool = False  # the loss rises step by step, so that more steps show if it has converged
    changed: bool = False  # its settings changed before results files held them: rows are remade
    # What it costs: of each step, or of the whole attack where the name takes no steps.
    passes: float = 1  # forward and back to the image
    queries: float = 0  # forward alone
    benched: int | None = None  # steps in benchmarks/attacks.py (0: takes none); None: left out


_HERE = "utils.attacks"
# fmt: off
_ascent = partial(Family, takes_step_size=True, leaves=True, climbs=True)
# Passes: the target's, and the estimators'.
_adaptive = partial(_ascent, kind="bounded", steps=40, climbs=False, random=True, passes=2,
                    takes_estimators=True)
_transport = partial(Family, norms=("linf",), steps=40, leaves=True, climbs=True, benched=10)
FAMILIES = {
    "none": Family("", "none", passes=0, queries=1),
    "fgsm": Family(f"{_HERE}.projected_gradient.fgsm", "bounded", label="FGSM", one_step=True,
                   benched=0),
    "bim": _ascent(f"{_HERE}.projected_gradient.bim", "bounded", label="BIM", steps=10,
                   tabled=False),
    "pgd": _ascent(f"{_HERE}.iterative.pgd", "bounded", label="PGD-{steps}", steps=40, starts=True,
                   random=True, benched=10),
    "pgd-margin": _ascent(f"{_HERE}.margin.pgd_margin", "bounded", label="PGD-margin-{steps}",
                          steps=100, starts=True, random=True),
    "mi": _adaptive("utils.mi.adaptive.mi", label="MI-{steps}"),
    "mi-values": _adaptive("utils.mi.adaptive.mi_values", label="MI-values-{steps}"),
    "mim": _ascent(f"{_HERE}.iterative.mim", "bounded", label="MIM", steps=40, tabled=False,
                   benched=10),
    "tidim": _ascent(f"{_HERE}.iterative.tidim", "bounded", label="TI-DIM", steps=40, tabled=False,
                     random=True, takes_index=True, changed=True, benched=10),
    "deepfool": Family(f"{_HERE}.deepfool.deepfool", "minimum-norm", label="DeepFool", steps=50,
                       tabled=False, passes=5, benched=3),  # a pass forward and 9 back in a step
    "cw": Family(f"{_HERE}.cw_ddn.cw", "minimum-norm", ("l2",), label="CW", steps=20,
                 passes=4),  # four searches
    "ddn": Family(f"{_HERE}.cw_ddn.ddn", "minimum-norm", ("l2",), label="DDN", steps=20,
                  benched=10),
    "sta": Family(f"{_HERE}.spatial.sta", "spatial", label="STA", steps=100, tabled=False,
                  benched=10),
    # Projections: assumed up to twice the time of the passes; less at full width (docs/speed.md).
    "fwa": _transport(f"{_HERE}.wasserstein.projected", "transport", label="FWA-{steps}",
                      passes=3),
    "fwa-fw": _transport(f"{_HERE}.wasserstein.frank_wolfe", "transport", label="FWA-FW-{steps}"),
    "aa": Family(f"{_HERE}.auto.aa", "bounded", label="AA", random=True, passes=2000, queries=6000,
                 parts=("apgd-ce", "apgd-t", "fab-t", "square")),
    "aa-rand": Family(f"{_HERE}.auto.aa_rand", "bounded", label="AA-rand", random=True,
                      takes_draws=True, passes=4000),
    "grey": Family(f"{_HERE}.grey.grey", "bounded", ("linf",), label="Grey", black_box=True),
    "apgd-ce": Family(f"{_HERE}.auto.apgd_ce", "bounded", label="APGD-CE", random=True, passes=100,
                      benched=0),
    "apgd-t": Family(f"{_HERE}.auto.apgd_t", "bounded", label="APGD-T", random=True, passes=900),
    "fab-t": Family(f"{_HERE}.auto.fab_t", "bounded", label="FAB-T", passes=900),
    "square": Family(f"{_HERE}.auto.square", "bounded", label="Square", random=True,
                     black_box=True, passes=0, queries=5000),
}
# fmt: on

# Attacks that consist of others, and those whose old rows are remade.
PARTS = {name: family.parts for name, family in FAMILIES.items() if family.parts}
CHANGED = tuple(name for name, family in FAMILIES.items() if family.changed)

# Keywords of the attacks' functions that are not settings of a row.
UNSAID = {"model", "x", "y", "seed", "generator", "index", "until_fooled", "rounded", "settings"}
UNSAID |= {"by_loss", "draws"}  # of random networks

# The columns of the paper's Tables 1 to 6.
COLUMNS = {
    "linf": ["none", "pgd-40", "aa", "fwa-40", "tidim"],
    "l2": ["none", "pgd-40", "cw-20", "ddn-20"],
}

# The attacks that know the estimators of a defense: columns beside them, ours, white box only.
ADAPTIVE = ["mi-40", "mi-values-40"]

# The same columns as the released script runs them (Linf 8/255, L2 0.5): {name: changed settings}.
RELEASED = {
    "linf": {
        "none": {},
        "pgd-40": {"step_size": 0.007},
        "aa": {},
        "fwa-40": {"kernel": 4},
        "tidim": {"step_size": 0.007, "decay": 0.1, "enlargement": 1.0},
    },
    "l2": {
        "none": {},
        "pgd-40": {"step_size": 2 * 0.5 / 40},
        "cw-10": {"confidence": 1.0},
        "ddn-20": {"levels": 16},
    },
}


@dataclass(frozen=True, kw_only=True)
class Spec(Family):
    """State what a name says: the facts of its family, with the steps and the label of the name."""

    name: str  # as the tables write it: pgd becomes pgd-40, tidim-40 becomes tidim
    family: str
    restarts: int  # the number of starts, the first included


def choices(norm: str | None = None) -> list[str]:
    """List the names there are, N for a number, for one norm or for any."""
    names = []
    for name, family in FAMILIES.items():
        if norm is None or norm in family.norms:
            names += [f"{name}-N" if family.steps else name] + [f"{name}-NxSTARTS"] * family.starts
    return names


def parse(name: str, norm: str | None = None) -> Spec:
    """Read a name.

    Raises InputError for an unknown name, for a number that does not belong there and, where `norm`
    is given, for a norm that the attack does not exist for.
    """
    form = re.fullmatch(
        r"(?P<family>[a-z-]*[a-z])(?:-(?P<steps>[1-9]\d{0,8})(?:x(?P<starts>[1-9]\d{0,8}))?)?",
        name.strip().lower(),
    )
    family = FAMILIES.get(form["family"]) if form else None
    known = ", ".join(choices(norm))
    if form is None or family is None:
        raise InputError(
            f"--attacks: {name[:40]!r} is unknown; choose from {known}, "
            "or linf, l2 or released alone"
        )
    named, wrong = form["family"], ""
    if form["steps"] and family.steps is None:
        wrong = f": {named} takes no number of steps; write {named}"
    elif form["starts"] and not family.starts:
        wrong = f": {named} takes no number of starts; write {named}-{form['steps']}"
    elif norm is not None and norm not in family.norms:
        norms = " and ".join(family.norms)
        wrong = f" exists for --norm {norms}, not for {norm}; choose from {known}"
    if wrong:
        raise InputError(f"--attacks: {name!r}{wrong}")
    steps = int(form["steps"]) if form["steps"] else family.steps
    restarts = int(form["starts"] or 1)
    starts = f"x{restarts}" if restarts > 1 else ""
    spelt = named + (f"-{steps}" if steps and (family.tabled or steps != family.steps) else "")
    spelt += starts
    label = family.label.format(steps=steps) + starts
    facts = vars(family) | {"steps": steps, "label": label if family.label else spelt}
    return Spec(**facts, name=spelt, family=named, restarts=restarts)


def kind_of(name: str) -> str | None:
    """Return the kind of the attack of that name, None where there is none."""
    try:
        return parse(name).kind
    except InputError:
        return None


def settings_of(name: str, norm: str, epsilon: float, **extra) -> dict:
    """Return the settings that the attack of that name runs with: {keyword of its function: plain
    value}, the defaults included and the random seed left out; {} for "none". A default step of
    bim, pgd, mim and tidim is epsilon/4.

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
    if estimators := settings.get("estimators"):
        settings["estimators"] = estimators.hashes
    return settings


def _function(spec: Spec):
    """Import the attack's function."""
    module, function = FAMILIES[spec.family].function.rsplit(".", 1)
    return getattr(importlib.import_module(module), function)


def attack(
    name: str,
    model: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    norm: str = "linf",
    epsilon: float = 8 / 255,
    seed: int = 0,
    **settings,
) -> torch.Tensor:
    """Attack the images `x` in [0,1] with labels `y` (N,): adversarial images x~ (N,C,H,W) in
    [0,1].

    epsilon: the radius, in pixel units (1 is the whole range), of the ball of `norm`; for a
    transport attack the transport budget in pixels; minimum-norm and spatial attacks have none.
    seed: for the random attacks; the same seed and batch give the same images. settings: further
    keywords of the attack's function, such as ``step_size``.

    What a bounded or transport attack returns is for the caller to judge. A minimum-norm or spatial
    attack returns the natural image where the network errs on it already and where the attack
    fails, judged here by the label that the network gives to the image that would be returned. The
    model runs in eval mode; its modes, flags, buffers and ``.grad`` and the global random state are
    afterwards as before. Raises InputError as `parse` does and where the attack cannot run on such
    a network, ValueError for a negative epsilon.
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
    known = {"norm": norm, "epsilon": epsilon, "steps": spec.steps, "restarts": spec.restarts}
    known |= {"seed": seed}
    taken = inspect.signature(run).parameters.keys() & known
    settings = {key: known[key] for key in taken} | settings
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        x, y = x.detach().clone(), y.detach().clone()
        x_adv = run(model, x, y, **settings).detach()
        if budgeted:
            return x_adv
        with torch.no_grad():
            succeeds = (model(x).argmax(1) == y) & (model(x_adv).argmax(1) != y)
        return torch.where(succeeds[:, None, None, None], x_adv, x)
