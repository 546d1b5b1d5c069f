"""Measure what the information bottleneck keeps, and test the paper's claims about it.

    python analyze_IB.py plane --model-dirs runs/vib_1e-1 runs/vib_1e-2 runs/vib_1e-3
    python analyze_IB.py bound --model-dirs runs/vib_seed1 runs/vib_seed2
    python analyze_IB.py transfer --model-dirs runs/vib --second runs/vib_second
    python analyze_IB.py entropy --model-dirs runs/share0 runs/share5 --attacks fgsm deepfool
    python analyze_IB.py gaussian
    python analyze_IB.py estimators

plane: rate, brackets of I(X;T) and I(Y;T), and accuracies (Figure 1). bound: the Lipschitz product
and the gap of each epoch that train_VIB.py --keep-every kept (Figure 2). transfer: adversarial
images between two decoders of one encoder (Figure 3). entropy: of hidden features (Figure 4).
gaussian: a linear bottleneck against its closed form. estimators: of entropy, where it is known.
Each writes a CSV file and a plot. docs/information_bottleneck.md explains the columns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from utils.attacks import registry
from utils.settings.command_line import parse
from utils.settings.options import Fraction, need, need_memory


@dataclass
class Trained:
    """Options of the parts that measure trained networks."""

    model_dirs: tuple[Path, ...] = ()
    """Folders of train_VIB.py."""
    attacks: tuple[str, ...] = ("fgsm",)
    """The attacks that make the adversarial images, by their names in test_comparison.py."""
    epsilon: Fraction = 0.3
    """The Linf budget (paper: 0.3)."""
    limit_test: int = 1000
    """The first N test images, and as many training images for the training accuracy."""
    data_dir: Path | None = None
    """The folder of the data set; the runs' own when not given."""
    seed: int = 1
    """Seed of the draws and attacks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""

    def check(self) -> None:
        """Refuse what cannot be measured."""
        need(bool(self.model_dirs), "model_dirs", "", "give one or more folders of train_VIB.py")
        need(0 <= self.epsilon <= 1, "epsilon", self.epsilon, "give a budget from 0 to 1")
        need(self.limit_test > 1, "limit_test", self.limit_test, "give 2 or more images")
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")
        for name in self.attacks:
            registry.parse(name)


@dataclass
class Plane(Trained):
    """Information of x and y that t keeps, over beta."""

    output: Path = Path("runs/ib-plane")
    """The folder for plane.csv and plane.png."""


@dataclass
class Bound(Trained):
    """The Lipschitz constant and the gap, over the epochs."""

    slopes: int = 16
    """Test images at which the largest local slope is sought."""
    output: Path = Path("runs/ib-bound")
    """The folder for bound.csv, bound-correlations.csv and bound.png."""


@dataclass
class Transfer(Trained):
    """Adversarial images of one decoder tested on another of the same encoder."""

    second: tuple[Path, ...] = ()
    """For each folder of --model-dirs, that of a run that was given its model as --encoder."""
    output: Path = Path("runs/ib-transfer")
    """The folder for transfer.csv, transfer-correlations.csv and transfer.png."""

    def check(self) -> None:
        """Refuse folders that form no pairs."""
        super().check()
        fits = len(self.second) == len(self.model_dirs)
        need(fits, "second", len(self.second), f"give {len(self.model_dirs)}, one for each folder")


@dataclass
class Entropy(Trained):
    """Entropy of the last hidden layer's features."""

    width: float = 0.1
    """Width of the absolute bins, one for all networks."""
    output: Path = Path("runs/ib-entropy")
    """The folder for entropy.csv and entropy.png."""

    def check(self) -> None:
        """Refuse bins without width."""
        super().check()
        need(self.width > 0, "width", self.width, "give a width above 0")


@dataclass
class Gaussian:
    """A linear bottleneck on joint Gaussians, trained and in closed form."""

    dim: int = 4
    """Components of x."""
    outputs: int = 3
    """Components of y."""
    betas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
    """Weights of I(X;T)."""
    seed: int = 1
    """Seed of the covariances and of the first weights."""
    output: Path = Path("runs/ib-gaussian")
    """The folder for gaussian.csv and gaussian.png."""

    def check(self) -> None:
        """Refuse what has no solution."""
        for option in ("dim", "outputs"):
            need(0 < vars(self)[option] <= 10_000, option, vars(self)[option], "give 1 to 10000")
        valid = self.betas and all(0 < beta < 1 for beta in self.betas)
        need(bool(valid), "betas", self.betas, "give values between 0 and 1")
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")


@dataclass
class Estimators:
    """Estimators of entropy on known distributions."""

    samples: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    """Numbers of samples."""
    repetitions: int = 20
    """Draws for each mean and deviation."""
    seed: int = 1
    """Seed of the draws."""
    output: Path = Path("runs/ib-estimators")
    """The folder for estimators.csv and estimators.png."""

    def check(self) -> None:
        """Refuse too few samples."""
        valid = bool(self.samples) and all(n > 0 for n in self.samples)
        need(valid, "samples", self.samples, "give numbers of 1 or more")
        need_memory("samples", self.samples, 2 * max(self.samples, default=0))
        need(self.repetitions > 1, "repetitions", self.repetitions, "give 2 or more")
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")


