"""Robust accuracy of a trained network under attacks, on test images, counted image by image.

    python test_comparison.py --model-dir runs/namid
    python test_comparison.py --model-dir runs/standard --attacks linf --limit-test 1000  # Table 1
    python test_comparison.py --model someone_elses.pth --arch resnet18 --attacks none,pgd-20
    python test_comparison.py --model-dir runs/namid --surrogate runs/vgg19/best_model.pth

The data set, the norm and the budget are those that the network was trained with unless given here;
a published model file names none of them, and the paper's are taken. Every image that the network
gets right is attacked; one that it gets wrong counts as wrong. Accuracies are in percent, with
Wilson's 95 % interval. The results are written after every batch of images, and the same command
resumes where it was stopped. Warnings say what makes an evaluation worthless.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError
from utils.attacks import registry
from utils.settings.command_line import parse
from utils.settings.options import Arch, Count, Dataset, Fraction, need
from utils.settings.values import fraction


@dataclass
class Settings:
    """Options of the evaluation."""

    model_dir: Path | None = None
    """A run's folder; its best model is evaluated."""
    model: Path | None = None
    """A model file, instead of a folder."""
    arch: Arch | None = None
    """The architecture of --model, for a file that does not say it."""
    factory: str | None = None
    """Instead of both: package.module:function, which returns a network on [0,1] images."""
    which: Literal["best", "last"] = "best"
    """Which model of the folder."""
    attacks: str = "none,fgsm,pgd-40"
    """Names with commas between; linf and l2 are the paper's columns, released those with the
    released script's settings."""
    surrogate: Path | None = None
    """Black box: craft on this model file, test on the model."""
    surrogate_arch: Arch | None = None
    """The architecture of --surrogate, for a file that does not say it."""
    adv: Path | None = None
    """Test on the adversarial images in this file of --save-adv, instead of attacks."""
    predictor: Literal["bank", "mean", "fresh"] | None = None
    """What a network with a bottleneck is evaluated as: bank (the same noise, from a seed, for all
    images; the default), mean (no noise), or fresh (new noise at each query, attacked by averaging
    over draws)."""
    samples: int = 12
    """Draws of bank and fresh."""
    attack_samples: int = 20
    """Draws of fresh that each step of an attack averages over."""
    save_adv: Path | None = None
    """Write the adversarial images to this .npz file."""
    round_uint8: bool = False
    """Round adversarial images to 256 levels, as an image file holds them and within the budget,
    before they are judged."""
    sweep: str | None = None
    """Accuracy against the budget: budgets with commas between, say 0,2/255,4/255,8/255,16/255;
    a plot and a CSV file."""
    gallery: bool = False
    """A picture of adversarial images for each attack, beside the results file."""
    dataset: Dataset | None = None
    """The data set; the run's own when not given."""
    data_dir: Path | None = None
    """Where it is; the run's own when not given."""
    split: Literal["test", "holdout"] = "test"
    """The test images, or the training images that the run in --model-dir held out."""
    limit_test: Count = None
    """Only the first N images of the split."""
    norm: Literal["linf", "l2"] | None = None
    """The norm of the budget; the run's own when not given."""
    epsilon: Fraction = None
    """The budget in pixel units; the run's own when not given."""
    step_size: Fraction = None
    """Length of a step of bim, pgd, mim and tidim; epsilon/4 when not given."""
    batch_size: int = 256
    """Images attacked at once."""
    seed: int = 1
    """Of the attacks' random draws."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the networks; float32 has TF32 off."""
    output: Path | None = None
    """The result file; results.json in --model-dir when not given."""
    restart: bool = False
    """Replace the results file instead of resuming from it."""

    def check(self) -> None:
        """Refuse values that cannot be meant, one at a time."""
        self._check_values()
        self._check_files()
        self.budgets()
        if self.attacks not in ("linf", "l2", "released"):
            for name in self.attacks.split(","):
                registry.parse(name, self.norm)

    def _check_values(self) -> None:
        """Refuse values that are wrong by themselves, and more or less than one network."""
        networks = (self.model_dir, self.model, self.factory)
        one = sum(given is not None for given in networks) == 1
        need(
            one,
            "model-dir or --model",
            "",
            "give one of --model-dir (a run's folder), --model (a model file) and --factory",
        )
        need(
            self.split == "test" or self.model_dir is not None,
            "split",
            self.split,
            "only a run's folder knows its held-out images; give --model-dir",
        )
        need(
            self.epsilon is None or 0 <= self.epsilon <= 128,
            "epsilon",
            self.epsilon,
            "a budget in pixel units is needed; write 8/255 for 8 grey levels",
        )
        need(
            self.step_size is None or self.step_size > 0,
            "step_size",
            self.step_size,
            "give a step above 0",
        )
        need(
            self.limit_test is None or self.limit_test > 0,
            "limit_test",
            self.limit_test,
            "give 1 or more images",
        )
        for option in ("samples", "attack_samples"):
            need(getattr(self, option) > 0, option, getattr(self, option), "give 1 or more draws")
        alone = self.predictor == "fresh" and "aa" in self.attacks.split(",")
        right = "it goes by single judgements, which fresh makes at random; give aa-rand"
        need(not alone, "attacks", "aa", right)
        need(self.batch_size > 0, "batch_size", self.batch_size, "give 1 or more images")
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")

    def _check_files(self) -> None:
        """Refuse files that cannot be written, and options that exclude each other."""
        path = self.save_adv
        need(
            path is None or path.suffix == ".npz", "save_adv", path, "name a file that ends in .npz"
        )
        crafting = (self.surrogate, self.save_adv, self.sweep, self.gallery, self.round_uint8)
        crafts = any(crafting) or self.attacks != Settings.attacks
        need(
            not (self.adv and crafts),
            "adv",
            self.adv,
            "these images are made already; leave --attacks, --surrogate, --save-adv, --sweep, "
            "--gallery and --round-uint8 out",
        )
        need(
            self.step_size is None or self.attacks != "released",
            "step_size",
            self.step_size,
            "--attacks released has steps of its own; leave --step-size out",
        )
        beside = self.output or self.model_dir
        need(
            beside or not self.sweep,
            "sweep",
            self.sweep,
            "give --output, beside which the plot goes",
        )
        need(
            beside or not self.gallery, "gallery", "", "give --output, beside which the pictures go"
        )

    def budgets(self) -> list[float]:
        """Read the budgets of --sweep, from the smallest up."""
        try:
            budgets = [fraction(text) for text in self.sweep.split(",")] if self.sweep else []
        except ValueError as error:
            raise InputError(f"--sweep {self.sweep}: {error}") from None
        need(
            all(budget >= 0 for budget in budgets), "sweep", self.sweep, "give budgets of 0 or more"
        )
        return sorted(set(budgets))

    def chosen_attacks(self, norm: str) -> dict[str, dict]:
        """Return {name of the attack: its settings} for the norm."""
        if self.attacks == "released":
            return registry.RELEASED[norm]
        own_step = {} if self.step_size is None else {"step_size": self.step_size}
        names = registry.COLUMNS.get(self.attacks) or self.attacks.split(",")
        specs = [registry.parse(name, norm) for name in names]
        return {spec.name: own_step if spec.takes_step_size else {} for spec in specs}


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

