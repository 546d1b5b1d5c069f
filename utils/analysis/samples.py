"""Measure natural and adversarial MI of each test image: `analyze_MI.py samples`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy
from tqdm import tqdm

from common.errors import InputError
from common.files import file_hash, make_folder, write_csv, write_text
from data.sets import DataSet
from utils import devices, provenance
from utils.analysis.options.groups import PGD, Estimators, Images, NetworkFile
from utils.evaluation.images import load_images
from utils.evaluation.networks import Network, load_network
from utils.evaluation.results import wilson
from utils.evaluation.threat import threat_model
from utils.mi.diagnostics import (
    KINDS,
    SETS,
    describe,
    detection,
    interval_text,
    plot_histograms,
    plot_roc,
    sample_values,
)
from utils.mi.estimator import MIEstimator
from utils.mi.names import estimator_files
from utils.mi.values import PAIRS
from utils.plots import table
from utils.settings import command_line
from utils.settings.options import Attack
from utils.training.estimators import load_estimators
from utils.training.held_out import examples


@dataclass
class Measured:
    """Hold what is measured: a network with its estimators, on attacked test images."""

    network: Network
    estimators: dict[str, MIEstimator]
    files: dict[str, Path]  # of the estimators, {option of stage 3: path}
    dataset: DataSet
    attack: Attack

    @property
    def representation(self) -> str:
        """Return which output of the network the estimators see."""
        return self.estimators["natural"].representation


def measure(
    network: NetworkFile,
    estimators: Estimators,
    images: Images,
    attack: PGD,
    batch_size: int,
    device: str,
    output: Path,
) -> None:
    """Measure the MI values of each test image under PGD; write, plot and print them.

    Networks run in float32 and in eval mode.

    Args:
        batch_size: images in a batch; the others are a sample's negatives.
        output: the folder of the files.
    """
    compute = devices.compute(device)
    measured = load(network, estimators, images, attack)
    make_folder(output, "--output")
    compute.prepare(measured.network.model)
    for estimator in measured.estimators.values():
        compute.prepare(estimator)
    values = _values(measured, compute, batch_size, attack.seed)
    _check_finite(values, estimators.estimator_dir)

    sizes = sorted(set(numpy.bincount(values["batch"]).tolist()))
    summary = {
        **_origin(measured, estimators.estimator_dir),
        "num_steps": measured.attack.eval_steps,
        "step_size": measured.attack.step_size,
        "seed": attack.seed,
        "batch_size": batch_size,
        "batch_sizes": sizes,
        "hardware": provenance.hardware(compute.device),
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
        "natural_accuracy": _accuracy(values, "prediction"),
        "robust_accuracy": _accuracy(values, "prediction_adversarial"),
        "mi": describe(values),
        "detection": detection(values),
    }
    columns = {name: entries.tolist() for name, entries in values.items()}
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    write_csv(output / "values.csv", [{"image": i, **row} for i, row in enumerate(rows)])
    write_text(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    title = _title(summary)
    plot_histograms(values, output / "histograms.png", title)
    plot_roc(values, output / "roc.png", title)
    _print_report(summary, title)
    print(f"\nwritten: {output}/values.csv, summary.json, histograms.png, roc.png")


def load(network: NetworkFile, estimators: Estimators, images: Images, attack: PGD) -> Measured:
    """Load the network, its estimators and the test images, and choose the threat model.

    What is not given is the network's own. Raises InputError where they do not fit each other.
    """
    found = load_network(
        network.model_dir,
        network.model,
        network.arch,
        network.which,
        normalisation=network.inputs.normalisation,
    )
    name = found.dataset(images.dataset)
    threat = threat_model(attack.norm, attack.epsilon, found.known)
    pgd = Attack(norm=threat.norm, epsilon=threat.epsilon, eval_steps=attack.num_steps)
    command_line.check(pgd)
    files = estimator_files(estimators.estimator_dir)
    facts = pgd.threat_model | {"dataset": name}
    loaded = load_estimators(files, found.model, facts, estimators.bound)
    dataset, _, labels = load_images(found, name, images.data_dir, "test", images.limit_test)
    if len(labels) < 2:
        raise InputError(
            f"--dataset {name}: has {len(labels)} test image; 2 or more are needed, "
            "the others are a sample's negatives"
        )
    return Measured(found, loaded, files, dataset, pgd)


def _values(
    measured: Measured, compute: devices.Compute, batch_size: int, seed: int
) -> dict[str, numpy.ndarray]:
    """Attack the test images and compute the columns of values.csv."""
    batches = examples(
        measured.network.model,
        measured.dataset.test_images,
        measured.dataset.test_labels,
        measured.attack,
        compute,
        measured.representation,
        batch_size=batch_size,
        seed=seed,
    )
    title, silent = f"pgd-{measured.attack.eval_steps}", not sys.stderr.isatty()
    batches = tqdm(batches, desc=title, unit="batch", disable=silent, leave=False)
    return sample_values(batches, measured.estimators)


def _check_finite(values: dict[str, numpy.ndarray], estimator_dir: Path) -> None:
    """Raise InputError where an MI value is NaN or infinite."""
    finite = numpy.all([numpy.isfinite(values[name]) for name in PAIRS], axis=0)
    broken = (~finite).sum()
    if broken:
        raise InputError(
            f"--estimator-dir {estimator_dir}: MI is not finite for {broken} of {len(finite)} "
            "images; the estimators have diverged, train them again"
        )


def _origin(measured: Measured, estimator_dir: Path) -> dict:
    """Name the network, the estimators, the data and the threat model, with the files' hashes."""
    network, estimator = measured.network, measured.estimators["natural"]
    return {
        "model": network.name,
        "model_hash": network.hash(),
        "estimator_dir": str(estimator_dir),
        **{f"{option}_hash": file_hash(path) for option, path in measured.files.items()},
        "bound": estimator.bound,
        "n_units": estimator.n_units,
        "representation": measured.representation,
        "dataset": measured.dataset.name,
        "data_fingerprint": measured.dataset.fingerprint,
        "n": len(measured.dataset.test_labels),
        **measured.attack.threat_model,
    }


