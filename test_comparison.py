"""Robust accuracy of a trained network under attacks, on test images, counted image by image.

    python test_comparison.py --model-dir runs/namid
    python test_comparison.py --model-dir runs/standard --attacks linf --limit-test 1000        # the paper's columns
    python test_comparison.py --model someone_elses.pth --arch resnet18 --attacks none,pgd-20
    python test_comparison.py --model-dir runs/namid --surrogate runs/vgg19/best_model.pth      # black box

The data set, the norm and the budget are those that the network was trained with unless given here; a published model file says
none of them, and the paper's are taken. Attacked is every image that the network gets right; one that it gets wrong counts as
wrong. Accuracies are in percent, with Wilson's 95 % interval. The results are written with every batch of images, and the same
command goes on where it was stopped. What makes an evaluation doubtful is said in warnings.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError
from utils.attacks import registry
from utils.settings.command_line import parse
from utils.settings.options import EPSILON, Arch, Count, Dataset, Fraction, fraction, need


@dataclass
class Settings:
    """Options of the evaluation."""

    model_dir: Path | None = None
    """A run's folder; its best model is evaluated."""
    model: Path | None = None
    """A model file, in place of a folder."""
    arch: Arch | None = None
    """The architecture of --model, for a file that does not say it."""
    factory: str | None = None
    """In place of both: package.module:function, which returns a network on [0,1] images."""
    which: Literal["best", "last"] = "best"
    """Which model of the folder."""
    attacks: str = "none,fgsm,pgd-40"
    """Names with commas between; linf and l2 are the paper's columns, released those with the released script's settings."""
    surrogate: Path | None = None
    """Black box: craft on this model file, test on the model."""
    surrogate_arch: Arch | None = None
    """The architecture of --surrogate, for a file that does not say it."""
    adv: Path | None = None
    """Test on the adversarial images in this file of --save-adv, in place of attacks."""
    save_adv: Path | None = None
    """Write the adversarial images to this .npz file."""
    round_uint8: bool = False
    """Round adversarial images to 256 levels, as an image file holds them and within the budget, before they are judged."""
    sweep: str | None = None
    """Accuracy against the budget: budgets with commas between, say 0,2/255,4/255,8/255,16/255; a plot and a CSV file."""
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
    """Replace the results file in place of going on with it."""

    def check(self) -> None:
        need(sum(given is not None for given in (self.model_dir, self.model, self.factory)) == 1, "model-dir or --model", "",
             "give one of --model-dir (a run's folder), --model (a model file) and --factory")
        need(self.split == "test" or self.model_dir is not None, "split", self.split,
             "only a run's folder knows its held-out images; give --model-dir")
        need(self.epsilon is None or 0 <= self.epsilon <= 128, "epsilon", self.epsilon,
             "a budget in pixel units is needed; write 8/255 for 8 grey levels")
        need(self.step_size is None or self.step_size > 0, "step_size", self.step_size, "give a step above 0")
        need(self.limit_test is None or self.limit_test > 0, "limit_test", self.limit_test, "give 1 or more images")
        need(self.batch_size > 0, "batch_size", self.batch_size, "give 1 or more images")
        need(self.seed >= 0, "seed", self.seed, "give 0 or more")
        need(self.save_adv is None or self.save_adv.suffix == ".npz", "save_adv", self.save_adv, "name a file that ends in .npz")
        need(not (self.adv and (self.surrogate or self.save_adv or self.sweep or self.gallery or self.round_uint8
                                or self.attacks != Settings.attacks)), "adv", self.adv,
             "these images are made already; leave --attacks, --surrogate, --save-adv, --sweep, --gallery and --round-uint8 out")
        need(self.step_size is None or self.attacks != "released", "step_size", self.step_size,
             "--attacks released has steps of its own; leave --step-size out")
        beside = self.output or self.model_dir
        need(beside or not self.sweep, "sweep", self.sweep, "give --output, beside which the plot goes")
        need(beside or not self.gallery, "gallery", "", "give --output, beside which the pictures go")
        if self.sweep:
            self.budgets()
        if self.attacks not in ("linf", "l2", "released"):
            for name in self.attacks.split(","):
                registry.parse(name, self.norm)

    def budgets(self) -> list[float]:
        """The budgets of --sweep, from the smallest up."""
        try:
            budgets = [fraction(text) for text in self.sweep.split(",")] if self.sweep else []
        except ValueError as error:
            raise InputError(f"--sweep {self.sweep}: {error}") from None
        need(all(budget >= 0 for budget in budgets), "sweep", self.sweep, "give budgets of 0 or more")
        return sorted(set(budgets))

    def chosen_attacks(self, norm: str) -> dict[str, dict]:
        """{name of the attack: its settings} for the norm."""
        if self.attacks == "released":
            return registry.RELEASED[norm]
        own_step = {} if self.step_size is None else {"step_size": self.step_size}
        specs = [registry.parse(name, norm)
                 for name in registry.COLUMNS.get(self.attacks) or self.attacks.split(",")]
        return {spec.name: own_step if spec.takes_step_size else {} for spec in specs}


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import contextlib
import json
import os
import shlex
import shutil
import sys
import time

