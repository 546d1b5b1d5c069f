r"""Measure natural, adversarial and standard MI on adversarial images, for Figures 2 and 4.

    python test_comparison.py --model-dir runs/standard --attacks pgd-40 --limit-test 1000 \
        --save-adv runs/images.npz
    python -m reproduction.mi_values --model runs/standard/best_model.pth \
        --estimator-dir runs/estimators --limit-test 1000 --adv runs/images.npz \
        --output runs/mi.json

All values are in nats and in float32. They are means over W, the images that the network gets right
without the attack and wrong under it (paper, Equation 6). The other images of a batch are the
negatives, so that values compare only at one --batch-size. Standard MI is the natural estimator's
of the whole adversarial image, E_n(x~; h(x~)): trained by Equation 4 on natural images, it is the
estimator of MI between whole inputs and outputs.
"""

import json
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from utils.settings.command_line import parse
from utils.settings.options import EPSILON, Count, Dataset, Fraction, need


@dataclass
class Settings:
    """Options of the measurement."""

    model: Path
    """The target network."""
    estimator_dir: Path
    """The folder of its estimators."""
    adv: Path
    """The file of adversarial images that test_comparison.py --save-adv wrote."""
    output: Path
    """The JSON file to write."""
    dataset: Dataset = "cifar10"
    """The data set."""
    data_dir: Path = Path("datasets")
    """The folder of the data set."""
    norm: Literal["linf", "l2"] = "linf"
    """The norm that the estimators were trained under; another one is refused."""
    epsilon: Fraction = None
    """The budget that the estimators were trained under; another one is refused. When not given
    8/255 for linf and 0.5 for l2."""
    limit_test: Count = None
    """Use only the first N test images, as many as --adv has."""
    batch_size: int = 200
    """Images whose MI is estimated at once."""

    def check(self) -> None:
        self.epsilon = EPSILON[self.norm] if self.epsilon is None else self.epsilon
        few = "2 or more images are needed: MI bounds compare them"
        limit = self.limit_test
        need(limit is None or limit > 1, "limit_test", limit, few)
        need(self.batch_size > 1, "batch_size", self.batch_size, few)


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch

import data
import models
from common.files import file_hash, make_folder, write_text
from data.batches import in_order
from utils import devices, provenance
from utils.evaluation.images import as_images, read_adversarial
from utils.mi import patterns
from utils.mi.names import estimator_files
from utils.mi.values import Examples
from utils.provenance import git_commit
from utils.scripts import run_script
from utils.training.estimators import load_estimators
from utils.training.held_out import held_out
from utils.training.stages import need_files


def batches(target, dataset, x_adv, batch_size, representation):
    """Yield the outputs of a network on test images and adversarial images, as Examples.

    Args:
        target: the network.
        dataset: the data set, of which the test images are used.
        x_adv: the adversarial images (N,3,H,W), as --save-adv writes them.
        batch_size: the number of images of an Examples.
        representation: the tap of the network that the estimators read.
    """
    first, device = 0, next(target.parameters()).device
    for x, y in in_order(dataset.test_images, dataset.test_labels, batch_size, device):
        part = as_images(x_adv[first : first + len(y)]).to(x.device)
        first += len(y)
        with torch.no_grad():
            logits, output = target(x, tap=representation)
            logits_adv, output_adv = target(part, tap=representation)
        yield Examples(x, y, part, logits, logits_adv, output, output_adv)


def whole(batch: Examples) -> Examples:
    """Put the adversarial images where the estimators find the natural pattern."""
    return replace(batch, x=batch.x_adv)


def measure(examples: list[Examples], estimators: dict) -> dict:
    """Compute the MI values over W, named as in metrics.csv, and "n", the number of images in W.

    A value is None where W is empty.
    """
    values = held_out(examples, estimators)
    standard = held_out(map(whole, examples), {"natural": estimators["natural"]})
    masks = [patterns.select(batch.logits, batch.logits_adv, batch.y)["W"] for batch in examples]
    fooled = sum(mask.sum().item() for mask in masks)
    return {
        "n": fooled,
        "standard_mi_of_adversarial": standard["natural_mi_of_adversarial_W"],
        **{name.removesuffix("_W"): value for name, value in values.items() if name.endswith("_W")},
    }


def main(settings: Settings) -> None:
    files = estimator_files(settings.estimator_dir)
    need_files({"model": settings.model, "adv": settings.adv})
    make_folder(settings.output.parent, "--output: the folder")
    compute = devices.compute("auto")
    dataset = data.load(settings.dataset, settings.data_dir, limit_test=settings.limit_test)
    target = compute.prepare(models.load(settings.model))
    threat = {
        "norm": settings.norm,
        "epsilon": settings.epsilon,
        "dataset": settings.dataset,
    }
    estimators = load_estimators(files, target, threat, None)
    for estimator in estimators.values():
        compute.prepare(estimator)
    representation, values = estimators["natural"].representation, {}
    images = read_adversarial(settings.adv, dataset.test_images, dataset.test_labels)
    for attack, x_adv in images.items():
        parts = batches(target, dataset, x_adv, settings.batch_size, representation)
        values[attack] = measure(list(parts), estimators)
        print(f"{attack}: {values[attack]}", flush=True)
    content = {
        "model": str(settings.model),
        "model_hash": file_hash(settings.model),
        "dataset": settings.dataset,
        "estimator_hashes": {name: file_hash(path) for name, path in files.items()},
        "adv_hash": file_hash(settings.adv),
        "data_fingerprint": dataset.fingerprint,
        "n": len(dataset.test_labels),
        "batch_size": settings.batch_size,
        "bound": estimators["natural"].bound,
        "norm": settings.norm,
        "epsilon": settings.epsilon,
        "hardware": provenance.hardware(compute.device),
        "versions": provenance.versions(),
        "git_commit": git_commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "values": values,
    }
    write_text(settings.output, json.dumps(content, indent=1) + "\n")
    print(f"written: {settings.output}")


if __name__ == "__main__":
    run_script(main, settings)