from utils import devices, distributed
from utils.attacks.available import available
from utils.devices import Compute
from utils.evaluation import checks, rows
from utils.evaluation.counting import Evaluation
from utils.evaluation.identity import Identity, Metadata
from utils.evaluation.images import (
    kept_folder,
    load_images,
    open_kept,
    read_about,
    read_adversarial,
    save_adversarial,
)
from utils.evaluation.networks import Network, load_network, load_surrogate
from utils.evaluation.predictors import predictors
from utils.evaluation.report import draw_gallery, print_files, print_header, print_results, sweep
from utils.evaluation.results import Results, sole_writer, start_over
from utils.evaluation.threat import ThreatModel, check_budgets, check_sweep, threat_model
from utils.scripts import run_script


def evaluate(
    settings: Settings, compute: Compute, network: Network, threat: ThreatModel, output: Path | None
) -> None:
    """Make the rows, warnings, table and files of a network under the attacks asked for."""
    dataset, images, labels = load_images(
        network, settings.dataset, settings.data_dir, settings.split, settings.limit_test
    )
    surrogate = load_surrogate(settings.surrogate, settings.surrogate_arch, compute, dataset)
    network.prepare(compute, images, dataset.num_classes)
    given = read_adversarial(settings.adv, images, labels) if settings.adv else {}
    stochastic = predictors(
        network.model, settings.predictor, settings.samples, settings.attack_samples
    )
    n = len(labels)
    identity = Identity.of(settings, network, dataset, n, threat, compute.precision, stochastic)
    print_header(identity, threat, compute.device, output)

    attacks = available(settings.chosen_attacks(threat.norm))
    results = Results(identity, Metadata.now(compute.device), output)
    evaluation = Evaluation(
        network.model,
        surrogate,
        images,
        labels,
        threat,
        compute,
        settings.batch_size,
        settings.seed,
        results,
        settings.round_uint8,
        predictors=stochastic,
    )
    evaluation.keep = open_kept(
        settings.save_adv, results.question, results.content.get("saved"), attacks
    )

    general = checks.of_network(evaluation)
    if settings.adv:
        found, warned = rows.of_images(evaluation, given, read_about(settings.adv))
    else:
        found, warned = rows.of_attacks(evaluation, attacks)
    if settings.sweep:
        warned |= sweep(evaluation, attacks, settings.budgets(), output)
    compared = not settings.adv and not evaluation.black_box
    results.conclude(general, warned, checks.of_order(results.complete()) if compared else {})

    print_results(found, results, list(warned))
    if settings.gallery:
        draw_gallery(evaluation, attacks, output)
    if evaluation.keep:
        about = results.about(attacks)
        results.save(save_adversarial(evaluation.keep, settings.save_adv, labels, about))
    print_files({"adversarial images": settings.save_adv, "written": output})


def main(settings: Settings) -> None:
    """Find the network and the threat model, and evaluate while no other process writes."""
    distributed.refuse("test_comparison.py")
    compute = devices.compute(settings.device, settings.precision)
    network = load_network(
        settings.model_dir, settings.model, settings.arch, settings.which, settings.factory
    )
    threat = threat_model(settings.norm, settings.epsilon, network.known, settings.attacks)
    check_budgets(settings.attacks, threat, settings.budgets())
    check_sweep(settings.sweep, settings.attacks, settings.chosen_attacks(threat.norm))
    output = settings.output or (settings.model_dir and settings.model_dir / "results.json")
    with sole_writer({"--output": output, "--save-adv": settings.save_adv}):
        if settings.restart:
            start_over(output, settings.save_adv and kept_folder(settings.save_adv))
        evaluate(settings, compute, network, threat, output)


if __name__ == "__main__":
    run_script(main, settings)
