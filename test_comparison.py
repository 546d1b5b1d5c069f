"""Robust accuracy of a trained network under attacks, on test images.

    python test_comparison.py --model-dir runs/namid
    python test_comparison.py --model-dir runs/standard --attacks none,fgsm,pgd-40 --limit-test 1000 --output results.json
    python test_comparison.py --model someone_elses.pth --arch resnet18 --dataset cifar10 --attacks none,pgd-20

The data set, the norm and the budget are those that the network was trained with unless given here; a published model file says
none of them, and the paper's are taken. Attacked is every image that the network gets right; one that it gets wrong counts as
wrong. Everything runs in float32. Accuracies are in percent, over images.
"""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from errors import InputError
from utils.attack_suite import parse as parse_attack
from utils.settings import EPSILON, Arch, Count, Dataset, Fraction, need, parse


@dataclass
class Settings:
    """Options of the evaluation."""

    model_dir: Path | None = None
    """A run's folder; its best model is evaluated."""
    model: Path | None = None
    """A model file, in place of a folder."""
    arch: Arch | None = None
    """The architecture of --model, for a file that does not say it."""
    which: Literal["best", "last"] = "best"
    """Which model of the folder."""
    attacks: str = "none,fgsm,pgd-40"
    """Names with commas between: none, fgsm, bim-N, pgd-N, ..."""
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
    """Length of a step of bim and pgd; epsilon/4 when not given."""
    batch_size: int = 256
    """Images attacked at once; it changes no result but for rounding."""
    seed: int = 1
    """Of the attacks' random starts."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""
    output: Path | None = None
    """The result file; results.json in --model-dir when not given."""

    def check(self) -> None:
        if (self.model_dir is None) == (self.model is None):
            raise InputError("--model-dir or --model: give one of them, a run's folder or a model file")
        need(self.split == "test" or self.model_dir is not None, "split", self.split,
             "only a run's folder knows its held-out images; give --model-dir")
        need(self.epsilon is None or 0 <= self.epsilon <= 128, "epsilon", self.epsilon,
             "a budget in pixel units is needed; write 8/255 for 8 grey levels")
        need(self.step_size is None or self.step_size > 0, "step_size", self.step_size, "give a step above 0")
        need(self.limit_test is None or self.limit_test > 0, "limit_test", self.limit_test, "give 1 or more images")
        need(self.batch_size > 0, "batch_size", self.batch_size, "give 1 or more images")
        for name in self.attacks.split(","):
            parse_attack(name, self.norm)


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch

import data
import models
from data.sets import DataSet, holdout_size, split_holdout
from utils import devices
from utils.reports import table
from utils.robustness import robust_accuracy
from utils.runs import git_commit, make_folder, read_settings, write_text
from utils.stages import check_classes
from utils.training import run_script


def find_model(settings: Settings) -> tuple[torch.nn.Module, Path, dict]:
    """The network, its file, and the options of the run that made it ({} for a file without a folder)."""
    if settings.model:
        return models.load(settings.model, settings.arch), settings.model, {}
    folder = settings.model_dir
    options = read_settings(folder)["options"]
    names = ["target_model.pth", "best_model.pth"] if settings.which == "best" else ["last_model.pth"]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"--model-dir {folder}: has no {' or '.join(names)} yet; let its training stage finish, or give --model")
    return models.load(path, settings.arch), path, options


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


def main(settings: Settings) -> None:
    compute = devices.compute(settings.device)
    model, path, options = find_model(settings)
    output = settings.output or (settings.model_dir / "results.json" if settings.model_dir else None)
    if output:
        make_folder(output.parent, "--output: the folder")
    known = {**options, **model.about}
    name = settings.dataset or known.get("dataset") or "cifar10"
    norm = settings.norm or known.get("norm") or "linf"
    epsilon = settings.epsilon if settings.epsilon is not None else known.get("epsilon")
    epsilon = EPSILON[norm] if epsilon is None or (settings.epsilon is None and norm != known.get("norm")) else epsilon
    attacks = [parse_attack(each, norm) for each in settings.attacks.split(",")]
    dataset = data.load(name, settings.data_dir or options.get("data_dir") or "datasets", options.get("limit_train"),
                        settings.limit_test if settings.split == "test" else None)
    check_classes(model, dataset, str(path))
    model = compute.prepare(model).eval()
    images, labels = chosen_images(settings, options, dataset)
    print(f"{path}: {name} {settings.split} split, {len(labels)} images; {norm} {epsilon:.4g}; {compute.device.type}, float32",
          flush=True)

    results = {"model": str(path), "arch": model.arch, "dataset": name, "data_fingerprint": dataset.fingerprint,
               "split": settings.split, "n": len(labels), "norm": norm, "epsilon": epsilon, "seed": settings.seed,
               "precision": "float32", "hardware": devices.hardware(compute.device), "versions": devices.versions(),
               "git_commit": git_commit(), "attacks": {}}
    for spec in attacks:
        results["attacks"][spec.name] = robust_accuracy(spec, model, images, labels, norm, epsilon, compute.device,
                                                        batch_size=settings.batch_size, seed=settings.seed,
                                                        step_size=settings.step_size)
        if output:
            write_text(output, json.dumps(results, indent=1) + "\n")
    print(table(["attack", "accuracy", "correct", "images", "seconds"],
                [[attack, f"{r['accuracy']:.2f} %", str(r["correct"]), str(r["n"]), f"{r['seconds']:.1f}"]
                 for attack, r in results["attacks"].items()]))
    if output:
        print(f"written: {output}")


if __name__ == "__main__":
    run_script(main, settings)
