"""Find the estimators that an adaptive attack uses: those that the defense was trained with."""

from pathlib import Path

from common.errors import InputError
from common.files import file_hash
from data.sets import DataSet
from models.bottleneck import Bottleneck
from models.targets import Target
from utils.attacks import registry
from utils.devices import Compute
from utils.evaluation.networks import Network
from utils.evaluation.threat import ThreatModel
from utils.mi.adaptive import Known
from utils.mi.names import adaptive_terms, estimator_files
from utils.training.estimators import load_estimators


def with_estimators(
    attacks: dict[str, dict],
    folder: Path | None,
    network: Network,
    threat: ThreatModel,
    dataset: DataSet,
    compute: Compute,
) -> dict[str, dict]:
    """Give the attacks that take estimators those of `folder`; see `registry.ADAPTIVE`.

    Args:
        attacks: {name: its settings}.
        folder: the value of --estimator-dir; None: the folder that the network's run names.

    Raises InputError where such an attack cannot run on the network, where no folder is known, and
    as `load_estimators` does.
    """
    adaptive = [name for name in attacks if registry.parse(name).takes_estimators]
    if not adaptive:
        return attacks
    if not isinstance(network.model, Target) or isinstance(network.model, Bottleneck):
        raise InputError(
            f"--attacks {adaptive[0]}: {network.name} is no network that the estimators of stage 2 "
            "take; leave the attack out"
        )
    folder = folder or network.options.get("estimator_dir")
    if folder is None:
        raise InputError(
            f"--attacks {adaptive[0]}: {network.name} names no estimators; give --estimator-dir, "
            "the folder of those that it was trained with"
        )
    terms = adaptive_terms(network.known)
    paths: dict[str, Path] = {}
    for letter in terms.values():
        paths |= estimator_files(Path(folder), letter)
    for path in paths.values():
        if not path.is_file():
            raise InputError(f"--estimator-dir {folder}: has no {path.name}; give stage 2's folder")
    facts = {"norm": threat.norm, "epsilon": threat.epsilon, "dataset": dataset.name}
    found = list(load_estimators(paths, network.model, facts, None).values())
    known = Known(
        {kind: compute.prepare(each) for kind, each in zip(terms, found)},
        {option: file_hash(path) for option, path in paths.items()},
    )
    given = {name: attacks[name] | {"estimators": known} for name in adaptive}
    return attacks | given
