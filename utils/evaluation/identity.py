"""What fixes an evaluation, and what describes the command that made it; a file holds both."""

import shlex
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

from common.files import file_hash
from data.sets import DataSet
from models.normalisation import Normalisation
from utils import provenance
from utils.evaluation.networks import Network
from utils.evaluation.predictors import Predictors
from utils.evaluation.threat import ThreatModel


@dataclass(frozen=True)
class Identity:
    """What has to agree for an evaluation to resume, and the paths of its networks, which need not.

    rules: 2 and 3 where --step-size or rounding is asked for, whose meaning changed since older
    files were written; None otherwise. predictor, samples, attack_samples: how a network with a
    bottleneck is judged and attacked; None for another. normalisation, surrogate_normalisation: of
    images, where an option gave them.
    """

    model: str = field(compare=False)
    factory: str | None
    model_hash: str
    arch: str | None
    surrogate: str | None = field(compare=False)
    surrogate_hash: str | None
    adv_hash: str | None
    dataset: str
    data_fingerprint: str
    split: str
    n: int
    norm: str
    epsilon: float
    step_size: float | None
    released_settings: bool
    rounded: bool
    rules: int | None
    seed: int
    batch_size: int
    precision: str
    predictor: str | None = None
    samples: int | None = None
    attack_samples: int | None = None
    normalisation: Normalisation | None = None
    surrogate_normalisation: Normalisation | None = None
    extra_data: str | None = field(default=None, compare=False)  # that it was trained on

    @classmethod
    def of(
        cls,
        settings,
        network: Network,
        dataset: DataSet,
        n: int,
        threat: ThreatModel,
        precision: str,
        predictors: Predictors | None = None,
    ) -> "Identity":
        """Collect what fixes the evaluation of a network on `n` images of a data set.

        settings: the options of test_comparison.py. precision: "fp32" or "bf16", the one in use.
        """
        surrogate, adv = network.surrogate, settings.adv
        rules = 2 if settings.step_size else None
        rules = 3 if settings.round_uint8 else rules
        return cls(
            model=network.name,
            factory=settings.factory,
            model_hash=network.hash(),
            arch=getattr(network.model, "arch", None),
            surrogate=surrogate.name if surrogate else None,
            surrogate_hash=surrogate.hash() if surrogate else None,
            normalisation=network.normalisation,
            surrogate_normalisation=surrogate.normalisation if surrogate else None,
            adv_hash=adv and file_hash(adv),
            dataset=dataset.name,
            data_fingerprint=dataset.fingerprint,
            split=settings.split,
            n=n,
            norm=threat.norm,
            epsilon=threat.epsilon,
            step_size=settings.step_size,
            released_settings=settings.attacks == "released",
            rounded=settings.round_uint8,
            rules=rules,
            seed=settings.seed,
            batch_size=settings.batch_size,
            precision=precision,
            extra_data=network.extra_data,
            **(predictors.facts if predictors else {}),
        )


@dataclass(frozen=True)
class Metadata:
    """What made the results: kept beside them, not compared when an evaluation is resumed."""

    hardware: str
    versions: dict
    git_commit: str | None
    command: str
    date: str

    @classmethod
    def now(cls, device: torch.device) -> "Metadata":
        """Describe this command on this machine."""
        return cls(
            hardware=provenance.hardware(device),
            versions=provenance.versions(),
            git_commit=provenance.git_commit(),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            date=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        )


# Keys of a results file that are not compared when an evaluation is resumed.
NOT_COMPARED = (
    *(each.name for each in fields(Identity) if not each.compare),
    *(each.name for each in fields(Metadata)),
    *("worst_case", "warnings", "saved"),
)
