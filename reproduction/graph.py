"""A graph whose nodes are commands of the stage scripts, each run once.

OUT/digits-tiny/experiment.json           the experiment
OUT/digits-tiny/seed1/natural/            the naturally trained network of Figure 2
OUT/digits-tiny/seed1/linf/namid/         a defense, with its evaluations white.json, ...
OUT/digits-tiny/tables/, figures/         the tables and figures
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from reproduction import finished, question
from reproduction.experiment import Experiment
from reproduction.node import Node, Reads
from reproduction.now import options
from reproduction.paper import DEFENSES, VARIANTS
from reproduction.scales import EPSILON, SCALES
from utils.attacks.registry import ADAPTIVE, COLUMNS
from utils.mi.names import estimator_files

NETWORK = ("best_model.pth", "last_model.pth")  # the outputs of train_standard.py


def file_of(attack: str, box: str) -> str:
    """Name the results file that has an attack's row, in the folder of the network's run."""
    return f"{box}{'-aa' if attack == 'aa' else '-mi' if attack in ADAPTIVE else ''}.json"


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
        key: str = "values",
    ) -> str:
        """Add a node; `outputs` are file names in the folder of the node's run."""
        if name not in self.nodes:
            folder = self.experiment.root / name
            folder = folder.parent if folder.suffix == ".json" else folder
            words = [str(word) for word in words]
            paths = tuple(folder / output for output in outputs)
            self.nodes[name] = Node(name, purpose, words, tuple(needs), paths, tuple(attacks), key)
        return name

    def product(self, name: str) -> Path:
        """Return the first output of a node: a model file, an estimator or a results file."""
        return self.nodes[name].outputs[0]

    def _data_dir(self) -> list:
        directory = self.experiment.data_dir
        return ["--data-dir", directory] if directory else []

    def _data(self) -> list:
        return ["--dataset", self.experiment.dataset, *self._data_dir()]

    def budget(self, norm: str) -> list:
        """Return the options of the threat model."""
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
        words = [script, *self._data(), *self.budget(norm)]
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

    def measurement(
        self, run: str, file: str, purpose: str, words: list, key: str, files: Iterable[str] = ()
    ) -> str:
        """Add a measurement of the best model of the training `run`, which writes into its folder.

        Args:
            file: the results file, JSON with `key`, "model_hash", "data_fingerprint" and "command".
            purpose: what is measured, in words, for the plan.
            words: the command and its options, except the model, the data and paths.
            files: other outputs, the one that others read first.
        """
        words = [*words, "--model", self.product(run), *self._data()]
        purpose, outputs = f"{run}: {purpose}", [*files, file]
        return self._add(f"{run}/{file}", purpose, words, (run,), outputs, key=key)

    def evaluation(
        self,
        run: str,
        attacks: Iterable[str],
        box: str = "white",
        surrogate: str | None = None,
        which: str = "best",
    ) -> list[str]:
        """Add the evaluations of a trained network under `attacks`: results files in its folder.

        AutoAttack has an evaluation of its own, and so have the attacks that know the estimators.

        Args:
            run: the node of the network.
            attacks: names of attacks.
            box: "white" or "black", the name of the results file; "last" for the last model.
            surrogate: the node of the network on which the images are crafted; None: `run`.
            which: "best" or "last", the model of the run's folder.
        """
        parts: dict[str, list[str]] = {}
        for attack in attacks:
            parts.setdefault(file_of(attack, box), []).append(attack)
        parts = {name: parts[name] for name in sorted(parts, key=len)}  # white.json before others
        return [
            self._evaluation(run, name, group, surrogate, which) for name, group in parts.items()
        ]

    def _evaluation(
        self, run: str, file: str, attacks: list[str], surrogate: str | None, which: str
    ) -> str:
        name, box = f"{run}/{file}", file.removesuffix(".json").split("-")[0]
        size = self.scale.autoattack if attacks == ["aa"] else self.scale.evaluation
        knows = attacks[0] in ADAPTIVE
        words = ["test_comparison.py", "--model-dir", self.nodes[run].folder]
        words += ["--attacks", ",".join(attacks), *self._data_dir(), *shlex.split(size)]
        words += ["--surrogate", self.product(surrogate)] if surrogate else []
        words += ["--which", which] if which != "best" else []
        estimators = options(self.nodes[run].words)["--estimator-dir"] if knows else None
        words += ["--estimator-dir", estimators] if knows else []
        words += ["--output", self.experiment.root / name]
        what = "last model" if which == "last" else f"{box} box"
        purpose = f"{run}, {what}: {', '.join(attacks)}"
        needs = (run, surrogate) if surrogate else (run,)
        needs += self.nodes[run].needs if knows else ()
        return self._add(name, purpose, words, needs, [file], attacks)

    def command(
        self, name: str, purpose: str, words: list, needs: tuple, outputs: list, **more
    ) -> str:
        """Add any command, its outputs in the folder of its name; more: attacks, or a key."""
        return self._add(name, purpose, words, needs, outputs, **more)

    def white(self, run: str) -> list[str]:
        """Add the white-box evaluations of a network under its norm's attacks."""
        return self.evaluation(run, COLUMNS[Path(run).parent.name])

    def adaptive(self, run: str) -> list[str]:
        """Add the evaluation of a network, trained with estimators, by attacks that know them."""
        return self.evaluation(run, ADAPTIVE)

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
        words += [*self._data(), *self.budget(norm), *shlex.split(self.scale.mi)]
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

    def ran(self, name: str) -> bool:
        """Return whether a node has a state to show, one other than "not run"."""
        return self.state(name) != "not run"

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
