"""A graph whose nodes are commands of the stage scripts, each run once.

OUT/digits-tiny/experiment.json           the experiment
OUT/digits-tiny/seed1/natural/            the naturally trained network of Figure 2
OUT/digits-tiny/seed1/linf/namid/         a defense, with its evaluations white.json, ...
OUT/digits-tiny/tables/, figures/         the tables and figures
"""

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from reproduction import finished, question
from reproduction.experiment import Experiment
from reproduction.paper import DEFENSES, VARIANTS
from reproduction.scales import EPSILON, SCALES
from utils.attacks.registry import COLUMNS
from utils.mi.names import estimator_files

ROOT = Path(__file__).parent.parent
NETWORK = ("best_model.pth", "last_model.pth")  # the outputs of train_standard.py


@dataclass(frozen=True)
class Node:
    """A command that writes `outputs`, of which the nodes after it read the first.

    purpose: in words, for the plan. needs: names of the nodes before it. attacks: those of an
    evaluation, ``()`` for other nodes.
    """

    name: str
    purpose: str
    words: list[str]
    needs: tuple[str, ...]
    outputs: tuple[Path, ...]
    attacks: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Return whether the command trains a network or estimators."""
        return self.words[0].startswith("train_")

    @property
    def analyzes(self) -> bool:
        """Return whether the command is analyze_IB.py, which leaves a CSV file and a plot."""
        return self.words[0] == "analyze_IB.py"

    @property
    def folder(self) -> Path:
        """Return the folder of the outputs."""
        return self.outputs[0].parent

    @property
    def command(self) -> str:
        """Return the command as a shell line, for the repository's folder."""
        return shlex.join([interpreter(), *self.words])

    @property
    def diverged_note(self) -> Path:
        """Return the file that says that this training diverged."""
        return self.folder / "diverged.txt"


@dataclass(frozen=True)
class Reads:
    """What a training reads: the nodes before it, and the options that name their files."""

    needs: tuple[str, ...] = ()
    options: tuple = ()


def interpreter() -> str:
    """Return the path of this Python, relative to the repository's folder if it is in it."""
    path = Path(sys.executable)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


