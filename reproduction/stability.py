"""The runs of ./reproduce.py stability: NAMID with one setting changed at a time, and standard AT.

Every setting is NAMID with alpha 5 and lambda 0.1 (the paper's) except for what its name says. All
other options are the scale's.
"""

import shlex
from dataclasses import dataclass

from reproduction.graph import NETWORK, Graph
from reproduction.node import Reads

ATTACKS = ("none", "pgd-40")


@dataclass(frozen=True)
class Setting:
    """A row of the sweep.

    label: its name. options: those of stage 3. estimators: a key of ESTIMATORS. baseline: a key of
    BASELINES. init: whether it starts from the standard AT network.
    """

    label: str
    options: str = ""
    estimators: str = "base"
    baseline: str = "standard"
    init: bool = False


ESTIMATORS = {  # name: (script, options beyond the scale's)
    "base": ("train_MI_estimator.py", ""),
    "units2048": ("train_MI_estimator.py", "--n-units 2048"),
    "epochs25": ("train_MI_estimator.py", "--epochs 25"),
    "nce": ("train_MI_estimator.py", "--bound nce"),
    "fd": ("train_MI_estimator.py", "--bound fd"),
    "dv-scaled": ("train_MI_estimator.py", "--scale-scores"),
    "nce-scaled": ("train_MI_estimator.py", "--bound nce --scale-scores"),
    "difference": ("train_MI_estimator.py", "--objective difference"),
    "maximum": ("train_MI_estimator_only_max.py", ""),
}
BASELINES = {  # name: (label, options of standard AT beyond the scale's)
    "standard": ("standard AT", ""),
    "standard-batch40": ("standard AT, batch 40", "--batch-size 40"),
}
SETTINGS = {
    "alpha-0.1": Setting("alpha 0.1", "--alpha 0.1"),
    "alpha-0.5": Setting("alpha 0.5", "--alpha 0.5"),
    "alpha-1": Setting("alpha 1", "--alpha 1"),
    "paper": Setting("alpha 5 (paper)"),
    "lambda-0": Setting("lambda 0", "--lam 0"),
    "units-2048": Setting("2048 units", estimators="units2048"),
    "batch-40": Setting("batch 40", "--batch-size 40", baseline="standard-batch40"),
    "nce": Setting("nce", estimators="nce"),
    "fd": Setting("fd", estimators="fd"),
    "dv-scaled": Setting("dv, scores scaled", estimators="dv-scaled"),
    "nce-scaled": Setting("nce, scores scaled", estimators="nce-scaled"),
    "difference": Setting("estimators by Eq. 5", estimators="difference"),
    "maximum": Setting("estimators by Eq. 4", estimators="maximum"),
    "estimators-25": Setting("estimators 25 epochs", estimators="epochs25"),
    "warm-up-0": Setting("no warm-up", "--warmup-epochs 0"),
    "warm-up-6": Setting("warm-up 6 epochs", "--warmup-epochs 6"),
    "ramp": Setting("alpha ramped over 10 epochs", "--alpha-ramp 10"),
    "init": Setting("from the standard AT network", "--warmup-epochs 0", init=True),
    "nce-scaled-ramp": Setting(
        "nce, scaled, lambda 0, ramp 10", "--lam 0 --alpha-ramp 10", estimators="nce-scaled"
    ),
    "nce-scaled-init": Setting(
        "nce, scaled, from standard AT", "--warmup-epochs 0", estimators="nce-scaled", init=True
    ),
}


def add(graph: Graph) -> None:
    """Add the runs of the sweep with all seeds of the experiment."""
    for seed in range(1, graph.experiment.seeds + 1):
        for name in BASELINES:
            graph.evaluation(baseline(graph, name, seed), ATTACKS)
        for name in SETTINGS:
            graph.evaluation(trained(graph, name, seed), ATTACKS)


def baseline(graph: Graph, name: str, seed: int) -> str:
    """Add a standard AT network; "standard" is that of the tables."""
    if name == "standard":
        return graph.defense("standard", "linf", seed)
    label, changes = BASELINES[name]
    options = merged(f"{graph.scale.network} {graph.scale.training}", changes)
    command, purpose = f"train_standard.py {options}", f"{label}, seed {seed}"
    return graph.train(f"seed{seed}/stability/{name}", purpose, command, "linf", seed, NETWORK)


def estimators(graph: Graph, name: str, seed: int) -> str:
    """Add estimators of the tables' standard AT network."""
    target = graph.defense("standard", "linf", seed)
    if name == "base":
        return graph.estimators("estimators", target, "linf", seed)
    script, changes = ESTIMATORS[name]
    own = graph.scale.estimators_max if script.endswith("only_max.py") else graph.scale.estimators
    command, purpose = f"{script} {merged(own, changes)}", f"MI estimators ({name}) of {target}"
    place = f"seed{seed}/stability/standard-estimators-{name}"
    return graph.estimators_by(command, purpose, place, target, "linf", seed)


def trained(graph: Graph, name: str, seed: int) -> str:
    """Add the network of a setting."""
    setting = SETTINGS[name]
    of = estimators(graph, setting.estimators, seed)
    reads = Reads((of,), ("--estimator-dir", graph.nodes[of].folder))
    if setting.init:
        target = graph.defense("standard", "linf", seed)
        reads = Reads((of, target), (*reads.options, "--init", graph.product(target)))
    scale = graph.scale
    options = merged(f"{scale.network} {scale.training} {scale.namid}", setting.options)
    command, purpose = f"train_MIAT.py {options}", f"NAMID, {setting.label}, seed {seed}"
    outputs = ("target_model.pth", "last_model.pth")
    place = f"seed{seed}/stability/{name}"
    return graph.train(place, purpose, command, "linf", seed, outputs, reads)


def merged(options: str, changes: str) -> str:
    """Replace the values of `options` that `changes` names, and append what it adds."""
    words = shlex.split(options)
    pairs = dict(zip(words[::2], words[1::2]))
    new = shlex.split(changes)
    kept = [word for pair in pairs.items() if pair[0] not in new for word in pair]
    return shlex.join([*kept, *new])
