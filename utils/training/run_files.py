"""Name the files that a run leaves in its folder."""

import os
import re
from pathlib import Path

SETTINGS, LAST, PREVIOUS = "settings.json", "last.ckpt", "previous.ckpt"
BEST = ("best_model.pth", "target_model.pth")
EPOCH = re.compile(r"epoch\d+_model\.pth")  # train_VIB.py --keep-every
OURS = (
    *(SETTINGS, "metrics.csv", LAST, PREVIOUS, "curves.png"),
    "tracked.json",  # what --log has sent
    *("results.json", ".results.json.unfinished.npz"),
    *(*BEST, "last_model.pth"),
    *("local_model.pth", "global_model.pth"),
    *("local_n_model.pth", "global_n_model.pth", "local_a_model.pth", "global_a_model.pth"),
)


def run_files(folder: Path) -> list[str]:
    """List the files of a run in a folder, by their names."""
    return [name for name in sorted(os.listdir(folder)) if name in OURS or EPOCH.fullmatch(name)]
