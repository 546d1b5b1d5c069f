"""The runs behind the tables and figures of Zhu, Zhang and Evans, ICML 2020, and what they print.

zhu.json has the printed numbers. Their DenseNet121 is not among our networks.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from reproduction import experiment
from reproduction.graph import NETWORK, Graph
from reproduction.node import Reads
from reproduction.now import options

PAPER = json.loads((Path(__file__).parent / "zhu.json").read_text())
TABLES = {name: table["dataset"] for name, table in PAPER["tables"].items()}
FIGURES = ("zhu-figure1", "zhu-figure2", "zhu-figure3", "zhu-saliency")
TARGETS = (*TABLES, *FIGURES)
IMAGES = 6  # in the picture of saliency maps
CLASSIFIERS = {"mlp": "baseline-h", "linear": "baseline-h-linear"}

# What the paper trains and attacks with, for every script, where the data set is one of its own.
BUDGETS = {
    "cifar10": "--epsilon 8/255 --num-steps 7 --step-size 0.01",
    "mnist": "--epsilon 0.3 --num-steps 10 --step-size 0.1",
    "fashion-mnist": "--epsilon 0.1 --num-steps 10 --step-size 0.02",
    "svhn": "--epsilon 4/255 --num-steps 10 --step-size 0.005",
}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    label: g / h. encoder: "normal", "worst" or None (trained end to end). defense: "natural" or
    "robust", of h or of the whole network. which: the model of the run's folder, "last" (paper) or
    "best", by held-out images (early stopping).
    """

    label: str
    encoder: str | None
    defense: str
    which: str = "last"

    @property
    def box(self) -> str:
        """Return the name of the row's results files."""
        return "white" if self.which == "best" else self.which

    def run(self, classifier: str) -> str:
        """Return the node of the row's network, with "{seed}" in it."""
        network = f"{self.encoder}-{classifier}" if self.encoder else CLASSIFIERS[classifier]
        return f"seed{{seed}}/zhu/{network}-{self.defense}"


ROWS = {
    "hjelm-natural": Row("normal MI / natural", "normal", "natural"),
    "hjelm-robust": Row("normal MI / robust", "normal", "robust"),
    "worst-natural": Row("worst-case MI / natural", "worst", "natural"),
    "worst-early": Row("worst-case MI / natural, early stopping", "worst", "natural", "best"),
    "worst-robust": Row("worst-case MI / robust", "worst", "robust"),
    "end-natural": Row("end to end, natural", None, "natural"),
    "end-robust": Row("end to end, robust", None, "robust"),
}
# How the networks of the figures are trained: {name: (label, options of train_standard.py)}.
TRAININGS = {
    "natural": ("natural", "--defense natural"),
    "robust-2": ("standard AT at a quarter of the budget", "--defense standard"),
    "robust": ("standard AT", "--defense standard"),
}


def budget(graph: Graph) -> list[str]:
    """Return the paper's options of the threat model and the attack; [] for another data set."""
    return BUDGETS.get(graph.experiment.dataset, "").split()


def attacks(graph: Graph) -> tuple[str, ...]:
    """Return the attacks of the tables: the steps of the training attack, PGD-40 and AutoAttack."""
    words = [*graph.scale.data.split(), *budget(graph)]
    steps = options(words).get("--num-steps", "7")
    return "none", f"pgd-{steps}", "pgd-40", "aa"


def add(target: str, graph: Graph) -> None:
    """Add the runs of a target with all seeds of the experiment."""
    for seed in range(1, graph.experiment.seeds + 1):
        add_seed(target, graph, seed)


def add_seed(target: str, graph: Graph, seed: int) -> None:
    """Add the runs of a target with one seed."""
    if target in TABLES:
        for row in ROWS.values():
            for classifier in CLASSIFIERS:
                run = classified(graph, row, classifier, seed)
                graph.evaluation(run, attacks(graph), row.box, which=row.which)
    elif target in ("zhu-figure1", "zhu-figure2"):
        for architecture in graph.scale.architectures:
            for training in trainings(architecture):
                vulnerability(graph, network(graph, architecture, training, seed))
    else:
        for training in ("natural", "robust"):
            run = network(graph, "baseline-h", training, seed)
            if target == "zhu-figure3":
                units(graph, run)
            else:
                saliency(graph, run)