def _accuracy(values: dict[str, numpy.ndarray], prediction: str) -> dict:
    """Return the accuracy of a column of predictions in percent, with its interval."""
    n, right = len(values["label"]), int((values[prediction] == values["label"]).sum())
    return {"percent": 100 * right / n, "interval": wilson(right, n)}


def _title(summary: dict) -> str:
    """Describe the measurement in a line."""
    attack = f"PGD-{summary['num_steps']}, {summary['norm']} {summary['epsilon']:.4g}"
    estimators = f"{summary['bound']}, {summary['n_units']} units, batches of {_batches(summary)}"
    return f"{summary['dataset']}, {summary['n']} test images, {attack}; {estimators}"


def _batches(summary: dict) -> str:
    """Write the batch sizes, which the last batch may add to."""
    return "-".join(map(str, summary["batch_sizes"]))


def _print_report(summary: dict, title: str) -> None:
    """Print the accuracies, the MI values and the areas under the ROC curves."""
    natural, robust = (summary[f"{kind}_accuracy"]["percent"] for kind in ("natural", "robust"))
    print(f"{summary['model']}: {title}")
    print(f"accuracy {natural:.1f} % without and {robust:.1f} % under attack")
    print(
        f"The negatives of a sample are the others of its batch of {_batches(summary)}: "
        "the values hold for this --batch-size only.\n"
    )
    mi, found = summary["mi"], summary["detection"]
    counts = {chosen: entry["n"] for chosen, entry in mi["natural_mi_of_natural"].items()}
    header = [f"{text}, n = {counts[chosen]}" for chosen, text in SETS.items()]
    lines = [
        [f"{name.replace('mi', 'MI').replace('_', ' ')} samples", *map(spread, by_set.values())]
        for name, by_set in mi.items()
    ]
    print(table(["MI in nats, mean (sd)", *header], lines))
    print(
        "\nAUC (95 %) of telling adversarial from natural samples; 0.5 is chance, below it is the "
        "reverse of the paper's claim:\n"
    )
    lines = [
        [f"{kind} MI, {KINDS[kind][2]} = adversarial", *map(interval_text, by_set.values())]
        for kind, by_set in found.items()
    ]
    print(table(["by", *(SETS[chosen] for chosen in found["natural"])], lines))


def spread(entry: dict) -> str:
    """Write an entry of `describe` as text: mean (sd)."""
    if entry["n"] == 0:
        return "none"
    return f"{entry['mean']:.3f}" + (f" ({entry['sd']:.3f})" if entry["n"] > 1 else "")
