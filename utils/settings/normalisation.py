"""Declare how a network normalises its images, and the options of networks made elsewhere.

Nothing here imports torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from common.errors import InputError
from models.normalisation import NORMALISATIONS, Normalisation, checked
from utils.settings.values import group, need

if TYPE_CHECKING:
    Named = str
else:
    Named = Literal[tuple(NORMALISATIONS)]


def channels(text: str) -> tuple[float, ...]:
    """Read "0.49,0.48,0.45" or "0.5". Raises ValueError for other text."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"{text} is not R,G,B; write numbers such as 0.49,0.48,0.45") from None


Channels = Annotated[
    tuple[float, ...] | None,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="R,G,B",
        instance_from_str=lambda words: channels(words[0]),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [
            "not given" if value is None else ",".join(f"{number:g}" for number in value)
        ],
    ),
]


@dataclass
class Normalization:
    """How the network normalises images in [0,1]; budgets stay in pixel units."""

    normalize: Named | None = None
    """The mean and the standard deviation of each channel with which a network of others was
    trained. A file that says its own needs none; none: the network takes images in [0,1].
    """
    mean: Channels = None
    """The means themselves, instead of --normalize: three numbers, or one for all channels."""
    std: Channels = None
    """The standard deviations that go with --mean."""

    def check(self) -> None:
        chosen(self.normalize, self.mean, self.std)

    @property
    def normalisation(self) -> Normalisation | None:
        """Return the mean and the standard deviation; None where no option was given."""
        return chosen(self.normalize, self.mean, self.std)


@dataclass
class Elsewhere:
    """Networks that were made elsewhere."""

    inputs: Normalization = group(Normalization)
    surrogate_factory: str | None = None
    """Instead of --surrogate: package.module:function or path/file.py:function."""
    surrogate_normalize: Named | None = None
    """--normalize, --mean and --std of --surrogate or --surrogate-factory."""
    surrogate_mean: Channels = None
    """See --mean."""
    surrogate_std: Channels = None
    """See --std."""

    def check(self) -> None:
        given = self.surrogate_normalize, self.surrogate_mean, self.surrogate_std
        chosen(*given, prefix="surrogate-")

    def check_surrogate(self, file: Path | None) -> None:
        """Refuse two surrogates, and a normalisation of none. file: the value of --surrogate."""
        one = self.surrogate_factory is None or file is None
        need(one, "surrogate-factory", self.surrogate_factory, "leave it out, or --surrogate")
        given = self.surrogate_normalisation is None or file or self.surrogate_factory
        right = "give --surrogate or --surrogate-factory, whose images it describes"
        need(bool(given), "surrogate-normalize", "", right)

    @property
    def surrogate(self) -> tuple[str | None, Normalisation | None]:
        """Return the factory of the surrogate, and how its images are normalised."""
        return self.surrogate_factory, self.surrogate_normalisation

    @property
    def surrogate_normalisation(self) -> Normalisation | None:
        """Return the mean and the standard deviation of the surrogate's images; None as above."""
        given = self.surrogate_normalize, self.surrogate_mean, self.surrogate_std
        return chosen(*given, prefix="surrogate-")


def chosen(
    name: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    prefix: str = "",
) -> Normalisation | None:
    """Choose a normalisation by its name or by its numbers; None where nothing is given.

    prefix: of the options that gave them. Raises InputError.
    """
    both = (mean is None) == (std is None)
    lone = "mean" if std is None else "std"
    need(both, f"{prefix}{lone}", "", f"give --{prefix}mean and --{prefix}std together")
    if mean is None or std is None:
        return NORMALISATIONS[name] if name else None
    right = f"leave it out, or --{prefix}mean and --{prefix}std"
    need(name is None, f"{prefix}normalize", name, right)
    try:
        return checked(mean, std)
    except InputError as error:
        raise InputError(f"--{prefix}mean and --{prefix}std: {error}") from None
