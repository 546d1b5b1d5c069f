"""Experiments whose results are written by hand, so that each number of a table is known."""

import json
import random

import pytest

from reproduction import now, question
from reproduction.experiment import Experiment
from reproduction.graph import Graph
from reproduction.now import data_of, file_hash, inputs, options
from reproduction.plan import plan
from reproduction.question import expected
from utils.attacks import registry

SETTINGS = {
    "options": {"epochs": 5},
    "hardware": "an abacus",
    "date": "2026-01-02 03:04:05 +0000",
    "git_commit": "c0ffee" * 6,
}
MADE = {
    "date": "2026-01-02 04:05:06 +0000",
    "git_commit": "c0ffee" * 6,
    "hardware": "an abacus",
    "versions": {},
}
RESULTS = {"date": "2026-01-02 03:04:05 +0000", "hardware": "an abacus", "git_commit": "c0ffee" * 6}


@pytest.fixture(autouse=True, scope="module")
def any_number_of_images():
    """Let results have as many images as suits a test, and read no CIFAR-10 for them.

    A test module takes it by naming it; test_question.py asks how many images there should be.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(now.DOWNLOADED, "cifar10", "not here")
        patch.setattr(question, "images_asked", lambda limit, found: {})
        patch.setattr(registry, "settings_of", lambda *_, **__: {}, raising=False)
        yield


def experiment(folder, **options) -> Experiment:
    return Experiment(
        **{"out": folder, "dataset": "cifar10", "scale": "tiny", "seeds": 1, **options}
    )


def train(graph: Graph, name: str, content: bytes = b"") -> None:
    """The files of a finished training, `content` in each."""
    node = graph.nodes[name]
    node.folder.mkdir(parents=True, exist_ok=True)
    given = options(node.words)
    found = data_of(graph.experiment, given.get("--limit-train"))
    hashes = {
        f"{key}_hash": known for key, path in inputs(node).items() if (known := file_hash(path))
    }
    said = {"command": " ".join(node.words), **hashes}  # no word of these needs quoting
    said |= {"data_fingerprint": found[0]} if found else {}
    (node.folder / "settings.json").write_text(json.dumps(SETTINGS | said))
    (node.folder / "metrics.csv").write_text(
        "epoch,natural_accuracy,score\n1,10.0,8.0\n2,61.0,50.0\n3,70.0,40.0\n"
    )
    for path in node.outputs:
        path.write_bytes(content)


def row(outcomes: str, **more) -> dict:
    """A row made at the settings of today."""
    return {"outcomes": outcomes, "settings": {}, "made": MADE, "warnings": []} | more


def evaluate(graph: Graph, name: str, outcomes: dict[str, str], **more) -> None:
    """The results file of an evaluation, of {attack: a letter for each image}, after the trainings before it."""
    node = graph.nodes[name]
    for each in node.needs:
        if graph.state(each) == "not run":
            train(graph, each)
    rows = {each: row(outcomes[each]) for each in node.attacks}
    if "--estimator-dir" in node.words:
        for one in rows.values():
            one["settings"] = question._estimators_of(graph, node)
    if "--save-adv" in node.words:
        rows = {each: one | {"stopped_early": False} for each, one in rows.items()}
    results = (
        RESULTS
        | expected(graph, node)
        | {"n": len(next(iter(outcomes.values())))}
        | {
            "attacks": rows,
            "warnings": [],
            "worst_case": {"attacks": list(node.attacks)} if len(rows) > 1 else None,
        }
    )
    node.outputs[-1].write_text(json.dumps(results | more))
    for path in node.outputs[:-1]:  # the adversarial images
        path.write_bytes(b"")


def measure(graph: Graph, name: str, values: dict) -> None:
    """The file of MI values, {attack: {name: value}}, after what it reads."""
    node = graph.nodes[name]
    for each in node.needs:
        if graph.state(each) == "not run":
            if graph.nodes[each].trains:
                train(graph, each)
            else:
                evaluate(graph, each, dict.fromkeys(graph.nodes[each].attacks, "f" * 40))
    node.outputs[0].write_text(
        json.dumps(RESULTS | {"n": 40} | expected(graph, node) | {"values": values})
    )


def outcomes_of(right: int, n: int, seed: int = 0) -> str:
    """n outcomes, of which `right`, somewhere, are robust."""
    letters = ["r"] * right + ["f"] * (n - right)
    random.Random(seed).shuffle(letters)
    return "".join(letters)


def everything(folder, seeds: int = 1, n: int = 40, **options) -> Graph:
    """All tables measured, each cell 40 % or more, drawn at random."""
    graph = plan(experiment(folder, seeds=seeds, **options), "all")
    for number, (name, node) in enumerate(graph.nodes.items()):
        if node.attacks and not name.endswith("images.json"):
            evaluate(
                graph,
                name,
                {
                    each: outcomes_of(16 + (number + i) % 20, n, number)
                    for i, each in enumerate(node.attacks)
                },
            )
    return graph