@dataclass
class Graph:
    """The nodes of an experiment, each after those it needs; a method adds nodes, returns names."""

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
        attacks: Iterable[str] = (),
    ) -> str:
        """Add a node; `outputs` are file names in the folder of the node's run."""
        if name not in self.nodes:
            folder = self.experiment.root / name
            folder = folder.parent if folder.suffix == ".json" else folder
            words = [str(word) for word in words]
            paths = tuple(folder / output for output in outputs)
            self.nodes[name] = Node(name, purpose, words, tuple(needs), paths, tuple(attacks))
        return name

    def product(self, name: str) -> Path:
        """Return the first output of a node: a model file, an estimator or a results file."""
        return self.nodes[name].outputs[0]

    def _data_dir(self) -> list:
        directory = self.experiment.data_dir
        return ["--data-dir", directory] if directory else []

    def _data(self) -> list:
        return ["--dataset", self.experiment.dataset, *self._data_dir()]

    def _budget(self, norm: str) -> list:
        budget = EPSILON.get(self.experiment.dataset, {}).get(norm)
        return ["--norm", norm, *(["--epsilon", budget] if budget else [])]

    def train(
        self,
        name: str,
        purpose: str,
        command: str,
        norm: str,
        seed: int,
        outputs: Iterable[str],
        reads: Reads | None = None,
    ) -> str:
        """Add a run of a training script.

        Args:
            name: the node, and the folder of the run below the experiment's.
            purpose: the run in words, for the plan.
            command: the script and its options, except the data, the budget, the seed and paths.
            norm: "linf" or "l2".
            seed: the seed of the training.
            outputs: names of the files that it is run for, the one that others read first.
            reads: the nodes that it needs and the options for them; None: none.
        """
        reads = reads or Reads()
        script, *options = shlex.split(command)
        words = [script, *self._data(), *self._budget(norm)]
        words += [*shlex.split(self.scale.data), *options, *reads.options]
        words += ["--seed", seed, "--model-dir", self.experiment.root / name]
        return self._add(name, purpose, words, reads.needs, outputs)

    def natural(self, seed: int) -> str:
        """Add the naturally trained network."""
        command = f"train_standard.py {self.scale.network} {self.scale.training} --defense natural"
        purpose = f"natural training, seed {seed}"
        return self.train(f"seed{seed}/natural", purpose, command, "linf", seed, NETWORK)

    def surrogate(self, norm: str, seed: int) -> str:
        """Add the VGG-19 on which black-box attacks are crafted."""
        command = f"train_standard.py {self.scale.surrogate} --arch vgg19"
        purpose = f"surrogate, a VGG-19 by standard AT, {norm}, seed {seed}"
        return self.train(f"seed{seed}/{norm}/vgg19", purpose, command, norm, seed, NETWORK)

    def estimators(self, kind: str, target: str, norm: str, seed: int) -> str:
        """Add the estimators of `kind`, "estimators" or "estimators_max", of the node `target`."""
        script, options, how = {
            "estimators": ("train_MI_estimator.py", self.scale.estimators, "MI estimators"),
            "estimators_max": (
                "train_MI_estimator_only_max.py",
                self.scale.estimators_max,
                "MI estimators by Eq. 4",
            ),
        }[kind]
        name, purpose = f"{target}-{kind}", f"{how} of {target}"
        return self.estimators_by(f"{script} {options}", purpose, name, target, norm, seed)

    def estimators_by(
        self, command: str, purpose: str, name: str, target: str, norm: str, seed: int
    ) -> str:
        """Add estimators of the node `target`, trained by a stage-2 script and its options.

        Args:
            command: the script and its options.
            purpose: the run in words, for the plan.
            name: the node to add.
            target: the node of the network.
            norm: "linf" or "l2".
            seed: the seed of the training.
        """
        files = [path.name for path in estimator_files(Path()).values()]
        reads = Reads((target,), ("--pre-target", self.product(target)))
        return self.train(name, purpose, command, norm, seed, files, reads)

    def defense(self, name: str, norm: str, seed: int) -> str:
        """Add a network of DEFENSES or VARIANTS."""
        how, scale = {**DEFENSES, **VARIANTS}[name], self.scale
        command = f"{how.script} {scale.network} {scale.training} {how.options}"
        outputs, reads = NETWORK, None
        if how.estimators:
            standard = self.defense("standard", norm, seed)
            estimators = self.estimators(how.estimators, standard, norm, seed)
            command += f" {scale.namid}"
            outputs = ("target_model.pth", "last_model.pth")
            extra = ["--estimator-dir", self.nodes[estimators].folder]
            alpha = scale.alpha if self.experiment.alpha is None else self.experiment.alpha
            if alpha is not None and name != "wmim":
                extra += ["--alpha", alpha]
            reads = Reads((estimators,), tuple(extra))
        purpose = f"{how.label}, {norm}, seed {seed}"
        return self.train(f"seed{seed}/{norm}/{name}", purpose, command, norm, seed, outputs, reads)

    def evaluation(
        self, run: str, attacks: Iterable[str], box: str = "white", surrogate: str | None = None
    ) -> list[str]:
        """Add the evaluations of a trained network under `attacks`: results files in its folder.

        AutoAttack has an evaluation of its own.

        Args:
            run: the node of the network.
            attacks: names of attacks.
            box: "white" or "black", the name of the results file.
            surrogate: the node of the network on which the images are crafted; None: `run`.
        """
        attacks = list(attacks)
        others = [attack for attack in attacks if attack != "aa"]
        names = [self._evaluation(run, others, box, surrogate)] if others else []
        names += [self._evaluation(run, ["aa"], box, surrogate)] if "aa" in attacks else []
        return names

    def _evaluation(self, run: str, attacks: list[str], box: str, surrogate: str | None) -> str:
        autoattack = attacks == ["aa"]
        name = f"{run}/{box}{'-aa' if autoattack else ''}.json"
        size = self.scale.autoattack if autoattack else self.scale.evaluation
        words = ["test_comparison.py", "--model-dir", self.nodes[run].folder]
        words += ["--attacks", ",".join(attacks), *self._data_dir(), *shlex.split(size)]
        words += ["--surrogate", self.product(surrogate)] if surrogate else []
        words += ["--output", self.experiment.root / name]
        purpose = f"{run}, {box} box: {', '.join(attacks)}"
        needs = (run, surrogate) if surrogate else (run,)
        return self._add(name, purpose, words, needs, [Path(name).name], attacks)

    def white(self, run: str) -> list[str]:
        """Add the white-box evaluations of a network under its norm's attacks."""
        return self.evaluation(run, COLUMNS[Path(run).parent.name])

    def black(self, run: str, norm: str, seed: int) -> list[str]:
        """Add the black-box evaluations of a network."""
        return self.evaluation(run, COLUMNS[norm], "black", self.surrogate(norm, seed))

    def images(self, run: str, attacks: Iterable[str]) -> str:
        """Add the adversarial images that Figures 2 and 4 need."""
        name = f"{run}/images.json"
        path = self.experiment.root / name
        words = ["test_comparison.py", "--model-dir", self.nodes[run].folder]
        words += ["--attacks", ",".join(attacks), *self._data_dir(), *shlex.split(self.scale.mi)]
        words += ["--save-adv", path.with_suffix(".npz"), "--gallery", "--output", path]
        purpose = f"{run}: adversarial images by {', '.join(attacks)}"
        return self._add(name, purpose, words, (run,), ("images.npz", "images.json"), attacks)

    def mi(self, run: str, kind: str, attacks: Iterable[str], norm: str, seed: int) -> str:
        """Add the MI values of the network `run` under `attacks` by its estimators of `kind`."""
        images, estimators = self.images(run, attacks), self.estimators(kind, run, norm, seed)
        name = f"{run}/mi-{kind}.json"
        words = ["-m", "reproduction.mi_values", "--model", self.product(run)]
        words += ["--estimator-dir", self.nodes[estimators].folder, "--adv", self.product(images)]
        words += [*self._data(), *self._budget(norm), *shlex.split(self.scale.mi)]
        words += ["--output", self.experiment.root / name]
        needs = (run, estimators, images)
        return self._add(name, f"{run}: MI values by {kind}", words, needs, [Path(name).name])

    def state(self, name: str) -> str:
        """Return the state of a node: "stale", "diverged", "finished" or "not run".

        "stale": made of something else, or reads a stale node (see `why`); "diverged": this
        training or one before it; "not run": also a run that was stopped.
        """
        if self.why(name):
            return "stale"
        if self._diverged(name):
            return "diverged"
        return "finished" if self._finished(self.nodes[name]) else "not run"

    def why(self, name: str) -> str | None:
        """Return in words why the files of a node are stale; None where they are not."""
        node = self.nodes[name]
        found = question.reason(self, node)
        if found is None and any(path.is_file() for path in node.outputs):
            before = next((each for each in node.needs if self.why(each)), None)
            found = before and f"reads {before}, which is stale"
        return found

    def _diverged(self, name: str) -> bool:
        node = self.nodes[name]
        noted = node.trains and node.diverged_note.exists()
        return noted or any(map(self._diverged, node.needs))

    def _finished(self, node: Node) -> bool:
        # Where a date is uncertain the command runs again, compares more, and says it is finished.
        return finished.complete(node) and not finished.by_date(node, self)