import numpy
import torch

import data
import models
from common.files import file_hash, make_folder, write_csv, write_text
from common.locks import held
from data.sets import DataSet, holdout_size, split_holdout
from utils import devices, distributed, provenance
from utils.attacks.projected_gradient import frozen
from utils.evaluation import checks
from utils.evaluation.counting import ABOUT, SWEPT, TOLD, Evaluation, read_about, read_adversarial, unfinished
from utils.evaluation.factories import from_factory, state_hash, try_out
from utils.plots import plot_examples, plot_sweep, table
from utils.provenance import git_commit
from utils.scripts import run_script
from utils.training.run_folder import read_settings
from utils.training.stages import check_classes


def find_model(settings: Settings) -> tuple[torch.nn.Module, str, dict]:
    """The network, where it is from, and the options of the run that made it ({} for one without a folder)."""
    if settings.factory:
        return from_factory(settings.factory), settings.factory, {}
    if settings.model:
        return models.load(settings.model, settings.arch), str(settings.model), {}
    folder = settings.model_dir
    options = read_settings(folder)["options"]
    names = ["target_model.pth", "best_model.pth"] if settings.which == "best" else ["last_model.pth"]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"--model-dir {folder}: has no {' or '.join(names)} yet; let its training stage finish, or give --model")
    return models.load(path, settings.arch), str(path), options


def threat_model(settings: Settings, known: dict) -> tuple[str, str, float]:
    """The data set, the norm and the budget: as asked, else what is `known` of the network, else the paper's."""
    name = settings.dataset or known.get("dataset") or "cifar10"
    norm = settings.norm or known.get("norm") or (settings.attacks if settings.attacks in EPSILON else "linf")
    if settings.epsilon is not None:
        return name, norm, settings.epsilon
    return name, norm, known["epsilon"] if known.get("norm") == norm else EPSILON[norm]


def saved_before(evaluation: Evaluation, path: Path, attacks: dict) -> bool:
    """Whether the file of --save-adv is what a run of this very evaluation wrote for these attacks."""
    saved = evaluation.results.get("saved") or {}
    return (path.is_file() and saved.get("all_steps") and set(attacks) <= set(saved.get("attacks", ()))
            and saved.get("file_hash") == file_hash(path))


def fresh_folder(parts: Path, identity: dict) -> Path:
    """An empty folder for the images of --save-adv, or the one that a stopped run of this very evaluation left."""
    question, said = parts / "question.json", json.dumps(identity | {"all_steps": True}, default=str)
    if parts.is_dir() and not (question.is_file() and question.read_text() == said):
        shutil.rmtree(parts)
    parts.mkdir(exist_ok=True)
    write_text(question, said)
    return parts


