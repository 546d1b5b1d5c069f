"""The runs behind the tables and figures: a graph whose nodes are commands of the stage scripts, each made once.

OUT/digits-tiny/experiment.json           what was asked for
OUT/digits-tiny/seed1/natural/            the naturally trained network of Figure 2
OUT/digits-tiny/seed1/linf/namid/         a defense, with its evaluations white.json, white-aa.json, black.json, ...
OUT/digits-tiny/tables/, figures/         what came of them
"""

import json
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from common.errors import InputError
from reproduction import finished, question
from reproduction.scales import EPSILON, SCALES
from utils.attacks.registry import COLUMNS
from utils.mi.names import estimator_files
from utils.settings import options

ROOT = Path(__file__).parent.parent
PAPER = json.loads((Path(__file__).parent / "paper.json").read_text())
NORMS = ("linf", "l2")
# "table3" -> [("white", "linf")]: which boxes and norms a table shows
TABLES = {f"table{number}": [] for number in range(1, 7)}
for _name, _part in PAPER.items():
    if isinstance(_part, dict):
        for _number in re.findall(r"\d", _part["table"]):
            TABLES[f"table{_number}"].append((_name.split("_")[0], _name.split("_")[2]))
STABILITY = "stability"  # the sweep of reproduction/stability.py, which no table of the paper needs
FIGURES = ("figure2", "figure4", "figure5", "figure7")  # all of them under Linf


@dataclass(frozen=True)
class Defense:
    """How a network is trained: its name in the tables, its script, that script's options, and the estimators it needs."""

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
RADAR = ("pgd-10", "pgd-40", "aa", "fwa-10", "fwa-40")  # the attacks of Figure 2


@dataclass
class Experiment:
    """What is reproduced, and where."""

    out: Path
    dataset: str
    scale: str
    seeds: int
    data_dir: Path | None = None
    alpha: float | None = None
    data_note: str = ""

    @property
    def root(self) -> Path:
        return self.out / f"{self.dataset}-{self.scale}"

    @property
    def nearest(self) -> str:
        """The data set among the paper's whose figures are shown beside the measured ones."""
        return self.dataset if self.dataset in PAPER["white_box_linf"] else "cifar10"


@dataclass(frozen=True)
class Node:
    """A command that writes `outputs`, the first of which is what the nodes after it read.

    purpose: in words, for the plan. needs: names of the nodes before it. attacks: those of an evaluation, ``()`` for others."""

    name: str
    purpose: str
    words: list[str]
    needs: tuple[str, ...]
    outputs: tuple[Path, ...]
    attacks: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        return self.words[0].startswith("train_")

    @property
    def folder(self) -> Path:
        return self.outputs[0].parent

    @property
    def command(self) -> str:
        """A shell line, to be run in the repository's folder."""
        return shlex.join([interpreter(), *self.words])

    @property
    def diverged_note(self) -> Path:
        """The file that says that this training diverged; without the folder the run is made anew."""
        return self.folder / "diverged.txt"


def interpreter() -> str:
    """The Python that runs this, as it is called from the repository's folder."""
    path = Path(sys.executable)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


