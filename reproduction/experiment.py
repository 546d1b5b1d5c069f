"""An experiment: its data set, scale and seeds, and the file experiment.json that keeps them."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from common.errors import InputError
from common.json_files import read_json
from common.schema import TEXT, Kind, OrNone, number, whole
from data.names import DATASETS
from reproduction.paper import PAPER
from reproduction.scales import EPSILON, SCALES
from utils.settings import options

MOST_SEEDS = 1000
EXPERIMENT = {
    "dataset": Kind("a data set", lambda value: isinstance(value, str) and value in DATASETS),
    "scale": Kind("a scale", lambda value: isinstance(value, str) and value in SCALES),
    **{"seeds": whole(1, MOST_SEEDS), "data_dir": OrNone(TEXT), "alpha?": OrNone(number())},
    "data_note?": TEXT,
}


@dataclass
class Experiment:
    """What is reproduced, and the folder `out` for its results.

    alpha: NAMID's weight of L_mi; None: the scale's own. data_note: a remark for the captions.
    """

    out: Path
    dataset: str
    scale: str
    seeds: int
    data_dir: Path | None = None
    alpha: float | None = None
    data_note: str = ""

    @property
    def root(self) -> Path:
        """Return the folder of this data set and scale."""
        return self.out / f"{self.dataset}-{self.scale}"

    @property
    def nearest(self) -> str:
        """Return the paper's data set whose printed numbers are shown beside the measured ones."""
        return self.dataset if self.dataset in PAPER["white_box_linf"] else "cifar10"


def remember(experiment: Experiment) -> Experiment:
    """Write an experiment into its folder, joined with the one that is there already.

    The joined experiment has the larger number of seeds and the last data_dir and data_note.
    Raises InputError where the folder was made with another alpha.
    """
    from common.files import (
        make_folder,
        write_text,
    )  # here: it imports torch, which --plan does without

    make_folder(experiment.root, "--out: the folder")
    path = experiment.root / "experiment.json"
    if path.is_file():
        before = recall(path)
        if before.alpha != experiment.alpha:
            raise InputError(
                f"--alpha {experiment.alpha}: {experiment.root} was made with "
                f"--alpha {before.alpha}; give another --out"
            )
        experiment = replace(
            experiment,
            seeds=max(experiment.seeds, before.seeds),
            data_dir=experiment.data_dir or before.data_dir,
            data_note=experiment.data_note or before.data_note,
        )
    content = {name: value for name, value in asdict(experiment).items() if name != "out"}
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")  # str: of a path
    return experiment


def recall(path: Path) -> Experiment:
    """Read the experiment that `remember` wrote to `path`.

    Raises InputError where the file is damaged, or describes an experiment of another folder.
    """
    what, remedy = "does not say what was reproduced here: ", "delete it and give the options again"
    content = read_json(path, EXPERIMENT, remedy, what)
    known = {
        name: content[name]
        for name in (each.name for each in fields(Experiment))
        if name in content
    }
    directory = known.pop("data_dir")
    found = Experiment(
        out=path.parent.parent, data_dir=Path(directory) if directory else None, **known
    )
    if found.root != path.parent:
        raise InputError(f"{path}: {what}it is of {found.root.name}; {remedy}")
    return found


def budget(experiment: Experiment, norm: str) -> float:
    """Return the budget of an experiment, in pixel units."""
    return EPSILON.get(experiment.dataset, {}).get(norm, options.EPSILON[norm])