@contextlib.contextmanager
def alone(option: str, path: Path | None):
    """Inside, no other process writes this file."""
    if path is None:
        yield
        return

    def busy():
        raise InputError(f"{option} {path}: another process is writing it; wait for it, or name another file")
    lock = path.with_name(f".{path.name}.lock")
    lock.touch()
    with held(lock, busy):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def chosen_images(settings: Settings, options: dict, dataset: DataSet) -> tuple[torch.Tensor, torch.Tensor]:
    """The images (uint8) and labels of the split that --split and --limit-test name."""
    if settings.split == "test":
        return dataset.test_images, dataset.test_labels
    size = holdout_size(options["holdout"], len(dataset.train_labels))
    _, held = split_holdout(dataset.train_labels, size, options["seed"])
    held = held[:settings.limit_test]
    if len(held) == 0:
        raise InputError(f"--split holdout: the run in {settings.model_dir} held no images out; use --split test")
    return dataset.train_images[held], dataset.train_labels[held]


def how_made(evaluation: Evaluation, names: list[str]) -> dict:
    """Say how the images of a file of --save-adv were made: what was asked, by which commit, with which settings."""
    return {**evaluation.identity, "all_steps": True,
            "attacks": {name: evaluation.results["attacks"][name]["settings"] for name in names}}


def save_adversarial(parts: Path, names: list[str], path: Path, labels: torch.Tensor, about: dict) -> None:
    """Join the parts, a file per attack and batch, to one .npz file that says how its images were made, and remove them."""
    arrays = {name: numpy.concatenate([numpy.load(part) for part in sorted(parts.glob(f"{name}.??????.npy"))]) for name in names}
    if about["rounded"]:
        arrays = {name: (array * 255).round().astype(numpy.uint8) for name, array in arrays.items()}
    beside = path.with_name(f"{path.name}.part.npz")
    numpy.savez_compressed(beside, labels=labels.numpy(), **{ABOUT: json.dumps(about, default=str)}, **arrays)
    os.replace(beside, path)
    shutil.rmtree(parts)


def print_table(rows: dict[str, dict]) -> None:
    """Print a row for each attack: accuracy within the budget with its interval, at any norm, how many images the attack
    returned changed, and what it cost."""
    def cells(name, row):
        low, high = row["interval"]
        anywhere = ""
        if "accuracy_any_norm" in row:
            anywhere = f"{row['accuracy_any_norm']:.2f} ({row['interval_any_norm'][0]:.1f}-{row['interval_any_norm'][1]:.1f})"
        median = f"{row['median_norm']:.3f}" if row.get("median_norm") is not None else ""
        attacked = row.get("attacked", 0)
        passes = f"{row['forward_passes'] / attacked:.0f}+{row['backward_passes'] / attacked:.0f}" if attacked else ""
        seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
        perturbed = str(row["perturbed"]) if "settings" in row else ""
        return [name, f"{row['accuracy']:.2f}", f"{low:.1f}-{high:.1f}", anywhere, median, str(row["correct"]), str(row["n"]),
                perturbed, passes, seconds]

    header = ["attack", "accuracy %", "95 %", "at any norm", "median norm", "correct", "images", "perturbed", "passes", "seconds"]
    print(table(header, [cells(name, row) for name, row in rows.items()]))


def draw_gallery(evaluation: Evaluation, attacks: dict, folder: Path, stem: str) -> list[Path]:
    """A picture for each attack: the first images that the network gets right, and what the attack makes of them."""
    x = evaluation.images[:32].to(evaluation.compute.device).float() / 255
    y = evaluation.labels[:32].to(evaluation.compute.device)
    paths = []
    with frozen(evaluation.model), torch.no_grad():
        chosen = (evaluation.model(x).argmax(1) == y).nonzero()[:6, 0]
        x, y = x[chosen], y[chosen]
        for name, extra in attacks.items():
            if name != "none" and len(chosen):
                x_adv = registry.attack(name, evaluation.source, x, y, evaluation.norm, evaluation.epsilon,
                                            evaluation.seed, **extra)
                paths.append(folder / f"{stem}-{name}.png")
                plot_examples(x, x_adv, y, evaluation.model(x).argmax(1), evaluation.model(x_adv).argmax(1), paths[-1],
                              f"{name}, {'transport' if registry.kind_of(name) == 'transport' else evaluation.norm} "
                              f"{evaluation.epsilon:.4g}")
    return paths


