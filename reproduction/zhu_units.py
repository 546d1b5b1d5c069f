"""Measure the vulnerability of single units, for Figure 3 of Zhu et al. 2020.

    python -m reproduction.zhu_units --model runs/standard/best_model.pth --dataset digits \
        --units 16 --n-units 256 --epochs 10 --output units.json

The units are those of the encoder's second convolution. Each sees a patch of 10x10 pixels, and its
value for a patch is its representation. Patches lie at random places, one in each image.
"""

from dataclasses import dataclass
from pathlib import Path

from utils.settings.command_line import parse
from utils.settings.options import Count, Dataset, group, need
from utils.settings.worst_case import WorstCaseAttack


@dataclass
class Settings:
    """Options of the measurement."""

    model: Path
    """A file of a baseline-h."""
    dataset: Dataset
    """The data set."""
    data_dir: Path = Path("datasets")
    """Its folder."""
    units: int = 128
    """The first N units are measured (paper: all 128)."""
    limit_train: Count = None
    """The first N training images train the critics."""
    limit_test: Count = None
    """The first N test images are reported."""
    holdout: int = 1000
    """Training images, at most a fifth, that choose the best epoch of a critic."""
    n_units: int = 2048
    """Channels of the critics' outputs."""
    epochs: int = 300
    """Passes over the patches for each critic."""
    batch_size: int = 128
    """Patches in a batch."""
    lr: float = 1e-4
    """Learning rate of Adam."""
    seed: int = 1
    """Seed of the patches and the critics."""
    attack: WorstCaseAttack = group(WorstCaseAttack)
    """The attack on each patch."""
    output: Path = Path("units.json")
    """The file to write."""

    def check(self) -> None:
        need(self.units > 0, "units", self.units, "give 1 or more")
        need(self.epochs > 0, "epochs", self.epochs, "give 1 or more")


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import torch
import torch.nn.functional as F
from torch import nn

import data
import models
from common.errors import InputError
from common.files import make_folder
from data.batches import Batches
from data.sets import holdout_size, split_holdout
from models.encoder import BaselineH, Encoder
from reproduction.measured import write
from utils import devices
from utils.mi.critic import build_critic
from utils.mi.fitting import attacked_within, batches_of, fit, judge, unchanged
from utils.scripts import run_script
from utils.training.stages import need_files

PATCH = 10  # pixels that a unit of the second convolution sees: 4 + 3 strides of 2


class Unit(nn.Module):
    """Compute the value of one unit of an encoder's second convolution for patches of its field."""

    def __init__(self, encoder: Encoder, unit: int):
        super().__init__()
        self.encoder, self.unit = encoder, unit

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Map patches (N,3,10,10) to values (N,1): no pixel of padding is in the unit's field."""
        x = patches
        for layer in (self.encoder.layer0, self.encoder.layer1):
            convolution, *rest = layer
            x = F.conv2d(x, convolution.weight, stride=convolution.stride)
            x = nn.Sequential(*rest)(x)
        return x[:, self.unit : self.unit + 1, 0, 0]


def patches_of(images: torch.Tensor, seed: int) -> torch.Tensor:
    """Cut one patch at a random place out of each image: uint8 (N,3,10,10)."""
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[2:]
    rows = torch.randint(height - PATCH + 1, (len(images),), generator=generator).tolist()
    columns = torch.randint(width - PATCH + 1, (len(images),), generator=generator).tolist()
    cut = [image[:, r : r + PATCH, c : c + PATCH] for image, r, c in zip(images, rows, columns)]
    return torch.stack(cut)


def measure(target: BaselineH, dataset, settings: Settings, compute) -> list[dict]:
    """Train two critics for each unit, and return a row for each: unit, J1, J2, RV."""
    train, held_out = split_holdout(
        dataset.train_labels, holdout_size(settings.holdout, len(dataset.train_labels)), 1
    )
    patches = patches_of(dataset.train_images, settings.seed)
    batches = Batches(
        patches[train], dataset.train_labels[train], settings.batch_size, device=compute.device
    )
    shown = [
        batches_of(part, settings.batch_size, compute.device)
        for part in (patches[held_out], patches_of(dataset.test_images, settings.seed + 1))
    ]
    attacks, rows = {"J1": unchanged, "J2": attacked_within(settings.attack.budget)}, []
    available = target.encoder.layer1[0].out_channels
    for number in range(min(settings.units, available)):
        unit, row = Unit(target.encoder, number), {"unit": number}
        for name, attack in attacks.items():
            torch.manual_seed(settings.seed)
            critic = compute.prepare(build_critic("code", 1, settings.n_units))
            plan = {"epochs": settings.epochs, "lr": settings.lr, "seed": settings.seed}
            fit(unit, critic, attack, batches, shown[0], **plan)
            row[name] = judge(unit, critic, attack, shown[1]).mean
        rows.append(row | {"RV": row["J1"] - row["J2"]})
        print(f"unit {number}: J1 {row['J1']:.3f}, J2 {row['J2']:.3f} nats", flush=True)
    return rows


def main(settings: Settings) -> None:
    """Load the network and the data, measure, and write the file."""
    need_files({"model": settings.model})
    make_folder(settings.output.parent, "--output: the folder")
    compute = devices.compute("auto")
    target = models.load(settings.model)
    if not isinstance(target, BaselineH):
        raise InputError(f"--model {settings.model}: is a {target.arch}; give a baseline-h")
    limits = settings.limit_train, settings.limit_test
    dataset = data.load(settings.dataset, settings.data_dir, *limits)
    rows = measure(compute.prepare(target), dataset, settings, compute)
    write(settings.output, settings.model, dataset, compute, {"units": rows})


if __name__ == "__main__":
    run_script(main, settings)