def everything(graph: Graph) -> Graph:
    """Add the runs of all targets with all seeds of the experiment, and return the graph."""
    for target in TARGETS:
        add(target, graph)
    return graph


def trainings(architecture: str) -> list[str]:
    """Return the trainings that the paper's Figure 1 shows of an architecture."""
    return [name for name in TRAININGS if architecture in PAPER["figures"][name]]


def trained(graph: Graph, place: str, command: list[str], purpose: str, seed: int, reads=None):
    """Add a training under seed<n>/zhu/, with the paper's budget."""
    outputs, text = NETWORK, " ".join(command)
    return graph.train(place, f"{purpose}, seed {seed}", text, "linf", seed, outputs, reads)


def encoder(graph: Graph, mi: str, seed: int) -> str:
    """Add an encoder, trained by "normal" or "worst" mutual information."""
    words = ["train_worst_case_MI.py", *budget(graph), graph.scale.encoder, "--mi", mi]
    purpose = f"encoder by {'worst-case' if mi == 'worst' else 'normal'} MI"
    return trained(graph, f"seed{seed}/zhu/encoder-{mi}", words, purpose, seed)


def classified(graph: Graph, row: Row, classifier: str, seed: int) -> str:
    """Add a network of a table: a classifier on an encoder, or a network trained end to end."""
    if row.encoder is None:
        return network(graph, CLASSIFIERS[classifier], row.defense, seed)
    of = encoder(graph, row.encoder, seed)
    words = ["train_classifier.py", *budget(graph), graph.scale.classifier]
    words += ["--classifier", classifier, "--defense", row.defense]
    reads, place = Reads((of,), ("--encoder", graph.product(of))), row.run(classifier)
    place = place.format(seed=seed)
    return trained(graph, place, words, f"{classifier} on {of}, {row.defense}", seed, reads)


def network(graph: Graph, architecture: str, training: str, seed: int) -> str:
    """Add a network that is trained end to end, for the tables and the figures."""
    label, defense = TRAININGS[training]
    words = ["train_standard.py", graph.scale.baseline, "--arch", architecture, defense]
    if training == "robust-2":
        words += ["--epsilon", f"{experiment.budget(graph.experiment, 'linf') / 4:.6g}"]
    else:
        words += budget(graph)
    place = f"seed{seed}/zhu/{architecture}-{training}"
    return trained(graph, place, words, f"{architecture}, {label}", seed)


def vulnerability(graph: Graph, run: str) -> str:
    """Add J1, J2 and RV of a network's logits."""
    words = ["analyze_MI.py", "vulnerability", "--output", graph.nodes[run].folder]
    words += [*graph.budget("linf"), *budget(graph), *graph.scale.critics.split()]
    files = ("critics.csv",)
    return graph.measurement(run, "vulnerability.json", "J1, J2 and RV", words, "critics", files)


def units(graph: Graph, run: str) -> str:
    """Add J1, J2 and RV of single units of a baseline-h."""
    file = graph.nodes[run].folder / "units.json"
    words = ["-m", "reproduction.zhu_units", "--units", graph.scale.units]
    words += [*graph.budget("linf"), *budget(graph), *graph.scale.critics.split()]
    words += ["--output", file]
    return graph.measurement(run, "units.json", "vulnerability of single units", words, "units")


def saliency(graph: Graph, run: str) -> str:
    """Add saliency maps of a network."""
    file = graph.nodes[run].folder / "saliency.json"
    words = ["-m", "reproduction.zhu_saliency", "--limit-test", IMAGES, "--output", file]
    files = ("saliency.npz",)
    return graph.measurement(run, "saliency.json", "saliency maps", words, "saliency", files)