def check_budgets(settings: Settings, norm: str, epsilon: float) -> None:
    """InputError where the columns are another norm's, or a budget is beyond all sense."""
    if settings.attacks in registry.COLUMNS and settings.attacks != norm:
        raise InputError(f"--attacks {settings.attacks}: these columns are for --norm {settings.attacks}, not for {norm}; give "
                         f"--norm {settings.attacks}, or --attacks {norm}")
    for option, budget in [("--epsilon", epsilon), *(("--sweep", budget) for budget in settings.budgets())]:
        if norm == "linf" and budget > 1:
            raise InputError(f"{option} {budget:.6g}: is more than a pixel's range, which is 1; write {budget:.6g}/255 for grey "
                             "levels")
    if settings.sweep and not any(registry.parse(each).kind == "bounded" for each in settings.chosen_attacks(norm)):
        raise InputError(f"--sweep {settings.sweep}: {settings.attacks} stays in no ball of a given radius; give an attack that "
                         "does, say pgd-40")


def sweep(evaluation: Evaluation, attacks: dict, budgets: list[float], output: Path, general: list[str]) -> dict[str, list[str]]:
    """Plot accuracy against the budget, and write it as a CSV file, beside the results file, for the attacks that stay in a ball.
    Returns {row: its warnings}, the `general` ones of the network among them."""
    points, warned = [], {}
    for each, extra in attacks.items():
        if registry.parse(each).kind == "bounded":
            for budget in budgets:
                row = evaluation.run(registry.parse(each), epsilon=budget, **extra)
                warned[f"{each}{SWEPT}{budget:.6g}"] = list(general)
                points.append({"attack": each, "epsilon": budget, "accuracy": row["accuracy"], "low": row["interval"][0],
                               "high": row["interval"][1], "n": row["n"]})
            if row["accuracy"] > 0:
                warned[f"{each}{SWEPT}{budget:.6g}"].append(
                    f"{each}: {row['accuracy']:.1f} % stand at {evaluation.norm} {budget:.4g}; for a large budget "
                    "nothing should: sweep further, and suspect the attack where it never falls to 0")
    curves = {point["attack"]: [(each["epsilon"], each["accuracy"]) for each in points if each["attack"] == point["attack"]]
              for point in points}
    plot_sweep(curves, evaluation.norm, len(evaluation.labels), output.with_name(f"{output.stem}-sweep.png"))
    write_csv(output.with_name(f"{output.stem}-sweep.csv"), points)
    return warned


