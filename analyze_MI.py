"""Diagnose the estimators: MI of each test image, and bounds and theorem where the truth is known.

    python analyze_MI.py samples --model-dir runs/namid --estimator-dir runs/estimators
    python analyze_MI.py gaussians
    python analyze_MI.py theorem1

samples: natural and adversarial MI of each natural and adversarial test image, histograms, and ROC
curves of telling the two apart. gaussians: each bound, with the optimal and with a trained critic,
against the known MI of correlated Gaussians. theorem1: the terms of the paper's Theorem 1 on joint
Gaussians, in closed form. docs/analyze_MI.md explains each file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from utils.settings.command_line import parse
from utils.settings.options import (
    Arch,
    Attack,
    Bound,
    Count,
    Dataset,
    Fraction,
    need,
)


@dataclass
class Samples:
    """Natural and adversarial MI of each test image: values, histograms, ROC curves."""

    model_dir: Path | None = None
    """A run's folder; its best model is looked at."""
    model: Path | None = None
    """A model file, in place of a folder."""
    arch: Arch | None = None
    """The architecture of --model, for a file that does not say it."""
    which: Literal["best", "last"] = "best"
    """Which model of the folder."""
    estimator_dir: Path = Path("runs/estimators")
    """The folder of stage 2."""
    bound: Bound | None = None
    """The MI bound; the one that the estimators were trained with when not given."""
    dataset: Dataset | None = None
    """The data set; the run's own when not given."""
    data_dir: Path | None = None
    """Where it is; the run's own when not given."""
    limit_test: Count = None
    """Only the first N test images."""
    norm: Literal["linf", "l2"] | None = None
    """The norm of the budget; the run's own when not given."""
    epsilon: Fraction = None
    """The budget in pixel units; the run's own when not given."""
    num_steps: int = 20
    """Steps of the PGD attack, each epsilon/4 long (as in stage 2)."""
    batch_size: int = 400
    """Images in a batch (stage 2: 400), part of the result: a sample's negatives are the others."""
    seed: int = 1
    """Of the attack's start."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""
    output: Path = Path("runs/mi-samples")
    """The folder for values.csv, summary.json, histograms.png and roc.png."""

    def check(self) -> None:
        need(
            (self.model_dir is None) != (self.model is None),
            "model-dir or --model",
            "",
            "give one of --model-dir (a run's folder) and --model (a model file)",
        )
        need(
            self.limit_test is None or self.limit_test > 1,
            "limit_test",
            self.limit_test,
            "give 2 or more images: the others are a sample's negatives",
        )
        need(self.num_steps > 0, "num_steps", self.num_steps, "give 1 or more steps")
        need(
            self.batch_size > 1,
            "batch_size",
            self.batch_size,
            "give 2 or more images: the others are a sample's negatives",
        )
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")


@dataclass
class Gaussians:
    """Each MI bound against the known MI of correlated Gaussians: bias and deviation."""

    dim: int = 4
    """Components of x and of y."""
    mi: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """True mutual information, in nats."""
    samples: tuple[int, ...] = (16, 64, 256)
    """Batch sizes N."""
    repetitions: int = 100
    """Fresh batches for each bias and deviation."""
    steps: int = 500
    """Training steps of the trained critic."""
    seed: int = 1
    """Of the draws and of the critics' first weights."""
    output: Path = Path("runs/mi-gaussians")
    """The folder for gaussians.csv and a plot for each critic."""

    def check(self) -> None:
        need(self.dim > 0, "dim", self.dim, "give 1 or more")
        need(
            self.mi and all(0 < mi < 8 * self.dim for mi in self.mi),
            "mi",
            self.mi,
            "give values above 0 and below 8 nats per component; 1 - rho^2 is rounded beyond",
        )
        need(
            self.samples and all(n > 1 for n in self.samples),
            "samples",
            self.samples,
            "give batch sizes of 2 or more",
        )
        need(self.repetitions > 1, "repetitions", self.repetitions, "give 2 or more")
        need(self.steps > 0, "steps", self.steps, "give 1 or more")
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")


@dataclass
class Theorem1:
    """Theorem 1's terms on joint Gaussians, in closed form."""

    dim: int = 5
    """Components of the patterns x and n."""
    outputs: int = 3
    """Components of the output z."""
    seed: int = 1
    """Of the random covariances and maps."""
    output: Path = Path("runs/mi-theorem1")
    """The folder for theorem1.csv."""

    def check(self) -> None:
        need(self.dim > 0, "dim", self.dim, "give 1 or more")
        need(self.outputs > 0, "outputs", self.outputs, "give 1 or more")
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")


