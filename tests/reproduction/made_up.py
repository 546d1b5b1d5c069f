"""Experiments whose results are written by hand, so that each number of a table is known."""
import json
import random

from reproduction.plan import Experiment, Graph, plan

SETTINGS = {"options": {"epochs": 5}, "hardware": "an abacus", "date": "2026-01-02 03:04:05 +0000", "git_commit": "c0ffee" * 6}
RESULTS = {"hardware": "an abacus", "git_commit": "c0ffee" * 6}


def experiment(folder, **options) -> Experiment:
    return Experiment(**{"out": folder, "dataset": "cifar10", "scale": "tiny", "seeds": 1, **options})


def train(graph: Graph, name: str) -> None:
    """The files of a finished training."""
    node = graph.nodes[name]
    node.folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(node.words)  # no word of these needs quoting
    (node.folder / "settings.json").write_text(json.dumps(SETTINGS | {"command": command}))
    (node.folder / "metrics.csv").write_text("epoch,natural_accuracy,score\n1,10.0,8.0\n2,61.0,50.0\n3,70.0,40.0\n")
    for path in node.outputs:
        path.write_bytes(b"")


def evaluate(graph: Graph, name: str, standing: dict[str, str]) -> None:
    """The results file of an evaluation, of {attack: a mark for each image}, after the trainings before it."""
    node = graph.nodes[name]
    for each in node.needs:
        if graph.state(each) == "not run":
            train(graph, each)
    n = len(next(iter(standing.values())))
    node.outputs[0].write_text(json.dumps(RESULTS | {"n": n, "attacks": {each: {"standing": standing[each]} for each in node.attacks}}))


def marks(right: int, n: int, seed: int = 0) -> str:
    """n marks of which `right`, somewhere, stand."""
    letters = ["r"] * right + ["f"] * (n - right)
    random.Random(seed).shuffle(letters)
    return "".join(letters)


def everything(folder, seeds: int = 1, n: int = 40, **options) -> Graph:
    """All tables measured, each cell 40 % or more, drawn at random."""
    graph = plan(experiment(folder, seeds=seeds, **options), "all")
    for number, (name, node) in enumerate(graph.nodes.items()):
        if node.attacks and not name.endswith("images.json"):
            evaluate(graph, name, {each: marks(16 + (number + i) % 20, n, number) for i, each in enumerate(node.attacks)})
    return graph
