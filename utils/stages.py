"""What the beginning of every stage shares: device, data, held-out split, the run's folder."""
from dataclasses import dataclass

import torch

import data
from data.batches import Batches
from data.sets import DataSet, holdout_size, split_holdout
from errors import InputError
from models import processes
from utils import devices
from utils.runs import RunFolder


@dataclass
class Stage:
    """An opened stage: where it computes, what it trains on, what it holds out, and its folder."""

    compute: devices.Compute
    dataset: DataSet
    batches: Batches
    held_images: torch.Tensor
    held_labels: torch.Tensor
    folder: RunFolder


def open_stage(name: str, settings, inputs: dict | None = None) -> Stage:
    """Read the data, split it, seed PyTorch and open the run's folder. inputs: {option: path} of model files to be read."""
    compute = devices.compute(settings.run.device, settings.run.precision, settings.run.compile)
    options = settings.data
    dataset = data.load(options.dataset, options.data_dir, options.limit_train, options.limit_test)
    size = holdout_size(options.holdout, len(dataset.train_labels))
    train, held = split_holdout(dataset.train_labels, size, settings.training.seed)
    if len(train) < 2:
        raise InputError(f"--limit-train {options.limit_train}: leaves {len(train)} training images; 2 or more are needed")
    folder = RunFolder(name, settings, compute, dataset.fingerprint, inputs)
    torch.manual_seed(settings.training.seed)
    batches = Batches(dataset.train_images[train], dataset.train_labels[train], settings.training.batch_size,
                      padding=dataset.padding if options.augment else 0, flip=dataset.flip and options.augment,
                      device=compute.device, channels_last=True, share=(processes.rank(), processes.count()))
    how = [compute.device.type, compute.precision] + ["compiled"] * compute.compiles
    how += [f"{processes.count()} processes"] if processes.count() > 1 else []
    print(f"{name}: {dataset.name}, {len(train)} training and {len(held)} held-out images, {dataset.num_classes} classes; "
          f"{settings.attack.norm} {settings.attack.epsilon:.4g}; {', '.join(how)}; folder {folder.path}", flush=True)
    return Stage(compute, dataset, batches, dataset.train_images[held], dataset.train_labels[held], folder)


def check_threat_model(what: str, about: dict, settings) -> None:
    """InputError unless the model file `what` was made under the same norm, budget and data set as asked now; files that do
    not say (published ones) pass with a word on the screen."""
    now = settings.attack.threat_model | {"dataset": settings.data.dataset}
    if not about:
        print(f"{what}: does not say how it was trained; taken to fit {now['norm']} {now['epsilon']:.4g}")
    for name, value in now.items():
        if name in about and about[name] is not None and about[name] != value:
            raise InputError(f"{what}: was made with {name} {about[name]}, but --{name} is {value}; "
                             "one threat model and one data set go through all stages")


def need_files(inputs: dict) -> None:
    """InputError unless each file of {option: path} is there."""
    for option, path in inputs.items():
        if not path.is_file():
            raise InputError(f"--{option.replace('_', '-')} {path}: no such file; give a model file that an earlier stage wrote")


def check_classes(target: torch.nn.Module, dataset: DataSet, what: str) -> None:
    """InputError unless the target has an output for each class of the data set."""
    if target.options["num_classes"] != dataset.num_classes:
        raise InputError(f"{what}: has {target.options['num_classes']} classes, but {dataset.name} has {dataset.num_classes}; "
                         "give a model trained on this data set")