@dataclass
class Graph:
    """The nodes of an experiment, in an order in which they can be made."""

    experiment: Experiment
    nodes: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self):
        self.scale = SCALES[self.experiment.scale]

    def _add(
        self,
        name: str,
        purpose: str,
        words: Iterable,
        needs: Iterable[str],
        outputs: Iterable[str],
        attacks=(),
    ) -> str:
        """`words` and `outputs` as they are in the node; the outputs are file names in the folder of the node's run."""
        if name not in self.nodes:
            folder = self.experiment.root / name
            folder = folder.parent if folder.suffix == ".json" else folder
            self.nodes[name] = Node(
                name,
                purpose,
                [str(word) for word in words],
                tuple(needs),
                tuple(folder / output for output in outputs),
                tuple(attacks),
            )
        return name

    def product(self, name: str) -> Path:
        """What the node `name` is made for: a model file, the first file of its estimators, a results file."""
        return self.nodes[name].outputs[0]

    def _data(self) -> list:
        directory = self.experiment.data_dir
        return [
            "--dataset",
            self.experiment.dataset,
            *(["--data-dir", directory] if directory else []),
        ]

    def _budget(self, norm: str) -> list:
        budget = EPSILON.get(self.experiment.dataset, {}).get(norm)
        return ["--norm", norm, *(["--epsilon", budget] if budget else [])]

    def train(
        self,
        name: str,
        purpose: str,
        script: str,
        options: str,
        norm: str,
        seed: int,
        needs: tuple,
        files,
        extra=(),
    ) -> str:
        """A run of a training script: its options, those that are paths (`extra`), what it needs, and the `files` it is for."""
        words = [
            script,
            *self._data(),
            *self._budget(norm),
            *shlex.split(f"{self.scale.data} {options}"),
            *extra,
            "--seed",
            seed,
            "--model-dir",
            self.experiment.root / name,
        ]
        return self._add(name, purpose, words, needs, files)

    def natural(self, seed: int) -> str:
        options = f"{self.scale.network} {self.scale.training} --defense natural"
        return self.train(
            f"seed{seed}/natural",
            f"natural training, seed {seed}",
            "train_standard.py",
            options,
            "linf",
            seed,
            (),
            ("best_model.pth", "last_model.pth"),
        )

    def surrogate(self, norm: str, seed: int) -> str:
        options = f"{self.scale.surrogate} --arch vgg19"
        return self.train(
            f"seed{seed}/{norm}/vgg19",
            f"surrogate, a VGG-19 by standard AT, {norm}, seed {seed}",
            "train_standard.py",
            options,
            norm,
            seed,
            (),
            ("best_model.pth", "last_model.pth"),
        )

    def estimators(self, kind: str, target: str, norm: str, seed: int) -> str:
        """The estimators of `kind`, "estimators" or "estimators_max", of the node `target`."""
        script, options, how = {
            "estimators": ("train_MI_estimator.py", self.scale.estimators, "MI estimators"),
            "estimators_max": (
                "train_MI_estimator_only_max.py",
                self.scale.estimators_max,
                "MI estimators by Eq. 4",
            ),
        }[kind]
        return self.estimators_by(
            script, options, f"{how} of {target}", f"{target}-{kind}", target, norm, seed
        )

    def estimators_by(
        self, script: str, options: str, purpose: str, name: str, target: str, norm: str, seed: int
    ) -> str:
        """Estimators of the node `target` by a script of stage 2 and its options, as the node `name`."""
        files = [path.name for path in estimator_files(Path()).values()]
        return self.train(
            name,
            purpose,
            script,
            options,
            norm,
            seed,
            (target,),
            files,
            ["--pre-target", self.product(target)],
        )

    def defense(self, name: str, norm: str, seed: int) -> str:
        how, scale = {**DEFENSES, **VARIANTS}[name], self.scale
        options, needs, extra, product = (
            f"{scale.network} {scale.training} {how.options}",
            (),
            [],
            "best_model.pth",
        )
        if how.estimators:
            estimators = self.estimators(
                how.estimators, self.defense("standard", norm, seed), norm, seed
            )
            options += f" {scale.namid}"
            needs, product = (estimators,), "target_model.pth"
            extra = ["--estimator-dir", self.nodes[estimators].folder]
            alpha = scale.alpha if self.experiment.alpha is None else self.experiment.alpha
            if alpha is not None and name != "wmim":
                extra += ["--alpha", alpha]
        return self.train(
            f"seed{seed}/{norm}/{name}",
            f"{how.label}, {norm}, seed {seed}",
            how.script,
            options,
            norm,
            seed,
            needs,
            (product, "last_model.pth"),
            extra,
        )

    def evaluation(
        self, run: str, attacks: Iterable[str], box: str = "white", surrogate: str | None = None
    ) -> list[str]:
        """The evaluations of a trained network under `attacks`, AutoAttack in one of its own: results files in its folder."""
        names = []
        for suffix, size, chosen in (
            ("", self.scale.evaluation, [each for each in attacks if each != "aa"]),
            ("-aa", self.scale.autoattack, [each for each in attacks if each == "aa"]),
        ):
            if chosen:
                name = f"{run}/{box}{suffix}.json"
                words = [
                    "test_comparison.py",
                    "--model-dir",
                    self.nodes[run].folder,
                    "--attacks",
                    ",".join(chosen),
                    *self._data()[2:],
                    *shlex.split(size),
                    *(["--surrogate", self.product(surrogate)] if surrogate else []),
                    "--output",
                    self.experiment.root / name,
                ]
                names.append(
                    self._add(
                        name,
                        f"{run}, {box} box: {', '.join(chosen)}",
                        words,
                        (run, surrogate) if surrogate else (run,),
                        [Path(name).name],
                        chosen,
                    )
                )
        return names

    def white(self, run: str) -> list[str]:
        norm = Path(run).parent.name
        return self.evaluation(run, COLUMNS[norm])

    def black(self, run: str, norm: str, seed: int) -> list[str]:
        return self.evaluation(run, COLUMNS[norm], "black", self.surrogate(norm, seed))

    def images(self, run: str, attacks: Iterable[str]) -> str:
        """The adversarial images that Figures 2 and 4 need."""
        name = f"{run}/images.json"
        path = self.experiment.root / name
        words = [
            "test_comparison.py",
            "--model-dir",
            self.nodes[run].folder,
            "--attacks",
            ",".join(attacks),
            *self._data()[2:],
            *shlex.split(self.scale.mi),
            "--save-adv",
            path.with_suffix(".npz"),
            "--gallery",
            "--output",
            path,
        ]
        return self._add(
            name,
            f"{run}: adversarial images by {', '.join(attacks)}",
            words,
            (run,),
            ("images.npz", "images.json"),
            attacks,
        )

    def mi(self, run: str, kind: str, attacks: Iterable[str], norm: str, seed: int) -> str:
        """The MI values of the network `run` under `attacks` by its estimators of `kind`."""
        images, estimators = self.images(run, attacks), self.estimators(kind, run, norm, seed)
        name = f"{run}/mi-{kind}.json"
        words = [
            "-m",
            "reproduction.mi_values",
            "--model",
            self.product(run),
            "--estimator-dir",
            self.nodes[estimators].folder,
            "--adv",
            self.product(images),
            *self._data(),
            *self._budget(norm),
            *shlex.split(self.scale.mi),
            "--output",
            self.experiment.root / name,
        ]
        return self._add(
            name, f"{run}: MI values by {kind}", words, (run, estimators, images), [Path(name).name]
        )

    def cells(self, box: str, norm: str, seed: int, defenses: Iterable[str] | None = None) -> None:
        """What one half of a table needs."""
        printed = PAPER[f"{box}_box_{norm}"]["cifar10"]
        for name in printed:
            if defenses is None or name in defenses:
                run = self.defense(name, norm, seed)
                if box == "white":
                    self.white(run)
                else:
                    self.black(run, norm, seed)

    def figure(self, name: str, seed: int) -> list[str]:
        """What a figure needs of a seed; the names of the nodes whose results it shows."""
        if name == "figure2":
            return [self.mi(self.natural(seed), "estimators_max", RADAR, "linf", seed)]
        standard = self.defense("standard", "linf", seed)
        if name == "figure4":
            return [
                self.mi(standard, kind, ("pgd-40",), "linf", seed)
                for kind in ("estimators_max", "estimators")
            ]
        namid = self.defense("namid", "linf", seed)
        if name == "figure5":
            columns = [
                each for each in COLUMNS["linf"] if each != "aa"
            ]  # as the tables', so that they share the evaluation
            shown = self.evaluation(standard, columns) + self.evaluation(namid, columns)
            for variant in ("namid_i", "namid_ii", "namid_iii"):
                shown += self.evaluation(
                    self.defense(variant, "linf", seed), ("none", "pgd-40", "fwa-40")
                )
            return shown
        return self.white(namid) + self.evaluation(
            self.defense("namid_max", "linf", seed), ("none", "pgd-40", "aa", "tidim")
        )

    def state(self, name: str) -> str:
        """Return what there is of a node.

        "stale": made of something else, or reads what is stale, and `why` says so; "diverged": this
        training or one before it did; "finished"; or "not run", also where it is in its middle.
        """
        if self.why(name):
            return "stale"
        if self._diverged(name):
            return "diverged"
        return "finished" if self._finished(self.nodes[name]) else "not run"

    def why(self, name: str) -> str | None:
        """Return why what is there of a node is stale, in words; None where it is not."""
        node = self.nodes[name]
        found = question.reason(self, node)
        if found is None and any(path.is_file() for path in node.outputs):
            before = next((each for each in node.needs if self.why(each)), None)
            found = before and f"reads {before}, which is stale"
        return found

    def _diverged(self, name: str) -> bool:
        node = self.nodes[name]
        return (node.trains and node.diverged_note.exists()) or any(map(self._diverged, node.needs))

    def _finished(self, node: Node) -> bool:
        """Return whether a node's files are complete, and no younger file without a hash was read.

        A doubt makes the command run again, which looks closer and says that it is finished.
        """
        return finished.complete(node) and not finished.by_date(node, self)


