"""Measure the robust accuracy of a trained network under attacks, image by image.

    python test_comparison.py --model-dir runs/namid
    python test_comparison.py --model-dir runs/standard --attacks linf --limit-test 1000  # Table 1
    python test_comparison.py --model someone_elses.pth --arch resnet18 --attacks none,pgd-20
    python test_comparison.py --model-dir runs/namid --surrogate runs/vgg19/best_model.pth

The data set, the norm and the budget are those that the network was trained with, unless given
here. If a published model file names none of them, the paper's are used. Every image that the
network classifies correctly is attacked; the others count as wrong. Accuracies are in percent, with
Wilson's 95 % interval. The results are written after every batch of images, and the same command
resumes where it was stopped. Warnings say what makes an evaluation worthless.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError
from utils.attacks import registry
from utils.settings.command_line import parse
from utils.settings.evaluation import Others
from utils.settings.normalisation import Elsewhere
from utils.settings.options import Arch, Count, Dataset, Fraction, group, need, need_memory
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
    """Instead of both: package.module:function or path/file.py:function, which makes a network."""
    which: Literal["best", "last"] = "best"
    """Which model of the folder is evaluated."""
    elsewhere: Elsewhere = group(Elsewhere)
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
    """Also write a plot and a CSV file of accuracy against the budget: budgets with commas between,
    say 0,2/255,4/255,8/255,16/255."""
    gallery: bool = False
    """Also draw adversarial images of each attack, beside the results file."""
    dataset: Dataset | None = None
    """The data set; the run's own when not given."""
    data_dir: Path | None = None
    """The folder of the data set; the run's own when not given."""
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
    """Seed of the attacks' random draws."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the networks; float32 runs without TF32."""
    output: Path | None = None
    """The results file; results.json in --model-dir when not given."""
    restart: bool = False
    """Replace the results file instead of resuming from it."""
    others: Others = group(Others)

    def check(self) -> None:
        """Refuse values that cannot be meant, one at a time."""
        self._check_values()
        self._check_files()
        self.budgets()
        if self.attacks not in ("linf", "l2", "released"):
            for name in self.attacks.split(","):
                knows = registry.parse(name, self.norm).takes_estimators
                right = "it attacks a network by its own estimators; leave --surrogate out"
                need(not (knows and self.surrogate), "attacks", name, right)

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
        counts = dict.fromkeys(("limit_test", "batch_size"), "images")
        counts |= dict.fromkeys(("samples", "attack_samples"), "draws")
        for option, what in counts.items():
            value = getattr(self, option)
            need(value is None or value > 0, option, value, f"give 1 or more {what}")
            if what == "draws":
                need_memory(option, value, 2 * value * self.batch_size)
        arch, surrogate_arch = self.arch, self.surrogate_arch
        need(not (arch and self.factory), "arch", arch, "is of a file; leave it out")
        need(self.surrogate or not surrogate_arch, "surrogate_arch", surrogate_arch, "has no file")
        alone = self.predictor == "fresh" and "aa" in self.attacks.split(",")
        right = "it goes by single judgements, which fresh makes at random; give aa-rand"
        need(not alone, "attacks", "aa", right)
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")

    def _check_files(self) -> None:
        """Refuse files that cannot be written, and options that exclude each other."""
        self.elsewhere.check_surrogate(self.surrogate)
        path = self.save_adv
        need(not path or path.suffix == ".npz", "save_adv", path, "name a file that ends in .npz")
        surrogate = self.surrogate or self.elsewhere.surrogate_factory
        crafting = (surrogate, path, self.sweep, self.gallery, self.round_uint8)
        crafts = any(crafting) or self.attacks != Settings.attacks
        right = "leave --attacks, --surrogate, --save-adv, --sweep, --gallery and --round-uint8 out"
        made = f"these images are made already; {right}"
        need(not (self.adv and crafts), "adv", self.adv, made)
        corruptions, report = self.others.corruptions, self.others.robustbench_json
        right = (
            f"corrupted images are not attacked; {right}, and --adv, --split, --robustbench-json"
        )
        crafts = crafts or bool(self.adv or report) or self.split != "test"
        need(not (corruptions and crafts), "corruptions", corruptions, right)
        need(not (report and self.adv), "robustbench_json", report, "leave --adv out")
        need(not (report and surrogate), "robustbench_json", report, "leave --surrogate out")
        right = "--attacks released has steps of its own; leave --step-size out"
        need(not self.step_size or self.attacks != "released", "step_size", self.step_size, right)
        for option, what in {"sweep": "the plot goes", "gallery": "the pictures go"}.items():
            value, beside = getattr(self, option), self.output or self.model_dir
            need(not value or beside, option, value or "", f"give --output, beside which {what}")

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
from utils.evaluation import checks, robustbench, rows
from utils.evaluation.adaptive import with_estimators
from utils.evaluation.autoattack import unfinished
from utils.evaluation.corruptions import NAME, run_corruptions
from utils.evaluation.counting import Evaluation
from utils.evaluation.identity import Identity, Metadata
from utils.evaluation.images import (
    load_images,
    open_kept,
    read_about,
    read_adversarial,
    save_adversarial,
)
from utils.evaluation.networks import Network, load_network, load_surrogate
from utils.evaluation.outputs import sole_writer
from utils.evaluation.predictors import predictors
from utils.evaluation.report import draw_gallery, print_files, print_header, print_results, sweep
from utils.evaluation.results import Results
from utils.evaluation.threat import ThreatModel, check_budgets, check_sweep, threat_model
from utils.scripts import run_script


