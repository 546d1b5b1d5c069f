"""Build the target that a training starts from: random weights, or those of --init."""

from pathlib import Path

import models
from common.errors import InputError
from models.normalisation import NORMALISATIONS, Normalisation
from models.targets import Target
from utils.normalised import SAMPLE, doubtful, suspected
from utils.training.stages import Stage, check_classes, check_split, check_threat_model


def initial_target(stage: Stage, settings, init: Path | None) -> Target:
    """Build the target of --arch and --width with random weights, or load the file of --init.

    Raises InputError where the file holds another architecture or width, or where it was trained
    on other classes, under another threat model, or on images that are held out here.
    """
    arch, width = settings.network.arch, settings.network.width
    normalisation = settings.network.inputs.normalisation
    if not init:
        mean, std = normalisation or NORMALISATIONS["none"]
        size = stage.dataset.size
        options = {"width": width, "size": size, "mean": mean, "std": std}
        return models.build(arch, stage.dataset.num_classes, **options)
    source = f"--init {init}"
    target = models.load(init, arch, normalisation=normalisation)
    warn_of_inputs(source, target, normalisation, stage)
    check_threat_model(source, target.about, settings.threat)
    check_classes(target, stage.dataset, source)
    check_split("--init", init, target.about, stage)
    found = target.options["width"]
    if width not in (None, found):
        raise InputError(f"--width {width}: {source} has width {found}; leave --width out")
    return target


def warn_of_inputs(
    what: str, target: Target, normalisation: Normalisation | None, stage: Stage
) -> None:
    """Print a warning where a file that says nothing seems to want normalised images.

    what: the option and the file. normalisation: the one that an option gave. The first training
    images are classified.
    """
    if not doubtful(target, normalisation):
        return
    device = next(target.parameters()).device
    images, labels = stage.dataset.train_images, stage.dataset.train_labels
    x, y = (each[:SAMPLE].to(device) for each in (images, labels))
    for line in suspected(target, x.float() / 255, y, "--normalize"):
        print(f"warning: {what}: {line}")