def evaluate(settings: Settings, compute: devices.Compute, network: tuple[torch.nn.Module, str, dict],
             threat: tuple[str, str, float], attacks: dict[str, dict], output: Path | None) -> None:
    """Rows, warnings, pictures and files of a network (itself, where it is from, its run's options) under a threat model (data
    set, norm, budget)."""
    (model, source, options), (name, norm, epsilon) = network, threat
    parts = settings.save_adv.with_name(settings.save_adv.name + ".parts") if settings.save_adv else None
    if settings.restart:
        if output:
            output.unlink(missing_ok=True)
            unfinished(output).unlink(missing_ok=True)
        if parts and parts.is_dir():
            shutil.rmtree(parts)
    dataset = data.load(name, settings.data_dir or options.get("data_dir") or "datasets", options.get("limit_train"),
                        settings.limit_test if settings.split == "test" else None)
    if hasattr(model, "options"):
        check_classes(model, dataset, f"--factory {source}" if settings.factory else source)
    images, labels = chosen_images(settings, options, dataset)
    surrogate = None
    if settings.surrogate:
        try:
            surrogate = compute.prepare(models.load(settings.surrogate, settings.surrogate_arch))
        except InputError as error:
            raise InputError(f"--surrogate {str(error).replace('--arch', '--surrogate-arch')}") from None
        check_classes(surrogate, dataset, f"--surrogate {settings.surrogate}")
    print(f"{source}: {name} {settings.split} split, {len(labels)} images; {norm} {epsilon:.4g}; {compute.device.type}, "
          f"{compute.precision}" + (f"; crafted on {settings.surrogate}" if surrogate else "")
          + ("; rounded to 256 levels" if settings.round_uint8 else "") + f"; seed {settings.seed}", flush=True)
    model = compute.prepare(model)
    if settings.factory:
        try_out(model, settings.factory, images[:2].to(compute.device).float() / 255, dataset.num_classes)
    given = read_adversarial(settings.adv, images, labels) if settings.adv else {}

    # rules: 2 and 3 where --step-size or rounding is asked for, which older files took in another sense.
    identity = {"model": source, "factory": settings.factory,
                "model_hash": state_hash(model) if settings.factory else file_hash(source), "arch": getattr(model, "arch", None),
                "surrogate": settings.surrogate and str(settings.surrogate),
                "surrogate_hash": settings.surrogate and file_hash(settings.surrogate),
                "adv_hash": settings.adv and file_hash(settings.adv), "dataset": name,
                "data_fingerprint": dataset.fingerprint, "split": settings.split, "n": len(labels), "norm": norm,
                "epsilon": epsilon, "step_size": settings.step_size, "released_settings": settings.attacks == "released",
                "rounded": settings.round_uint8, "rules": 3 if settings.round_uint8 else 2 if settings.step_size else None,
                "seed": settings.seed, "batch_size": settings.batch_size, "precision": compute.precision,
                "hardware": provenance.hardware(compute.device), "versions": provenance.versions(),
                "git_commit": git_commit(), "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                "date": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    evaluation = Evaluation(model, surrogate, images, labels, norm, epsilon, compute, settings.batch_size,
                            settings.seed, identity, output, settings.round_uint8)
    if parts and not saved_before(evaluation, settings.save_adv, attacks):
        evaluation.keep = fresh_folder(parts, {name: value for name, value in identity.items() if name not in TOLD})
    general = checks.of_network(evaluation)

    if settings.adv:
        about = read_about(settings.adv)
        rows = {each: evaluation.given(each, array) for each, array in given.items()}
        warned = {each: general + checks.of_given(evaluation, each, about) for each in rows}
    else:
        rows = {each: evaluation.run(registry.parse(each), **extra) for each, extra in attacks.items()}
        warned = {each: general + checks.of_attack(evaluation, registry.parse(each), extra)
                  for each, extra in attacks.items()}
    if settings.sweep:
        warned |= sweep(evaluation, attacks, settings.budgets(), output, general)
    evaluation.conclude(warned, {} if settings.adv or surrogate else checks.of_order(evaluation.attacks()))
    worst = evaluation.results["worst_case"]
    print_table(rows | ({"worst case": worst} if worst else {}))
    shown = dict.fromkeys(text for each in warned for text in evaluation.results["attacks"][each]["warnings"])
    for text in shown:
        print(f"warning: {text}")
    if settings.gallery:
        paths = draw_gallery(evaluation, attacks, output.parent, output.stem)
        print("\n".join(f"picture: {path}" for path in paths) or "no picture: the network gets none of the first 32 images right")
    if evaluation.keep:
        save_adversarial(parts, list(attacks), settings.save_adv, labels, how_made(evaluation, list(attacks)))
        evaluation.results["saved"] = {"attacks": list(attacks), "file_hash": file_hash(settings.save_adv), "all_steps": True}
        evaluation.write()
    if parts:
        print(f"adversarial images: {settings.save_adv}")
    if output:
        print(f"written: {output}")


def main(settings: Settings) -> None:
    distributed.refuse("test_comparison.py")
    compute = devices.compute(settings.device, settings.precision)
    model, source, options = find_model(settings)
    name, norm, epsilon = threat_model(settings, {**options, **getattr(model, "about", {})})
    check_budgets(settings, norm, epsilon)
    attacks = settings.chosen_attacks(norm)
    output = settings.output or (settings.model_dir / "results.json" if settings.model_dir else None)
    if output is None:
        print("nothing is kept of this evaluation: give --output FILE to keep its rows and go on after an interruption")
    for option, path in (("--output", output), ("--save-adv", settings.save_adv)):
        if path and path.exists() and not path.is_file():
            raise InputError(f"{option} {path}: is {'a folder' if path.is_dir() else 'no plain file'}; name a file")
        if path:
            make_folder(path.parent, f"{option}: the folder")
    with alone("--output", output), alone("--save-adv", settings.save_adv):
        evaluate(settings, compute, (model, source, options), (name, norm, epsilon), attacks, output)


if __name__ == "__main__":
    run_script(main, settings)