def evaluate(
    settings: Settings, compute: Compute, network: Network, threat: ThreatModel, output: Path | None
) -> None:
    """Make the rows, warnings, table and files of a network under the attacks asked for."""
    others = settings.others
    surrogate = settings.surrogate, settings.surrogate_arch, *settings.elsewhere.surrogate
    network.surrogate = load_surrogate(*surrogate)
    dataset, images, labels = load_images(
        network, settings.dataset, settings.data_dir, settings.split, settings.limit_test
    )
    network.prepare(compute, images, dataset.num_classes)
    given = read_adversarial(settings.adv, images, labels) if settings.adv else {}
    draws = settings.predictor, settings.samples, settings.attack_samples
    stochastic = predictors(network.model, *draws)
    n = len(labels)
    identity = Identity.of(settings, network, dataset, n, threat, compute.precision, stochastic)
    print_header(identity, threat, compute.device, output)

    attacks = available(settings.chosen_attacks(threat.norm))
    attacks = with_estimators(attacks, others.estimator_dir, network, threat, dataset, compute)
    results = Results(identity, Metadata.now(compute.device), output, settings.restart)
    robustbench.check(others.robustbench_json, results, attacks)
    how = threat, compute, settings.batch_size, settings.seed, results, settings.round_uint8
    crafted_on = network.surrogate and network.surrogate.model
    evaluation = Evaluation(network.model, crafted_on, images, labels, *how, predictors=stochastic)
    saved, restart = results.content.get("saved"), settings.restart
    evaluation.keep = open_kept(settings.save_adv, results.question, saved, attacks, restart)
    if restart and output:
        unfinished(output).unlink(missing_ok=True)

    general = checks.of_network(evaluation) + network.warnings(compute, images, labels)
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
    robustbench.write(others.robustbench_json, results, network)
    files = {"adversarial images": settings.save_adv, "for RobustBench": others.robustbench_json}
    print_files(files | {"written": output})


def main(settings: Settings) -> None:
    """Find the network and the threat model, and evaluate while no other process writes."""
    distributed.refuse("test_comparison.py")
    compute = devices.compute(settings.device, settings.precision)
    files = (settings.model_dir, settings.model, settings.arch, settings.which, settings.factory)
    network = load_network(*files, settings.elsewhere.inputs.normalisation)
    if folder := settings.others.corruptions:
        name, limit = network.dataset(settings.dataset), settings.limit_test
        output = settings.output or (settings.model_dir and settings.model_dir / NAME)
        with sole_writer({"--output": output}):
            run_corruptions(network, folder, name, compute, limit, settings.batch_size, output)
        return
    threat = threat_model(settings.norm, settings.epsilon, network.known, settings.attacks)
    check_budgets(settings.attacks, threat, settings.budgets())
    check_sweep(settings.sweep, settings.attacks, settings.chosen_attacks(threat.norm))
    output = settings.output or (settings.model_dir and settings.model_dir / "results.json")
    read = {"--adv": settings.adv, "--surrogate": settings.surrogate, "--model": settings.model}
    written = {"--output": output, "--save-adv": settings.save_adv}
    with sole_writer(written | {"--robustbench-json": settings.others.robustbench_json}, read):
        evaluate(settings, compute, network, threat, output)


if __name__ == "__main__":
    run_script(main, settings)
