"""Where a network comes from: a run's folder, a model file, or a function of the user's."""

from dataclasses import dataclass
from pathlib import Path

import torch

import models
from common.errors import InputError
from common.files import file_hash
from data.sets import DataSet
from models.targets import Target
from utils.devices import Compute
from utils.evaluation.factories import from_factory, state_hash, try_out
from utils.training.run_folder import read_settings
from utils.training.stages import check_classes


@dataclass
class Network:
    """A network and what is known of it.

    name: the path of its file, or the factory that made it. options: those of the run that trained
    it; {} for a network without a run's folder. factory: the value of --factory, None for a file.
    """

    model: torch.nn.Module
    name: str
    options: dict
    factory: str | None = None

    @property
    def known(self) -> dict:
        """Return the options of its run, overridden by what its file says of it."""
        return {**self.options, **getattr(self.model, "about", {})}

    @property
    def extra_data(self) -> str | None:
        """Return the extra images that it was trained on, as "70 % FILE"; None for none."""
        file, share = self.known.get("extra_data"), self.known.get("extra_fraction")
        return f"{100 * share:g} % {Path(file).name}" if file and share else None

    def dataset(self, asked: str | None) -> str:
        """Return the name of the data set: the one asked for, else its own, else CIFAR-10."""
        return asked or self.known.get("dataset") or "cifar10"

    def hash(self) -> str:
        """Return the hash of its file; for a factory, that of its parameters and buffers."""
        return state_hash(self.model) if self.factory else file_hash(self.name)

    def check(self, dataset: DataSet) -> None:
        """Refuse a network of ours that has other classes than the data set."""
        if isinstance(self.model, Target):
            prefix = "--factory " if self.factory else ""
            check_classes(self.model, dataset, f"{prefix}{self.name}")

    def prepare(self, compute: Compute, images: torch.Tensor, num_classes: int) -> torch.nn.Module:
        """Move the network to the device, and try a factory's network on the first two images."""
        self.model = compute.prepare(self.model)
        if self.factory:
            x = images[:2].to(compute.device).float() / 255
            try_out(self.model, self.factory, x, num_classes)
        return self.model


def load_network(
    model_dir: Path | None,
    model: Path | None,
    arch: str | None,
    which: str = "best",
    factory: str | None = None,
) -> Network:
    """Load the network that --model-dir, --model or --factory names.

    which: "best" or "last", the model of a folder. arch: of a file that does not say it.
    """
    if factory:
        return Network(from_factory(factory), factory, {}, factory)
    if model:
        return Network(models.load(model, arch), str(model), {})
    assert model_dir is not None  # a script asks for one of the three
    options = read_settings(model_dir)["options"]
    names = ["target_model.pth", "best_model.pth"] if which == "best" else ["last_model.pth"]
    path = next((model_dir / name for name in names if (model_dir / name).is_file()), None)
    if path is None:
        raise InputError(
            f"--model-dir {model_dir}: has no {' or '.join(names)} yet; "
            "let its training stage finish, or give --model"
        )
    return Network(models.load(path, arch), str(path), options)


def load_surrogate(
    path: Path | None, arch: str | None, compute: Compute, dataset: DataSet
) -> torch.nn.Module | None:
    """Load the network of --surrogate, on which images are crafted; None without one."""
    if path is None:
        return None
    try:
        surrogate = compute.prepare(models.load(path, arch))
    except InputError as error:
        line = str(error).replace("--arch", "--surrogate-arch")
        raise InputError(f"--surrogate {line}") from None
    check_classes(surrogate, dataset, f"--surrogate {path}")
    return surrogate
