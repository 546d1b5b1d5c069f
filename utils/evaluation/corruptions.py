"""Measure accuracy on corrupted images, by corruption and severity."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import torch

from common.errors import InputError
from common.files import write_text
from common.json_files import read_json
from common.schema import ANYTHING, Each
from data.batches import in_order
from data.corruptions import CORRUPTIONS, EXTRA, SEVERITIES, Corruptions
from utils.attacks.projected_gradient import frozen
from utils.devices import Compute
from utils.evaluation.counted import Counted
from utils.evaluation.identity import Metadata
from utils.evaluation.networks import Network
from utils.plots import table

NAME = "corruptions.json"  # in the folder of --model-dir
KEY = "corruptions"  # of the results file: {corruption: five accuracies}


def evaluate_corruptions(
    network: Network,
    corruptions: Corruptions,
    compute: Compute,
    limit: int | None,
    batch_size: int,
) -> dict[str, list[float]]:
    """Return {corruption: its accuracies in percent at severities 1 to 5}.

    An image with a non-finite logit counts as wrong. limit: images of each severity; None: all.
    """
    found: dict[str, list[float]] = {}
    model = Counted(network.model, compute).eval()
    for name in (*CORRUPTIONS, *EXTRA):
        found[name] = []
        for severity in range(1, SEVERITIES + 1):
            images, labels = corruptions.severity(name, severity, limit)
            found[name].append(100 * _right(model, images, labels, batch_size) / len(labels))
    return found


@torch.no_grad()
def _right(model: Counted, images, labels, batch_size: int) -> int:
    """Count the images that the network gets right."""
    right = 0
    with frozen(model):
        for x, y in in_order(images, labels, batch_size, model.compute.device, channels_last=True):
            logits = model(x)
            right += int(((logits.argmax(1) == y) & logits.isfinite().all(1)).sum())
    return right


def summary(found: dict[str, list[float]]) -> dict[str, float]:
    """Return the means: over the 15 corruptions of the benchmark, and over all 19."""
    means = {name: mean(values) for name, values in found.items()}
    return {
        "mean of 15": mean(means[name] for name in CORRUPTIONS),
        "mean of 19": mean(means.values()),
    }


def print_corruptions(found: dict[str, list[float]], n: int) -> None:
    """Print a row for each corruption, a column for each severity of `n` images, and the means."""
    rows = [[name, *(f"{each:.2f}" for each in (*v, mean(v)))] for name, v in found.items()]
    for name, value in summary(found).items():
        chosen = CORRUPTIONS if name == "mean of 15" else found
        severities = zip(*(found[each] for each in chosen))
        rows.append([name, *(f"{mean(each):.2f}" for each in severities), f"{value:.2f}"])
    header = [f"accuracy %, n = {n}", *(f"severity {i}" for i in range(1, SEVERITIES + 1)), "mean"]
    print(table(header, rows))


def check_output(path: Path | None) -> None:
    """Refuse to replace a file that holds other results than accuracies on corrupted images."""
    if path is None or not path.is_file():
        return
    remedy = "name another file"
    try:
        read_json(path, {KEY: Each(ANYTHING)}, remedy, "holds other results: ")
    except InputError as error:
        raise InputError(f"--output {error}") from None


def run_corruptions(
    network: Network,
    folder: Path,
    name: str,
    compute: Compute,
    limit: int | None,
    batch_size: int,
    output: Path | None,
) -> None:
    """Evaluate a network on the folder of --corruptions; print the table, and write the results.

    name: the data set. output: a JSON file, None for none. The other arguments are those of
    `evaluate_corruptions`.
    """
    check_output(output)
    corruptions = Corruptions(folder, name)
    images, labels = corruptions.severity(CORRUPTIONS[0], 1, limit)
    network.check(corruptions)
    network.prepare(compute, images, corruptions.num_classes)
    found = evaluate_corruptions(network, corruptions, compute, limit, batch_size)
    print_corruptions(found, len(labels))
    if output:
        about: dict = {"model": network.name, "model_hash": network.hash(), "dataset": name}
        about |= {"folder": str(folder), "n": len(labels), "precision": compute.precision}
        content = {**about, **asdict(Metadata.now(compute.device)), **summary(found), KEY: found}
        write_text(output, json.dumps(content, indent=1) + "\n")
        print(f"written: {output}")
