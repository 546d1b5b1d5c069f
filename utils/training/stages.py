"""Begin a stage: device, data, held-out split, and the run's folder."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import data
from common.errors import InputError
from data.batches import Batches
from data.corruptions import Corruptions
from data.extra import read_extra
from data.sets import DataSet, holdout_size, split_holdout
from models.targets import Target
from utils import devices, distributed
from utils.training import settings_file
from utils.training.run_folder import RunFolder
from utils.training.tracking import Tracker, open_tracker


@dataclass
class Stage:
    """Hold an opened stage: its device, its training data, the held-out images and its folder."""

    compute: devices.Compute
    dataset: DataSet
    batches: Batches
    holdout_images: torch.Tensor
    holdout_labels: torch.Tensor
    folder: RunFolder
    save_every: float  # seconds between two checkpoints inside an epoch
    split: dict  # which images are held out, for a target file's metadata
    tracker: Tracker  # of --log


@contextlib.contextmanager
def open_stage(name: str, settings, inputs: dict | None = None) -> Iterator[Stage]:
    """Read the data, split it, seed PyTorch and open the run's folder, locked inside the `with`
    block.

    inputs: {option: path} of the model files that the run reads.
    """
    compute = devices.compute(settings.run.device, settings.run.precision, settings.run.compile)
    options = settings.data
    dataset = data.load(options.dataset, options.data_dir, options.limit_train, options.limit_test)
    size = holdout_size(options.holdout, len(dataset.train_labels))
    train, holdout = split_holdout(dataset.train_labels, size, settings.training.seed)
    if len(train) < 2:
        raise InputError(
            f"--limit-train {options.limit_train}: leaves {len(train)} training images; "
            "give 2 or more"
        )
    extra, inputs = None, dict(inputs or {})
    if options.extra_data:
        extra = read_extra(options.extra_data, dataset)
        inputs["extra_data"] = options.extra_data
    with RunFolder(name, settings, compute, dataset.fingerprint, inputs) as folder:
        yield _opened(name, settings, compute, dataset, (train, holdout), folder, extra)


def _opened(
    name: str,
    settings,
    compute: devices.Compute,
    dataset: DataSet,
    split: tuple,
    folder: RunFolder,
    extra: tuple[torch.Tensor, torch.Tensor] | None,
) -> Stage:
    """Seed PyTorch, make the batches, and print a line about the training data.

    extra: the images and labels of --extra-data.
    """
    options, (train, holdout) = settings.data, split
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
        augmentation=options.augmentation if options.augment else None,
        extra=extra,
        extra_fraction=options.extra_fraction,
    )
    how = [compute.device.type, compute.precision] + ["compiled"] * compute.compiles
    if distributed.count() > 1:
        how.append(f"{distributed.count()} processes")
    images = f"{len(train)} training and {len(holdout)} held-out images"
    if extra:
        share = f"{100 * options.extra_fraction:g} % of each batch"
        images += f", {share} from {len(extra[1])} of {options.extra_data}"
    budget = f"{settings.attack.norm} {settings.attack.epsilon:.4g}"
    print(
        f"{name}: {dataset.name}, {images}, {dataset.num_classes} classes; {budget}; "
        f"{', '.join(how)}; folder {folder.path}",
        flush=True,
    )
    held_out = {
        "held_out": len(holdout),
        "held_out_of": len(dataset.train_labels),
        "held_out_seed": settings.training.seed,
    }
    holdout_images, holdout_labels = dataset.train_images[holdout], dataset.train_labels[holdout]
    return Stage(
        compute=compute,
        dataset=dataset,
        batches=batches,
        holdout_images=holdout_images,
        holdout_labels=holdout_labels,
        folder=folder,
        save_every=60 * settings.run.checkpoint_every,
        split=held_out,
        tracker=open_tracker(settings.run.log),
    )


def check_split(option: str, path: Path, about: dict, stage: Stage) -> None:
    """Raise InputError where the network in `path` was trained on images that are held out here.

    Its accuracy on them would choose the best epoch wrongly. about: the file's metadata; where it
    lacks the split, the settings.json beside the file is read.
    """
    if not len(stage.holdout_labels):
        return
    now = stage.split
    known = {name: about[name] for name in now if name in about} or _split_beside(path, stage)
    if not known:
        print(
            f"warning: {option} {path}: does not say which images it was trained on; the held-out "
            "accuracies are too high if the images held out here are among them (--holdout 0 keeps "
            "the last epoch and holds none out)"
        )
    elif known != now and known.get("held_out_of") == now["held_out_of"]:
        raise InputError(
            f"{option} {path}: was trained with {known['held_out']} images held out by --seed "
            f"{known['held_out_seed']}; here {now['held_out']} are held out by --seed "
            f"{now['held_out_seed']}, and it was trained on some of them; give the same --seed and "
            "--holdout, or --holdout 0"
        )
    elif known != now:
        raise InputError(
            f"{option} {path}: was trained on {known['held_out_of']} images and here there are "
            f"{now['held_out_of']}, so other images were held out; give the same --limit-train, or "
            "--holdout 0"
        )


def _split_beside(path: Path, stage: Stage) -> dict:
    """Read from settings.json beside a model file which images were held out.

    Returns {} where there is none.
    """
    try:
        options = settings_file.read(path.parent)["options"]
        number = options["limit_train"] or stage.split["held_out_of"]
        return {
            "held_out": holdout_size(options["holdout"], number),
            "held_out_of": number,
            "held_out_seed": options["seed"],
        }
    except (InputError, KeyError):
        return {}


def check_threat_model(what: str, about: dict, threat: dict) -> None:
    """Raise InputError where the model file `what` was made under another threat model or data set.

    about: the file's metadata. A file without (a published one) is accepted, and a line says so.
    threat: {"norm", "epsilon", "dataset"} that the file must agree with.
    """
    if not about:
        budget = f"{threat['norm']} {threat['epsilon']:.4g}"
        print(f"{what}: does not say how it was trained; assumed to fit {budget}")
    for name, value in threat.items():
        if name in about and about[name] is not None and about[name] != value:
            raise InputError(
                f"{what}: was made with {name} {about[name]}, but --{name} is {value}; "
                "use one threat model and one data set in all stages"
            )


def need_files(inputs: dict) -> None:
    """Raise InputError unless each file of {option: path} exists."""
    for option, path in inputs.items():
        if not path.is_file():
            raise InputError(
                f"--{option.replace('_', '-')} {path}: no such file; "
                "give a model file that an earlier stage wrote"
            )


def check_classes(target: Target, dataset: DataSet | Corruptions, what: str) -> None:
    """Raise InputError unless the target has one output for each class of the data set."""
    found = target.options["num_classes"]
    if found != dataset.num_classes:
        raise InputError(
            f"{what}: has {found} classes, but {dataset.name} has {dataset.num_classes}; "
            "give a model trained on this data set"
        )