@dataclass
class Settings:
    """Which part, with its options."""

    part: tyro.conf.OmitSubcommandPrefixes[
        Plane | Bound | Transfer | Entropy | Gaussian | Estimators
    ]


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

from collections.abc import Iterator
from itertools import product

from common.files import make_folder, write_csv
from utils import devices, distributed
from utils.information_bottleneck import correlations, known, linear, networks, plots
from utils.information_bottleneck.networks import Attacked
from utils.mi.feature_entropy import RARE
from utils.plots import table
from utils.scripts import run_script


def attacked(settings: Trained) -> list[Attacked]:
    """Return each way in which the images are attacked."""
    compute = devices.compute(settings.device)
    return [
        Attacked(registry.parse(name).name, settings.epsilon, settings.seed, compute)
        for name in settings.attacks
    ]


def each(settings: Trained) -> Iterator[tuple]:
    """Yield each network, its data set, and a way in which images are attacked."""
    for folder, how in product(settings.model_dirs, attacked(settings)):
        trained = networks.load(folder, how.compute)
        yield trained, networks.images_of(trained, settings.data_dir), how


def plane(settings: Plane) -> list[dict]:
    """Measure information and accuracies of each run."""
    rows = [
        networks.plane(*known_of, settings.limit_test, how) for *known_of, how in each(settings)
    ]
    plots.plot_plane(rows, settings.output / "plane.png", "information plane")
    return rows


def bound(settings: Bound) -> list[dict]:
    """Measure the epochs of each run, and how the gap goes with L and with the rate."""
    rows = []
    for trained, dataset, how in each(settings):
        for file in networks.epochs(trained.folder) or [trained.file]:
            epoch = networks.load(trained.folder, how.compute, file)
            rows.append(networks.bound(epoch, dataset, settings.limit_test, settings.slopes, how))
    epochs, runs = ([row[name] for row in rows] for name in ("epoch", "run"))
    gap = [row["gap"] for row in rows]
    found = [
        {"of": name} | correlations.describe([row[name] for row in rows], gap, epochs, runs)
        for name in ("lipschitz", "rate_bits", "input_bits_lower")
    ]
    write_csv(settings.output / "bound-correlations.csv", found)
    show(found)
    plots.plot_bound(rows, settings.output / "bound.png", "gap over L and over the rate")
    return rows


def transfer(settings: Transfer) -> list[dict]:
    """Measure each pair of decoders, and how the gap goes with L and with tau."""
    rows = []
    for (folder, other), how in product(
        zip(settings.model_dirs, settings.second), attacked(settings)
    ):
        first, second = (networks.load(place, how.compute) for place in (folder, other))
        dataset = networks.images_of(first, settings.data_dir)
        rows.append(networks.transfer(first, second, dataset, settings.limit_test, how))
    betas, runs = ([row[name] for row in rows] for name in ("beta", "run"))
    gap = [row["gap"] for row in rows]
    found = [
        {"of": name} | correlations.describe([row[name] for row in rows], gap, betas, runs)
        for name in ("lipschitz", "largest_slope", "tau")
    ]
    write_csv(settings.output / "transfer-correlations.csv", found)
    show(found)
    plots.plot_transfer(rows, settings.output / "transfer.png", "transfer between decoders")
    return rows


def entropy(settings: Entropy) -> list[dict]:
    """Measure the entropy of the features of each run, under each attack."""
    rows = []
    for trained, dataset, how in each(settings):
        row = networks.entropy(trained, dataset, settings.limit_test, settings.width, how)
        rows.append(row)
        for name, share in row.items():
            if name.endswith("single_share") and share > RARE:
                bins = name.removesuffix("_single_share").replace("_", " images, ")
                print(
                    f"warning: {row['run']}, {bins} bins: {100 * share:.0f} % of the samples have "
                    "a code of their own; the estimate depends on their number, not on features"
                )
    plots.plot_entropy(rows, settings.output / "entropy.png", "entropy of the last hidden layer")
    return rows


def gaussian(settings: Gaussian) -> list[dict]:
    """Train a linear bottleneck for each beta, and compare with the closed form."""
    covariances = linear.example(settings.dim, settings.outputs, settings.seed)
    rows = [
        linear.train(*covariances, beta, settings.dim, settings.seed) for beta in settings.betas
    ]
    plots.plot_gaussian(rows, settings.output / "gaussian.png", "linear bottleneck on Gaussians")
    return rows


def estimators(settings: Estimators) -> list[dict]:
    """Compare the estimators with the known entropies."""
    rows = list(known.rows(settings.samples, settings.repetitions, settings.seed))
    plots.plot_estimators(rows, settings.output / "estimators.png", "estimators of entropy")
    return rows


def show(rows: list[dict]) -> None:
    """Print rows as a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def text(value) -> str:
        return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)

    print(table(columns, [[text(row.get(name)) for name in columns] for row in rows]))


def main(settings: Settings) -> None:
    """Run a part, and write its CSV file."""
    distributed.refuse("analyze_IB.py")
    part = settings.part
    parts = {Plane: plane, Bound: bound, Transfer: transfer, Entropy: entropy}
    run = (parts | {Gaussian: gaussian, Estimators: estimators})[type(part)]
    make_folder(part.output, "--output")
    rows = run(part)
    path = part.output / f"{run.__name__}.csv"
    write_csv(path, rows)
    show(rows)
    print(f"written: {path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    run_script(main, settings)
