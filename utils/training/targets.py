"""Build the target that a training starts from: random weights, or those of --init."""

from pathlib import Path

import models
from common.errors import InputError
from models.targets import Target
from utils.training.stages import Stage, check_classes, check_split, check_threat_model


def initial_target(stage: Stage, settings, init: Path | None) -> Target:
    """Build the target of --arch and --width with random weights, or load the file of --init.

    Raises InputError where the file holds another architecture or width, or where it was trained
    on other classes, under another threat model, or on images that are held out here.
    """
    arch, width = settings.network.arch, settings.network.width
    if not init:
        return models.build(arch, stage.dataset.num_classes, width=width, size=stage.dataset.size)
    source = f"--init {init}"
    target = models.load(init, arch)
    check_threat_model(source, target.about, settings.threat)
    check_classes(target, stage.dataset, source)
    check_split("--init", init, target.about, stage)
    found = target.options["width"]
    if width not in (None, found):
        raise InputError(f"--width {width}: {source} has width {found}; leave --width out")
    return target
