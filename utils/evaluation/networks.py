"""Where a network comes from: a run's folder, a model file, or a function of the user's."""

from dataclasses import dataclass
from pathlib import Path

import torch

import models
from common.errors import InputError
from common.files import file_hash
from data.corruptions import Corruptions
from data.sets import DataSet
from models.normalisation import Normalisation
from models.targets import Target
from utils.devices import Compute
from utils.evaluation.factories import from_factory, state_hash, try_out
from utils.normalised import SAMPLE, doubtful, normalised, suspected
from utils.training import settings_file
from utils.training.stages import check_classes


@dataclass
class Network:
    """A network and what is known of it.

    name: the path of its file, or the factory that made it. options: those of the run that trained
    it; {} for a network without a run's folder. factory: the value of --factory, None for a file.
    normalisation: the one that an option asked for, None without one. option: the option that names
    it, as errors print it. surrogate: the network that its adversarial images are crafted on.
    """

    model: torch.nn.Module
    name: str
    options: dict
    factory: str | None = None
    normalisation: Normalisation | None = None
    option: str = ""
    surrogate: "Network | None" = None

    @property
    def what(self) -> str:
        """Return how errors name it."""
        return f"{self.option or '--factory' * bool(self.factory)} {self.name}".strip()

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

    def check(self, dataset: DataSet | Corruptions) -> None:
        """Refuse a network of ours, or a surrogate, that has other classes than the data set."""
        if isinstance(self.model, Target):
            check_classes(self.model, dataset, self.what)
        if self.surrogate:
            self.surrogate.check(dataset)

    def prepare(self, compute: Compute, images: torch.Tensor, num_classes: int) -> torch.nn.Module:
        """Move the network to the device, and try a factory's network on the first two images.

        The same is done to its surrogate.
        """
        self.model = compute.prepare(self.model)
        if self.factory:
            x = images[:2].to(compute.device).float() / 255
            try_out(self.model, self.what, x, num_classes)
        if self.surrogate:
            self.surrogate.prepare(compute, images, num_classes)
        return self.model

    def warnings(self, compute: Compute, images: torch.Tensor, labels: torch.Tensor) -> list[str]:
        """Warn where the first images say that the network was trained on normalised ones."""
        found = self.surrogate.warnings(compute, images, labels) if self.surrogate else []
        if not doubtful(self.model, self.normalisation):
            return found
        x, y = (each[:SAMPLE].to(compute.device) for each in (images, labels))
        option = "--surrogate-normalize" if "surrogate" in self.option else "--normalize"
        return suspected(self.model, x.float() / 255, y, option) + found


def load_network(
    model_dir: Path | None,
    model: Path | None,
    arch: str | None,
    which: str = "best",
    factory: str | None = None,
    normalisation: Normalisation | None = None,
) -> Network:
    """Load the network that --model-dir, --model or --factory names.

    which: "best" or "last", the model of a folder. arch: of a file that does not say it.
    normalisation: of the images of a network that was made elsewhere.
    """
    if factory:
        made = normalised(from_factory(factory), normalisation, f"--factory {factory}")
        return Network(made, factory, {}, factory, normalisation)
    if model:
        loaded = models.load(model, arch, normalisation=normalisation)
        return Network(loaded, str(models.found(model)), {}, normalisation=normalisation)
    assert model_dir is not None  # a script asks for one of the three
    if normalisation:
        raise InputError(
            f"--model-dir {model_dir}: a run's files say how images are normalised; "
            "leave --normalize, --mean and --std out"
        )
    options = settings_file.read(model_dir)["options"]
    names = ["target_model.pth", "best_model.pth"] if which == "best" else ["last_model.pth"]
    path = next((model_dir / name for name in names if (model_dir / name).is_file()), None)
    if path is None:
        raise InputError(
            f"--model-dir {model_dir}: has no {' or '.join(names)} yet; "
            "let its training stage finish, or give --model"
        )
    return Network(models.load(path, arch), str(path), options)


def load_surrogate(
    path: Path | None,
    arch: str | None,
    factory: str | None = None,
    normalisation: Normalisation | None = None,
) -> Network | None:
    """Load the network of --surrogate or --surrogate-factory, on which images are crafted.

    None without one.
    """
    if factory:
        option = "--surrogate-factory"
        made = normalised(from_factory(factory, option), normalisation, f"{option} {factory}")
        return Network(made, factory, {}, factory, normalisation, option)
    if path is None:
        return None
    try:
        loaded = models.load(path, arch, normalisation=normalisation)
        return Network(loaded, str(models.found(path)), {}, None, normalisation, "--surrogate")
    except InputError as error:
        line = str(error).replace("--arch", "--surrogate-arch")
        line = line.replace("--normalize", "--surrogate-normalize")
        raise InputError(f"--surrogate {line}") from None
