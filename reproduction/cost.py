"""Estimate how long the commands of a plan take.

The estimate is the logged time of the same run, made earlier or with another seed. Where there is
none, it is a count of passes times the measured time of one pass.
"""

import importlib
import re
import subprocess
import sys
import time
from functools import cached_property

import torch

import data
import models
from common.errors import InputError
from data import arrays
from models import mi
from reproduction.graph import Graph
from reproduction.node import ROOT, Node
from reproduction.run import recorded
from utils import devices
from utils.attacks import registry
from utils.attacks.projected_gradient import pgd
from utils.mi.estimator import MIEstimator
from utils.settings.command_line import parse
from utils.settings.options import Network

# The numbers of training and of test images of the whole sets.
SIZES = {
    "digits": (1400, 397),
    "mnist": (60000, 10000),
    "cifar10": (50000, 10000),
    "cifar100": (50000, 10000),
    "svhn": (73257, 26032),
    "fashion-mnist": (60000, 10000),
    "tiny-imagenet": (100000, 10000),
}
# The unit is a pass of an attack: forward, and the gradient in the input. A pass of a training
# step, with gradients in the weights, costs half as much again, a forward pass half as much
# (tests/test_flops.py counts them).
TRAIN, FORWARD = 1.5, 0.5
STANDING = 0.4  # the share of the images that an attack has to work on to its end: assumed

HOW = (
    "Estimates: the mean of logged times where the same run was made for another seed or before; "
    "else images x passes x the time of one pass, measured just now on this machine, with "
    f"{STANDING:.0%} of the images robust to an attack's end."
)


def passes(attack: str) -> float:
    """Count the passes that `attack` needs for an image that is robust."""
    spec = registry.parse(attack)
    return spec.restarts * (spec.steps or 1) * (spec.passes + spec.queries * FORWARD)


def sizes(dataset: str, directory) -> tuple[int, int]:
    """Return the numbers of training and of test images.

    They are read from the headers of the .npy files where `directory` has them.
    """
    if directory and arrays.are_in(directory):
        train, test = arrays.read(directory, dataset)
        return len(train[0]), len(test[0])
    if dataset not in SIZES:
        wanted = "its four .npy files are needed; name their folder with --data-dir"
        raise InputError(f"--dataset {dataset}: {wanted}")
    return SIZES[dataset]


