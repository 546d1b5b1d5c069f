"""Compute saliency maps, as in Figures 4 to 6 of Zhu et al. 2020.

    python -m reproduction.zhu_saliency --model runs/standard/best_model.pth --dataset digits \
        --output saliency.json

A map is the gradient of the cross-entropy in the pixels of a test image; saliency.npz, beside the
results file, has the images and their maps.
"""

from dataclasses import dataclass
from pathlib import Path

from utils.settings.command_line import parse
from utils.settings.options import Dataset, need


@dataclass
class Settings:
    """Options of the maps."""

    model: Path
    """The network's file."""
    dataset: Dataset
    """The data set."""
    data_dir: Path = Path("datasets")
    """Its folder."""
    limit_test: int = 8
    """The first N test images."""
    output: Path = Path("saliency.json")
    """The file to write."""

    def check(self) -> None:
        need(self.limit_test > 0, "limit_test", self.limit_test, "give 1 or more images")


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import numpy
import torch
import torch.nn.functional as F

import data
import models
from common.writing import atomic, make_folder
from data.batches import to_float
from reproduction.measured import write
from utils import devices
from utils.attacks.projected_gradient import frozen
from utils.scripts import run_script
from utils.training.stages import check_classes, need_files


def saliency(target: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of each image's cross-entropy in its pixels, (N,3,H,W)."""
    with frozen(target), torch.enable_grad():
        x = x.detach().requires_grad_(True)
        loss = F.cross_entropy(target(x), y, reduction="sum")
        return torch.autograd.grad(loss, x)[0]


def main(settings: Settings) -> None:
    """Load the network and the images, and write the maps."""
    need_files({"model": settings.model})
    make_folder(settings.output.parent, "--output: the folder")
    compute = devices.compute("auto")
    dataset = data.load(settings.dataset, settings.data_dir, limit_test=settings.limit_test)
    target = models.load(settings.model)
    check_classes(target, dataset, f"--model {settings.model}")
    target = compute.prepare(target)
    x, y = to_float(dataset.test_images.to(compute.device)), dataset.test_labels.to(compute.device)
    maps = saliency(target, x, y)
    images = dataset.test_images.numpy()
    with atomic(settings.output.with_suffix(".npz")) as file:
        numpy.savez(file, images=images, maps=maps.cpu().numpy())
    norms = maps.flatten(1).norm(dim=1).tolist()
    write(settings.output, settings.model, dataset, compute, {"saliency": {"norms": norms}})


if __name__ == "__main__":
    run_script(main, settings)
