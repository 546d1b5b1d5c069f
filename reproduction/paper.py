"""What the paper shows: its printed numbers, its tables and figures, and the defenses in them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

PAPER = json.loads((Path(__file__).parent / "paper.json").read_text())
NORMS = ("linf", "l2")
# "table3" -> [("white", "linf")]: the boxes and norms that each table shows
TABLES = {f"table{number}": [] for number in range(1, 7)}
for _name, _part in PAPER.items():
    if isinstance(_part, dict):
        for _number in re.findall(r"\d", _part["table"]):
            TABLES[f"table{_number}"].append((_name.split("_")[0], _name.split("_")[2]))
FIGURES = ("figure2", "figure4", "figure5", "figure7")  # all of them under Linf
RADAR = ("pgd-10", "pgd-40", "aa", "fwa-10", "fwa-40")  # the attacks of Figure 2


@dataclass(frozen=True)
class Defense:
    """A way to train a network.

    label: its name in the tables. script: the training script. options: that script's options.
    estimators: the kind of MI estimators that it needs, a node's suffix; None: none.
    """

    label: str
    script: str = "train_standard.py"
    options: str = ""
    estimators: str | None = None


DEFENSES = {
    "standard": Defense("Standard"),
    "wmim": Defense("WMIM", "train_MIAT.py", "--mi-loss wmim", "estimators_max"),
    "namid": Defense("NAMID", "train_MIAT.py", "", "estimators"),
    "trades": Defense("TRADES", options="--defense trades"),
    "namid_t": Defense("NAMID_T", "train_MIAT.py", "--adv-loss trades", "estimators"),
    "mart": Defense("MART", options="--defense mart"),
    "namid_m": Defense("NAMID_M", "train_MIAT.py", "--adv-loss mart", "estimators"),
}
VARIANTS = {  # of NAMID, for Figures 5 and 7
    "namid_i": Defense(
        "NAMID without adversarial MI (i)", "train_MIAT.py", "--without adversarial", "estimators"
    ),
    "namid_ii": Defense(
        "NAMID without natural MI (ii)", "train_MIAT.py", "--without natural", "estimators"
    ),
    "namid_iii": Defense("NAMID, lambda 0 (iii)", "train_MIAT.py", "--lam 0", "estimators"),
    "namid_max": Defense("NAMID, estimators by Eq. 4", "train_MIAT.py", "", "estimators_max"),
}
