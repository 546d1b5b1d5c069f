"""The options of `analyze_MI.py layers`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.settings.choices import LayerQuantity
from utils.settings.normalisation import Normalization
from utils.settings.options import Dataset, group, need


@dataclass
class Networks:
    """The networks whose layers are compared: of each kind one network for each seed.

    Each is a run's folder, a model file, or module:function, which makes any network on [0,1]
    images.
    """

    natural: tuple[str, ...] = ()
    """Naturally trained networks."""
    adversarial: tuple[str, ...] = ()
    """Networks trained further on adversarial images."""
    control: tuple[str, ...] = ()
    """Networks trained further on natural images, for as many epochs; without them the adversarial
    networks are compared with the natural ones.
    """

    def check(self) -> None:
        given = {role: names for role, names in vars(self).items() if names}
        need(bool(given), "natural", "", "give --natural, --adversarial or --control")
        first, *others = given
        for role in others:
            need(
                len(given[role]) == len(given[first]),
                role,
                " ".join(given[role]),
                f"give as many networks as --{first} has, {len(given[first])}, in the same order",
            )


@dataclass
class LayerImages:
    """The natural images that the layers are measured on."""

    split: Literal["holdout", "test"] = "holdout"
    """The training images that a run held out, or the test images."""
    limit: int = 1000
    """At most so many images, the first of the split; the information cannot exceed their log."""
    dataset: Dataset | None = None
    """The data set; each network's own when not given."""
    data_dir: Path | None = None
    """The folder of the data set; each run's own when not given."""
    inputs: Normalization = group(Normalization)

    def check(self) -> None:
        need(self.limit > 1, "limit", self.limit, "give 2 or more images, which are compared")


@dataclass
class Layers:
    """Entropy and information of the hidden layers of several networks side by side."""

    networks: Networks = group(Networks)
    quantity: LayerQuantity = "activation"
    """Which quantity is printed; all of them are measured, drawn and written."""
    layers: str = "all"
    """The hidden layers: all, dense, stages (the last one of each part), or names with commas."""
    images: LayerImages = group(LayerImages)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device, or the CPU."""
    output: Path = Path("runs/layers")
    """The folder for profile.json, layers.csv and layers.png."""
