"""The runs behind the tables and figures: which nodes each of them needs."""

from collections.abc import Callable, Iterable
from functools import partial

from common.errors import InputError
from reproduction import bottleneck, entropic, stability, zhu
from reproduction.experiment import Experiment
from reproduction.graph import Graph
from reproduction.paper import DEFENSES, FIGURES, NORMS, PAPER, RADAR, TABLES
from utils.attacks.registry import COLUMNS

STABILITY = "stability"  # the sweep of docs/stability.md
# {target that NAMID's paper does not have: adds its runs of all seeds to a graph}
OTHERS: dict[str, Callable[[Graph], None]] = {
    STABILITY: stability.add,
    **{name: partial(zhu.add, name) for name in zhu.TARGETS},
    **{name: partial(bottleneck.add, name) for name in bottleneck.TARGETS},
    entropic.ENTROPIC: entropic.add,
}


def plan(
    experiment: Experiment,
    target: str,
    norms: tuple[str, ...] = NORMS,
    defenses: Iterable[str] | None = None,
) -> Graph:
    """Collect the runs that a target needs.

    Args:
        experiment: the data set, scale, seeds and folder.
        target: "table1" ... "table6", "figure2", 4, 5 or 7, "all" of these, or one of OTHERS.
        norms: the norms to run; InputError where the target has none of them.
        defenses: the rows of the tables to run; None: all.
    """
    graph = Graph(experiment)
    seeds = range(1, experiment.seeds + 1)
    if target in OTHERS:
        OTHERS[target](graph)
        return graph
    if target == "all":
        tables, figures = list(TABLES), list(FIGURES) if "linf" in norms else []
    else:
        tables = [target] if target in TABLES else []
        figures = [target] if target in FIGURES else []
        about = ["linf"] if figures else [norm for _, norm in TABLES[target]]
        if not set(about) & set(norms):
            raise InputError(
                f"--norm {norms[0]}: {target} is about {about[0]} alone; leave --norm out"
            )
    halves = dict.fromkeys(half for name in tables for half in TABLES[name] if half[1] in norms)
    for seed in seeds:
        for box, norm in halves:
            add_half(graph, box, norm, seed, defenses)
        for name in figures:
            add_figure(graph, name, seed)
    return graph


def add_half(
    graph: Graph, box: str, norm: str, seed: int, defenses: Iterable[str] | None = None
) -> None:
    """Add the runs of one box and norm of a table.

    Args:
        graph: the graph to add to.
        box: "white" or "black".
        norm: "linf" or "l2".
        seed: the seed of the trainings.
        defenses: the rows to run; None: all.
    """
    for name in PAPER[f"{box}_box_{norm}"]["cifar10"]:
        if defenses is None or name in defenses:
            run = graph.defense(name, norm, seed)
            if box == "white":
                graph.white(run)
                if DEFENSES[name].estimators:
                    graph.adaptive(run)
            else:
                graph.black(run, norm, seed)


def add_figure(graph: Graph, name: str, seed: int) -> None:
    """Add the runs of a figure."""
    if name == "figure2":
        graph.mi(graph.natural(seed), "estimators_max", RADAR, "linf", seed)
        return
    standard = graph.defense("standard", "linf", seed)
    if name == "figure4":
        for kind in ("estimators_max", "estimators"):
            graph.mi(standard, kind, ("pgd-40",), "linf", seed)
        return
    namid = graph.defense("namid", "linf", seed)
    if name == "figure5":
        # the attacks of the tables, so that the figure and the tables share the evaluation
        columns = [each for each in COLUMNS["linf"] if each != "aa"]
        graph.evaluation(standard, columns)
        graph.evaluation(namid, columns)
        for variant in ("namid_i", "namid_ii", "namid_iii"):
            run = graph.defense(variant, "linf", seed)
            graph.evaluation(run, ("none", "pgd-40", "fwa-40"))
        return
    graph.white(namid)
    by_maximum = graph.defense("namid_max", "linf", seed)
    graph.evaluation(by_maximum, ("none", "pgd-40", "aa", "tidim"))
