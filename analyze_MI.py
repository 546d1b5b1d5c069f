"""Measure MI and entropy: of test images, representations and layers, and where they are known.

    python analyze_MI.py samples --model-dir runs/namid --estimator-dir runs/estimators
    python analyze_MI.py gaussians
    python analyze_MI.py theorem1
    python analyze_MI.py vulnerability --model-dir runs/standard --output runs/rv
    python analyze_MI.py mixture --margin 1 --spread 1 --shift 0.5
    python analyze_MI.py layers --natural runs/natural --adversarial runs/adv --control runs/ctl

samples: natural and adversarial MI of each natural and adversarial test image, histograms, and ROC
curves of telling the two apart. gaussians: each bound, with the optimal and with a trained critic,
against the known MI of correlated Gaussians. theorem1: the terms of the paper's Theorem 1 on joint
Gaussians, in closed form. docs/analyze_MI.md explains each file. vulnerability: how much an
adversary lowers the mutual information of images and representation (Zhu et al. 2020); two critics
are trained for each network, which takes as long as a training. mixture: the same on a Gaussian
mixture, where it is known. docs/worst_case_MI.md explains both. layers: entropy and information of
the hidden layers of several networks (docs/entropic_retraining.md).
"""

from dataclasses import dataclass
from typing import Union

import tyro

from utils.analysis.options.gaussians import Gaussians
from utils.analysis.options.layers import Layers
from utils.analysis.options.mixture import Mixture
from utils.analysis.options.samples import Samples
from utils.analysis.options.theorem1 import Theorem1
from utils.analysis.options.vulnerability import Vulnerability
from utils.settings.command_line import parse

# {the options of a part: the function that takes them, each by its name}
PARTS = {
    Samples: "utils.analysis.samples.measure",
    Gaussians: "utils.analysis.gaussians.measure",
    Theorem1: "utils.analysis.theorem1.measure",
    Vulnerability: "utils.analysis.vulnerability.measure",
    Mixture: "utils.analysis.mixture.measure",
    Layers: "utils.analysis.layers.measure",
}
Part = Union[tuple(PARTS)]  # noqa: UP007


@dataclass
class Settings:
    """Which part, with its options."""

    part: tyro.conf.OmitSubcommandPrefixes[Part]


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

from importlib import import_module

from utils import distributed
from utils.scripts import run_script


def main(settings: Settings) -> None:
    """Run the part that the command line names."""
    distributed.refuse("analyze_MI.py")
    module, _, function = PARTS[type(settings.part)].rpartition(".")
    getattr(import_module(module), function)(**vars(settings.part))


if __name__ == "__main__":
    run_script(main, settings)
