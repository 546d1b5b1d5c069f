"""What the beginning of every stage shares: device, data, held-out split, the run's folder."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import data
from common.errors import InputError
from data.batches import Batches
from data.sets import DataSet, holdout_size, split_holdout
from utils import devices, distributed
from utils.training.run_folder import RunFolder


@dataclass
class Stage:
    """An opened stage: where it computes, what it trains on, what it holds out, and its folder."""

    compute: devices.Compute
    dataset: DataSet
    batches: Batches
    held_images: torch.Tensor
    held_labels: torch.Tensor
    folder: RunFolder
    split: dict  # which images are held out, as target files say it


@contextlib.contextmanager
def open_stage(name: str, settings, inputs: dict | None = None) -> Iterator[Stage]:
    """Read the data, split it, seed PyTorch and open the run's folder, which is locked inside. inputs: {option: path} of model
    files to be read."""
    compute = devices.compute(settings.run.device, settings.run.precision, settings.run.compile)
    options = settings.data
    dataset = data.load(options.dataset, options.data_dir, options.limit_train, options.limit_test)
    size = holdout_size(options.holdout, len(dataset.train_labels))
    train, held = split_holdout(dataset.train_labels, size, settings.training.seed)
    if len(train) < 2:
        raise InputError(
            f"--limit-train {options.limit_train}: leaves {len(train)} training images; 2 or more are needed"
        )
    with RunFolder(name, settings, compute, dataset.fingerprint, inputs) as folder:
        yield _opened(name, settings, compute, dataset, (train, held), folder)


def _opened(
    name: str, settings, compute: devices.Compute, dataset: DataSet, split: tuple, folder: RunFolder
) -> Stage:
    """Seed PyTorch, make the batches, and print what is trained on."""
    options, (train, held) = settings.data, split
    torch.manual_seed(settings.training.seed)
    batches = Batches(
        dataset.train_images[train],
        dataset.train_labels[train],
        settings.training.batch_size,
        padding=dataset.padding if options.augment else 0,
        flip=dataset.flip and options.augment,
        device=compute.device,
        channels_last=True,
        share=(distributed.rank(), distributed.count()),
    )
    how = [compute.device.type, compute.precision] + ["compiled"] * compute.compiles
    how += [f"{distributed.count()} processes"] if distributed.count() > 1 else []
    print(
        f"{name}: {dataset.name}, {len(train)} training and {len(held)} held-out images, {dataset.num_classes} classes; "
        f"{settings.attack.norm} {settings.attack.epsilon:.4g}; {', '.join(how)}; folder {folder.path}",
        flush=True,
    )
    split = {
        "held_out": len(held),
        "held_out_of": len(dataset.train_labels),
        "held_out_seed": settings.training.seed,
    }
    return Stage(
        compute,
        dataset,
        batches,
        dataset.train_images[held],
        dataset.train_labels[held],
        folder,
        split,
    )


def check_split(option: str, path: Path, about: dict, stage: Stage) -> None:
    """InputError where the network in `path` was trained on images that are held out here, so that its accuracy on them would
    choose the best epoch wrongly. about: what the file says of itself; where it does not say it, the settings beside it do."""
    if not len(stage.held_labels):
        return
    known = {name: about[name] for name in stage.split if name in about} or _split_beside(
        path, stage
    )
    if not known:
        print(
            f"warning: {option} {path}: does not say which images it was trained on; if the images held out here are among "
            "them, the held-out accuracies are too high (--holdout 0 keeps the last epoch and needs none)"
        )
    elif known != stage.split and known.get("held_out_of") == stage.split["held_out_of"]:
        raise InputError(
            f"{option} {path}: was trained with {known['held_out']} images held out by --seed "
            f"{known['held_out_seed']}; here {stage.split['held_out']} are held out by --seed "
            f"{stage.split['held_out_seed']}, among them some that it was trained on; give the same --seed and "
            "--holdout, or --holdout 0"
        )
    elif known != stage.split:
        raise InputError(
            f"{option} {path}: was trained on {known['held_out_of']} images and here there are "
            f"{stage.split['held_out_of']}, so its held-out images are others; give the same --limit-train, or "
            "--holdout 0"
        )


def _split_beside(path: Path, stage: Stage) -> dict:
    """Read which images a run held out from the settings.json beside its model file; {} where there is none."""
    try:
        options = json.loads((path.parent / "settings.json").read_text())["options"]
        number = options["limit_train"] or stage.split["held_out_of"]
        return {
            "held_out": holdout_size(options["holdout"], number),
            "held_out_of": number,
            "held_out_seed": options["seed"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def check_threat_model(what: str, about: dict, settings) -> None:
    """InputError unless the model file `what` was made under the same norm, budget and data set as asked now; files that do
    not say (published ones) pass with a word on the screen."""
    now = settings.attack.threat_model | {"dataset": settings.data.dataset}
    if not about:
        print(
            f"{what}: does not say how it was trained; taken to fit {now['norm']} {now['epsilon']:.4g}"
        )
    for name, value in now.items():
        if name in about and about[name] is not None and about[name] != value:
            raise InputError(
                f"{what}: was made with {name} {about[name]}, but --{name} is {value}; "
                "one threat model and one data set go through all stages"
            )


def need_files(inputs: dict) -> None:
    """InputError unless each file of {option: path} is there."""
    for option, path in inputs.items():
        if not path.is_file():
            raise InputError(
                f"--{option.replace('_', '-')} {path}: no such file; give a model file that an earlier stage wrote"
            )


def check_classes(target: torch.nn.Module, dataset: DataSet, what: str) -> None:
    """InputError unless the target has an output for each class of the data set."""
    if target.options["num_classes"] != dataset.num_classes:
        raise InputError(
            f"{what}: has {target.options['num_classes']} classes, but {dataset.name} has {dataset.num_classes}; "
            "give a model trained on this data set"
        )
