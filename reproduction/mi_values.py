r"""Natural, adversarial and standard MI of a network's outputs on adversarial images made before, for Figures 2 and 4.

    python test_comparison.py --model-dir runs/standard --attacks pgd-40 --limit-test 1000 --save-adv runs/images.npz
    python -m reproduction.mi_values --model runs/standard/best_model.pth --estimator-dir runs/estimators --limit-test 1000 \
        --adv runs/images.npz --output runs/mi.json

All values are in nats and means over W, the images that the network gets
right without the attack and wrong under it (paper, Equation 6), in float32; the other images of a batch are the negatives, so
values compare at one --batch-size only. Standard MI is the natural estimator's of the whole adversarial image, E_n(x~; h(x~)):
trained by Equation 4 on natural images, it is the estimator of MI between whole inputs and outputs.
"""
import json
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
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
    """Adversarial images of the first test images, as test_comparison.py --save-adv writes them."""
    output: Path
    """The JSON file to write."""
    dataset: Dataset = "cifar10"
    """The data set."""
    data_dir: Path = Path("datasets")
    """Where it is."""
    norm: Literal["linf", "l2"] = "linf"
    """The norm that the estimators were trained under, checked."""
    epsilon: Fraction = None
    """The budget that they were trained under, checked; when not given 8/255 for linf and 0.5 for l2."""
    limit_test: Count = None
    """Only the first N test images, as many as --adv holds."""
    batch_size: int = 200
    """Images whose MI is estimated at once."""

    def check(self) -> None:
        self.epsilon = EPSILON[self.norm] if self.epsilon is None else self.epsilon
        need(self.limit_test is None or self.limit_test > 1, "limit_test", self.limit_test,
             "2 or more images are needed: MI bounds compare them")
        need(self.batch_size > 1, "batch_size", self.batch_size, "2 or more images are needed: MI bounds compare them")


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
    """The network's view of the test images and of x_adv (N,3,H,W), as --save-adv writes them, batch by batch as Examples."""
    first = 0
    for x, y in in_order(dataset.test_images, dataset.test_labels, batch_size, next(target.parameters()).device):
        part = as_images(x_adv[first:first + len(y)]).to(x.device)
        first += len(y)
        with torch.no_grad():
            logits, output = target(x, tap=representation)
            logits_adv, output_adv = target(part, tap=representation)
        yield Examples(x, y, part, logits, logits_adv, output, output_adv)


def whole(batch: Examples) -> Examples:
    """The same with the adversarial image in the place of its natural pattern."""
    return replace(batch, x=batch.x_adv)


def measure(examples: list[Examples], estimators: dict) -> dict:
    """The MI values over W, named as in a run's record, with their number "n"; None where W is empty."""
    values = held_out(examples, estimators)
    standard = held_out(map(whole, examples), {"natural": estimators["natural"]})
    fooled = sum(patterns.select(batch.logits, batch.logits_adv, batch.y)["W"].sum().item() for batch in examples)
    return {"n": fooled, "standard_mi_of_adversarial": standard["natural_mi_of_adversarial_W"],
            **{name.removesuffix("_W"): value for name, value in values.items() if name.endswith("_W")}}


def main(settings: Settings) -> None:
    files = estimator_files(settings.estimator_dir)
    need_files({"model": settings.model, "adv": settings.adv})
    make_folder(settings.output.parent, "--output: the folder")
    compute = devices.compute("auto")
    dataset = data.load(settings.dataset, settings.data_dir, limit_test=settings.limit_test)
    target = compute.prepare(models.load(settings.model))
    threat_model = {"norm": settings.norm, "epsilon": settings.epsilon}
    estimators = load_estimators(files, SimpleNamespace(attack=SimpleNamespace(threat_model=threat_model),
                                                        data=SimpleNamespace(dataset=settings.dataset)), target, None)
    for estimator in estimators.values():
        compute.prepare(estimator)
    images, values = read_adversarial(settings.adv, dataset.test_images, dataset.test_labels), {}
    for attack, x_adv in images.items():
        examples = list(batches(target, dataset, x_adv, settings.batch_size, estimators["natural"].representation))
        values[attack] = measure(examples, estimators)
        print(f"{attack}: {values[attack]}", flush=True)
    write_text(settings.output, json.dumps({
        "model": str(settings.model), "model_hash": file_hash(settings.model), "dataset": settings.dataset,
        "estimator_hashes": {name: file_hash(path) for name, path in files.items()},
        "adv_hash": file_hash(settings.adv),
        "data_fingerprint": dataset.fingerprint, "n": len(dataset.test_labels), "batch_size": settings.batch_size,
        "bound": estimators["natural"].bound, **threat_model, "hardware": provenance.hardware(compute.device),
        "versions": provenance.versions(), "git_commit": git_commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"), "values": values}, indent=1) + "\n")
    print(f"written: {settings.output}")


if __name__ == "__main__":
    run_script(main, settings)