@dataclass
class Settings:
    """Which part, with its options."""

    part: tyro.conf.OmitSubcommandPrefixes[Samples | Gaussians | Theorem1]


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import json
import sys

import numpy
from tqdm import tqdm

import data
from common.errors import InputError
from common.files import file_hash, make_folder, write_csv, write_text
from utils import devices, distributed, provenance
from utils.evaluation.networks import load_network
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
from utils.mi.gaussians import CRITICS, Study, plot_study
from utils.mi.names import BOUNDS, estimator_files
from utils.mi.theorem1 import theorem1_cases
from utils.mi.values import PAIRS
from utils.plots import table
from utils.provenance import git_commit
from utils.scripts import run_script
from utils.training.estimators import load_estimators
from utils.training.held_out import examples
from utils.training.stages import check_classes


def samples(settings: Samples) -> None:
    """The values of each test image under PGD; float32, the networks in eval mode."""
    compute = devices.compute(settings.device)
    network = load_network(settings.model_dir, settings.model, settings.arch, settings.which)
    target, source, options = network.model, network.name, network.options
    name = settings.dataset or network.known.get("dataset") or "cifar10"
    threat = threat_model(settings.norm, settings.epsilon, network.known)
    norm, epsilon = threat.norm, threat.epsilon
    attack = Attack(norm=norm, epsilon=epsilon, eval_steps=settings.num_steps)
    attack.fill_in()
    attack.check()
    files = estimator_files(settings.estimator_dir)
    estimators = load_estimators(
        files, target, attack.threat_model | {"dataset": name}, settings.bound
    )
    dataset = data.load(
        name,
        settings.data_dir or options.get("data_dir") or "datasets",
        options.get("limit_train"),
        settings.limit_test,
    )
    check_classes(target, dataset, source)
    n = len(dataset.test_labels)
    if n < 2:
        raise InputError(
            f"--dataset {name}: has {n} test image; 2 or more are needed, "
            "the others are a sample's negatives"
        )
    make_folder(settings.output, "--output")

    representation = estimators["natural"].representation
    compute.prepare(target)
    for estimator in estimators.values():
        compute.prepare(estimator)
    batches = examples(
        target,
        dataset.test_images,
        dataset.test_labels,
        attack,
        compute,
        representation,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    values = sample_values(
        tqdm(
            batches,
            desc=f"pgd-{settings.num_steps}",
            unit="batch",
            disable=not sys.stderr.isatty(),
            leave=False,
        ),
        estimators,
    )
    broken = sum(~numpy.isfinite(values[each]) for each in PAIRS).astype(bool).sum()
    if broken:
        raise InputError(
            f"--estimator-dir {settings.estimator_dir}: MI is not finite for {broken} of {n} "
            "images; the "
            "estimators have diverged, train them again"
        )

    sizes = sorted(set(numpy.bincount(values["batch"]).tolist()))
    right, right_adv = (
        int((values[each] == values["label"]).sum())
        for each in ("prediction", "prediction_adversarial")
    )
    summary = {
        "model": source,
        "model_hash": file_hash(source),
        "estimator_dir": str(settings.estimator_dir),
        **{f"{option}_hash": file_hash(path) for option, path in files.items()},
        "bound": estimators["natural"].bound,
        "n_units": estimators["natural"].n_units,
        "representation": representation,
        "dataset": name,
        "data_fingerprint": dataset.fingerprint,
        "n": n,
        "norm": norm,
        "epsilon": attack.epsilon,
        "num_steps": settings.num_steps,
        "step_size": attack.step_size,
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "batch_sizes": sizes,
        "hardware": provenance.hardware(compute.device),
        "versions": provenance.versions(),
        "git_commit": git_commit(),
        "natural_accuracy": {"percent": 100 * right / n, "interval": wilson(right, n)},
        "robust_accuracy": {"percent": 100 * right_adv / n, "interval": wilson(right_adv, n)},
        "mi": describe(values),
        "detection": detection(values),
    }
    write_csv(
        settings.output / "values.csv",
        [
            {"image": i, **{column: entries[i].item() for column, entries in values.items()}}
            for i in range(n)
        ],
    )
    write_text(settings.output / "summary.json", json.dumps(summary, indent=1) + "\n")
    batch = "-".join(map(str, sizes))
    title = (
        f"{name}, {n} test images, PGD-{settings.num_steps}, {norm} {attack.epsilon:.4g}; "
        f"{summary['bound']}, "
        f"{summary['n_units']} units, batches of {batch}"
    )
    plot_histograms(values, settings.output / "histograms.png", title)
    plot_roc(values, settings.output / "roc.png", title)

    print(f"{source}: {title}")
    print(f"accuracy {100 * right / n:.1f} % without and {100 * right_adv / n:.1f} % under attack")
    print(
        f"The negatives of a sample are the others of its batch of {batch}: "
        "the values hold for this --batch-size only.\n"
    )
    count = summary["mi"]["natural_mi_of_natural"]
    print(
        table(
            [
                "MI in nats, mean (sd)",
                *(f"{text}, n = {count[each]['n']}" for each, text in SETS.items()),
            ],
            [
                [f"{each.replace('_mi_', ' MI ')} samples", *map(spread, by_set.values())]
                for each, by_set in summary["mi"].items()
            ],
        )
    )
    print(
        "\nAUC (95 %) of telling adversarial from natural samples; 0.5 is chance, less is the "
        "reverse of the paper's claim:\n"
    )
    found = summary["detection"]
    print(
        table(
            ["by", *(SETS[each] for each in found["natural"])],
            [
                [f"{kind} MI, {KINDS[kind][2]} = adversarial", *map(interval_text, by_set.values())]
                for kind, by_set in found.items()
            ],
        )
    )
    print(f"\nwritten: {settings.output}/values.csv, summary.json, histograms.png, roc.png")


def spread(entry: dict) -> str:
    """An entry of `describe` as text: mean (sd)."""
    if entry["n"] == 0:
        return "none"
    return f"{entry['mean']:.3f}" + (f" ({entry['sd']:.3f})" if entry["n"] > 1 else "")


def gaussians(settings: Gaussians) -> None:
    """Compare the bounds with known mutual information, on the CPU.

    The optimal critic is in float64, the trained ones in float32.
    """
    devices.compute("cpu")
    make_folder(settings.output, "--output")
    study = Study(
        settings.dim,
        settings.mi,
        settings.samples,
        settings.repetitions,
        settings.steps,
        settings.seed,
    )
    rows = list(
        tqdm(
            study.rows(),
            total=len(study),
            unit="cell",
            disable=not sys.stderr.isatty(),
            leave=False,
        )
    )
    write_csv(settings.output / "gaussians.csv", rows)
    for critic in CRITICS:
        of_critic = [row for row in rows if row["critic"] == critic]
        how = (
            "the log density ratio"
            if critic == "optimal"
            else f"<g(x), f(y)>, two networks, {settings.steps} steps"
        )
        sizes = f"{settings.dim} components, {settings.repetitions} repetitions"
        title = f"{critic} critic ({how}); {sizes}"
        plot_study(of_critic, settings.output / f"gaussians-{critic}.png", title)
        print(f"\n{title}: bias (standard deviation) in nats against the true mutual information\n")
        cells = {
            (row["bound"], row["n"], row["mi"]): f"{row['bias']:+.3f} ({row['sd']:.3f})"
            for row in of_critic
        }
        print(
            table(
                ["bound, N", *(f"I = {mi:g}" for mi in settings.mi)],
                [
                    [f"{bound}, {n}", *(cells[bound, n, mi] for mi in settings.mi)]
                    for bound in BOUNDS
                    for n in settings.samples
                ],
            )
        )
    limits = {row["mi"]: row["limit"] for row in rows if row["bound"] == "fd"}
    print(
        "\nnce cannot exceed log N. fd estimates twice a Jensen-Shannon divergence, not I: "
        + ", ".join(f"{most:.3f} at I = {mi:g}" for mi, most in limits.items())
        + "."
    )
    print(
        f"\nwritten: {settings.output}/gaussians.csv, "
        + ", ".join(f"gaussians-{critic}.png" for critic in CRITICS)
    )


def theorem1(settings: Theorem1) -> None:
    """Compute the terms of Theorem 1 for each case."""
    make_folder(settings.output, "--output")
    cases = {
        case: joint.theorem1()
        for case, joint in theorem1_cases(settings.dim, settings.outputs, settings.seed).items()
    }
    write_csv(
        settings.output / "theorem1.csv", [{"case": case, **terms} for case, terms in cases.items()]
    )
    print("I(x~;z) = I(x;z) + I(n;z) - I(x;n;z) + H(z|x,n) - H(z|x~), in nats\n")
    print(
        table(
            ["case", *next(iter(cases.values()))],
            [
                [
                    case,
                    *(
                        f"{value:.1e}" if term == "difference" else f"{value:.4f}"
                        for term, value in terms.items()
                    ),
                ]
                for case, terms in cases.items()
            ],
        )
    )
    print(f"\nwritten: {settings.output}/theorem1.csv")


def main(settings: Settings) -> None:
    distributed.refuse("analyze_MI.py")
    {Samples: samples, Gaussians: gaussians, Theorem1: theorem1}[type(settings.part)](settings.part)


if __name__ == "__main__":
    run_script(main, settings)