def plan(
    experiment: Experiment,
    target: str,
    norms: tuple[str, ...] = NORMS,
    defenses: Iterable[str] | None = None,
) -> Graph:
    """The runs that `target` (table1 ... table6, figure2, 4, 5, 7, all of these, or stability) needs under `norms`, of `defenses`
    (None: all)."""
    graph = Graph(experiment)
    if target == STABILITY:
        from reproduction import stability

        for seed in range(1, experiment.seeds + 1):
            stability.add(graph, seed)
        return graph
    tables = TABLES if target == "all" else {target: TABLES[target]} if target in TABLES else {}
    figures = (
        FIGURES if target == "all" and "linf" in norms else [target] if target in FIGURES else []
    )
    halves = dict.fromkeys(half for name in tables for half in TABLES[name] if half[1] in norms)
    if target != "all":
        about = ["linf"] if figures else [norm for _, norm in TABLES[target]]
        if not set(about) & set(norms):
            raise InputError(
                f"--norm {norms[0]}: {target} is about {about[0]} alone; leave --norm out"
            )
    for seed in range(1, experiment.seeds + 1):
        for box, norm in halves:
            graph.cells(box, norm, seed, defenses)
        for name in figures:
            graph.figure(name, seed)
    return graph


def remember(experiment: Experiment) -> Experiment:
    """Write the experiment into its folder, joined with what was asked for there before: the most seeds, the last note.
    InputError where it was another experiment."""
    from common.files import make_folder, write_text

    make_folder(experiment.root, "--out: the folder")
    path = experiment.root / "experiment.json"
    if path.is_file():
        before = recall(path)
        if before.alpha != experiment.alpha:
            raise InputError(
                f"--alpha {experiment.alpha}: {experiment.root} was made with --alpha {before.alpha}; "
                "give another --out"
            )
        experiment = replace(
            experiment,
            seeds=max(experiment.seeds, before.seeds),
            data_dir=experiment.data_dir or before.data_dir,
            data_note=experiment.data_note or before.data_note,
        )
    write_text(
        path,
        json.dumps(
            {
                name: str(value) if isinstance(value, Path) else value
                for name, value in asdict(experiment).items()
                if name != "out"
            },
            indent=1,
        )
        + "\n",
    )
    return experiment


def recall(path: Path) -> Experiment:
    """The experiment that `remember` wrote to `path`."""
    try:
        content = json.loads(path.read_text())
        directory = content.pop("data_dir")
        return Experiment(
            out=path.parent.parent, data_dir=Path(directory) if directory else None, **content
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise InputError(
            f"{path}: does not say what was reproduced here; delete it and give the options again"
        ) from None


def budget(experiment: Experiment, norm: str) -> float:
    """The budget of the experiment, in pixel units."""
    return EPSILON.get(experiment.dataset, {}).get(norm, options.EPSILON[norm])