class Costs:
    """The seconds that the nodes of a graph take.

    A network is measured once, for the first node that has it.
    """

    def __init__(self, graph: Graph):
        self.graph, experiment = graph, graph.experiment
        self.train_size, self.test_size = sizes(experiment.dataset, experiment.data_dir)
        self.spec = data.DATASETS[experiment.dataset]
        self.known: dict[str, list[float]] = {}  # by the node's name with any seed
        for name, seconds in recorded(experiment).items():
            self.known.setdefault(_kind(name), []).append(seconds)
        self.compute = devices.compute("auto", "auto")
        self.measured: dict[tuple, float] = {}

    @cached_property
    def start(self) -> float:
        """Return the seconds that the imports of a training script take."""
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import train_standard"], cwd=ROOT, check=True)
        return time.monotonic() - began

    def seconds(self, name: str) -> float:
        """Return the seconds of a node, as if none of its files were there."""
        if known := self.known.get(_kind(name)):
            return sum(known) / len(known)
        node = self.graph.nodes[name]
        return self.start + (self._training(node) if node.trains else self._evaluation(node))

    def settings(self, node: Node):
        """Return the options of a node's command, with the defaults of its script."""
        # Imported by name: this folder imports no script, but the defaults are written only there.
        first = 2 if node.words[0] == "-m" else 1
        script = importlib.import_module(node.words[first - 1].removesuffix(".py"))
        return parse(script.Settings, "", node.words[first:])

    def _training(self, node: Node) -> float:
        settings = self.settings(node)
        epochs, batch = settings.training.epochs, settings.training.batch_size
        steps = settings.attack.num_steps
        images = min(settings.data.limit_train or self.train_size, self.train_size)
        held_out = min(settings.data.holdout, images // 5)
        images -= held_out
        held_out_passes = held_out * settings.attack.eval_steps
        if hasattr(settings, "adversarial"):  # the information bottleneck
            per_image = TRAIN
            if settings.adversarial != "none":
                per_image += TRAIN + (1 if settings.adversarial == "fgsm" else steps)
            count = epochs * (images * per_image + held_out_passes)
            return count * self.pass_seconds(settings.network, batch)
        if not hasattr(settings, "network") and not hasattr(settings, "estimation"):
            return images * epochs * self._of_representation(node, settings, batch)
        if hasattr(settings, "estimation"):
            # stage 2: the target is frozen, and the held-out images are attacked once
            target = self.settings(self.graph.nodes[node.needs[0]]).network
            per_image = (steps + 2 * FORWARD) * self.pass_seconds(target, batch)
            per_image += self.estimator_seconds(settings.estimation.n_units, batch)
            return images * epochs * per_image + held_out_passes * self.pass_seconds(target, batch)
        with_estimators = hasattr(settings, "warmup_epochs")  # stage 3
        if with_estimators:
            natural, defense = settings.warmup_epochs, "namid"
        else:
            defense = getattr(settings, "defense", "natural")  # train_entropic.py has none
            natural = epochs if defense == "natural" else 0
        adversarial = epochs - natural
        passes_of_a_step = steps + TRAIN * (1 if defense == "standard" else 2)
        passes_of_all = images * (natural * TRAIN + adversarial * passes_of_a_step)
        passes_of_all += epochs * held_out_passes
        seconds = passes_of_all * self.pass_seconds(settings.network, batch)
        if with_estimators:  # frozen, so without gradients in their weights
            units = self.settings(self.graph.nodes[node.needs[0]]).estimation.n_units
            seconds += images * adversarial * self.estimator_seconds(units, batch) / TRAIN
        return seconds

    def _of_representation(self, node: Node, settings, batch: int) -> float:
        """Return the seconds of an encoder's or a classifier's training step on one image."""
        seconds = self.pass_seconds(self.network_of(node), batch)
        steps = settings.attack.num_steps
        if hasattr(settings, "classifier"):
            return seconds * (FORWARD + (steps if settings.defense == "robust" else 0))
        critic = self.estimator_seconds(settings.critic.n_units, batch) / 2
        return (steps / TRAIN + 1) * critic + (steps + TRAIN) * seconds

    def network_of(self, node: Node):
        """Return the options of the network that a training makes; of an encoder, baseline-h."""
        settings = self.settings(node)
        if hasattr(settings, "network"):
            return settings.network
        if hasattr(settings, "encoder"):
            settings = self.settings(self.graph.nodes[node.needs[0]])
        return Network("baseline-h", settings.width)

    def _measurement(self, node: Node, options: dict) -> float:
        """Return the seconds of the critics of a measurement, two for each network or unit."""
        if node.key in ("saliency", "quantities"):  # some forward passes, no training
            return 0.0
        found = self.settings(node)
        training = form = found
        if node.words[0] == "analyze_MI.py":
            training, form = found.part.training, found.part.critic
            found = found.part
        attack, batch = found.attack, training.batch_size
        images = min(training.limit_train or self.train_size, self.train_size)
        pairs = training.critics if node.key == "critics" else found.units
        one = self.pass_seconds(self.network_of(self.graph.nodes[node.needs[0]]), batch)
        critic, steps = self.estimator_seconds(form.n_units, batch) / 2, attack.num_steps
        per_image = (steps / TRAIN + 2) * critic + (steps + 1) * one
        return pairs * images * training.epochs * per_image

    def _evaluation(self, node: Node) -> float:
        options = dict(zip(node.words, node.words[1:]))
        if node.key != "values":
            return self._measurement(node, options)
        images = min(int(options.get("--limit-test", self.test_size)), self.test_size)
        if node.analyzes:
            attacks = node.words[node.words.index("--attacks") + 1 : node.words.index("--epsilon")]
            per_image = sum(passes(attack) + 3 * FORWARD for attack in attacks)
            nets = [self.settings(self.graph.nodes[each]).network for each in node.needs]
            return images * sum(per_image * self.pass_seconds(net, 64) for net in nets)
        crafted_on = node.needs[1 if "--surrogate" in options else 0]
        source = self.network_of(self.graph.nodes[crafted_on])
        per_image = FORWARD + sum(STANDING * passes(attack) for attack in node.attacks)
        batch = int(options.get("--batch-size", 256))
        return images * per_image * self.pass_seconds(source, batch)

    def pass_seconds(self, network, batch: int) -> float:
        """Return the seconds of one pass over one image, in a batch of at most 64.

        network: the options of the network.
        """
        key = (network.arch, network.width, min(batch, 64))
        if key not in self.measured:
            classes = self.spec.num_classes or 10
            size = 2 * (self.spec.size or 32,)
            net = models.build(network.arch, classes, width=network.width, size=size)
            net = self.compute.prepare(net)
            x = self._images(key[2])
            y = torch.zeros(key[2], dtype=torch.int64, device=self.compute.device)
            self.measured[key] = self._time(lambda: pgd(net, x, y, steps=1)) / key[2]
        return self.measured[key]

    def estimator_seconds(self, units: int, batch: int) -> float:
        """Return the seconds of a training step of both estimators on one image.

        units: the width of the estimators. batch: the images of a batch, of which at most 64 count.
        """
        key = (units, min(batch, 64))
        if key not in self.measured:
            estimator = MIEstimator(mi.LocalNet(units), mi.GlobalNet(10, units)).train()
            estimator = self.compute.prepare(estimator)
            x, output = self._images(key[1]), torch.rand(key[1], 10, device=self.compute.device)
            seconds = self._time(lambda: estimator(x, output).sum().backward())
            self.measured[key] = 2 * seconds / key[1]
        return self.measured[key]

    def _images(self, number: int):
        size = self.spec.size or 32
        return torch.rand(number, 3, size, size, device=self.compute.device)

    def _time(self, work) -> float:
        """Return the seconds of `work()` in the precision of training.

        It is the faster of two runs after one that does not count.
        """
        times = []
        for _ in range(3):
            began = time.monotonic()
            with self.compute.autocast():
                work()
            if self.compute.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic() - began)
        return min(times[1:])


def _kind(name: str) -> str:
    """Return a node's name without the number of its seed."""
    return re.sub(r"^seed\d+", "seed", name)
