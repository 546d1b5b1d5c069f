"""Write what RobustBench's leaderboard asks for: a file in the schema of its folder model_info.

https://github.com/RobustBench/robustbench, "Adding a new model". Accuracies are texts in percent.
What only its author knows of a model (paper, authors, venue) is left empty.
"""

import json
import re
from pathlib import Path

from common.errors import InputError
from common.files import write_text
from utils.evaluation.networks import Network
from utils.evaluation.results import Results, share

DATASETS = ("cifar10", "cifar100")  # those of its leaderboard that we read
IMAGES = 10_000  # that it evaluates on
FROM_AUTHOR = ("link", "name", "authors", "venue")


def check(path: Path | None, results: Results, attacks: dict) -> None:
    """Refuse, before anything is computed, what the file of --robustbench-json cannot say.

    path: None: no file is asked for. attacks: {name: settings} of this command.
    """
    if path is None:
        return
    dataset = results.identity["dataset"]
    if dataset not in DATASETS:
        raise InputError(
            f"--robustbench-json {path}: its leaderboards are of {' and '.join(DATASETS)}, "
            f"not of {dataset}; leave it out"
        )
    if "aa" not in {*attacks, *results.complete()}:
        raise InputError(
            f"--robustbench-json {path}: its accuracy is that under standard AutoAttack; "
            "add aa to --attacks"
        )


def write(path: Path | None, results: Results, network: Network) -> None:
    """Write the file of --robustbench-json; None: nothing."""
    if path:
        write_text(path, json.dumps(model_info(results, network), indent=2) + "\n")


def model_info(results: Results, network: Network) -> dict:
    """Describe a network as a file in model_info does, from its row aa."""
    identity, outcomes = results.identity, results.rows["aa"]["outcomes"]
    n = len(outcomes)
    robust = f"{share(outcomes.count('r') + outcomes.count('o'), n)['accuracy']:.2f}"
    notes = [] if n == IMAGES else [f"Evaluated on {n} test images instead of {IMAGES}."]
    return {
        **dict.fromkeys(FROM_AUTHOR, ""),
        "additional_data": bool(network.known.get("extra_data")),
        "number_forward_passes": identity["samples"] or 1,
        "dataset": identity["dataset"],
        "architecture": architecture(identity["arch"] or type(network.model).__name__),
        "eps": radius(identity["norm"], identity["epsilon"]),
        "clean_acc": f"{share(n - outcomes.count('w'), n)['accuracy']:.2f}",
        "reported": robust,
        "autoattack_acc": robust,
        "footnote": " ".join(notes) or None,
        "unreliable": False,
    }


def architecture(arch: str) -> str:
    """Write an architecture as the leaderboard does: ResNet-18, WideResNet-34-10."""
    for ours, theirs in (("preactresnet", "PreActResNet-"), ("resnet", "ResNet-")):
        if re.fullmatch(rf"{ours}\d+", arch):
            return theirs + arch.removeprefix(ours)
    return re.sub(r"^wrn-?(?=\d)", "WideResNet-", arch)


def radius(norm: str, epsilon: float) -> str:
    """Write a budget as the leaderboard does: 8/255 under Linf, 0.5 under L2."""
    levels = 255 * epsilon
    if norm == "linf" and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{epsilon:g}"
