"""Compare the layers of adversarially trained networks with those of a control, over seeds.

delta_l = Q_l(h_adv) - Q_l(h_ctl),   s_l = the sign of delta_l where Student's 95 % interval over
                                           seeds leaves out 0, otherwise 0
"""

import json
import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from scipy.special import stdtrit

from common.errors import InputError
from common.files import write_text
from common.json_files import read_json
from common.schema import ANYTHING, Each

ROLES = ("natural", "adversarial", "control")  # h_0, h_adv and h_ctl


@dataclass(frozen=True)
class Layer:
    """What a profile says of a layer: its sign, and the mean of its quantity in h_adv."""

    sign: int
    adversarial: float


def compare(first: list[float], second: list[float]) -> dict:
    """Compare two lists of values, one of each seed: mean difference, 95 % interval and sign.

    With one seed there is no interval, and the sign is 0.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    delta, interval, sign = statistics.mean(differences), None, 0
    if len(differences) > 1:
        half = float(stdtrit(len(differences) - 1, 0.975))
        half *= statistics.stdev(differences) / math.sqrt(len(differences))
        interval = (delta - half, delta + half)
        sign = int(interval[0] > 0) - int(interval[1] < 0)
    return {"delta": delta, "interval": interval, "sign": sign}


def profile(values: dict[str, list[dict[str, float]]]) -> dict[str, dict]:
    """Put the values of several networks side by side, layer by layer.

    values: {role: for each seed {layer: value}}. The difference is h_adv's from the control, or
    from h_0 where there is no control; there is none without h_adv. "loss" is D_l, the mean of
    Q_l - Q_(l+1) of each role; the last layer has none.
    """
    roles = [role for role in ROLES if values.get(role)]
    names = list(values[roles[0]][0])
    found = {name: _side_by_side({role: values[role] for role in roles}, name) for name in names}
    for layer, after in pairwise(names):
        pairs = {role: (found[layer][role], found[after][role]) for role in roles}
        found[layer]["loss"] = {
            role: statistics.mean(here) - statistics.mean(there)
            for role, (here, there) in pairs.items()
        }
    return found


def _side_by_side(values: dict[str, list[dict[str, float]]], layer: str) -> dict:
    """List the values of a layer by role, and compare them."""
    columns = {role: [each[layer] for each in seeds] for role, seeds in values.items()}
    baseline = columns.get("control") or columns.get("natural")
    if baseline and "adversarial" in columns:
        return columns | compare(columns["adversarial"], baseline)
    return columns


def write_profile(path: Path, quantities: dict[str, dict], facts: dict) -> None:
    """Write profile.json: {quantity: what `profile` found} and the facts of the measurement."""
    write_text(path, json.dumps(facts | {"quantities": quantities}, indent=1) + "\n")


def read_profile(path: Path, quantity: str) -> dict[str, Layer]:
    """Read what profile.json says of the layers by one quantity.

    Raises InputError where it is no such file, or lacks the quantity or the differences.
    """
    right = "give a profile.json that analyze_MI.py layers wrote with --adversarial"
    try:
        quantities = read_json(path, {"quantities": Each(Each(ANYTHING))}, right)["quantities"]
        layers = {name: _layer(entry) for name, entry in quantities.get(quantity, {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"--profile {path}: holds no signs of layers; {right}") from None
    if quantity not in quantities:
        known = ", ".join(quantities)
        raise InputError(f"--profile {path}: has no quantity {quantity!r}; it has {known}")
    return layers


def _layer(entry: dict) -> Layer:
    """Read one layer. Raises ValueError, KeyError or TypeError where it is malformed."""
    sign, values = entry["sign"], [float(value) for value in entry["adversarial"]]
    if type(sign) is not int or abs(sign) > 1 or not all(map(math.isfinite, values)):
        raise ValueError(f"{sign!r} is no sign, or a value is not finite")
    return Layer(sign, statistics.mean(values))
