"""The options of `analyze_MI.py samples`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.analysis.options.groups import PGD, Estimators, Images, NetworkFile
from utils.settings.values import group, need


@dataclass
class Samples:
    """Natural and adversarial MI of each test image: values, histograms, ROC curves."""

    network: NetworkFile = group(NetworkFile)
    estimators: Estimators = group(Estimators)
    images: Images = group(Images)
    attack: PGD = group(PGD)
    batch_size: int = 400
    """Images in a batch (stage 2: 400); the values depend on it: the others are negatives."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""
    output: Path = Path("runs/mi-samples")
    """The folder for values.csv, summary.json, histograms.png and roc.png."""

    def check(self) -> None:
        need(
            self.batch_size > 1,
            "batch_size",
            self.batch_size,
            "give 2 or more images: the others are a sample's negatives",
        )
