"""What a plan will take: seconds recorded where a run of the kind was made before, a count of passes where none was."""
import importlib
import re
import subprocess
import sys
import time
from functools import cached_property

import data
from common.errors import InputError
from data import arrays
from reproduction.plan import ROOT, Graph, Node
from reproduction.run import recorded
from utils.attacks import registry
from utils.settings.command_line import parse

# Images to train on and to test on, where the whole set is read.
SIZES = {"digits": (1400, 397), "mnist": (60000, 10000), "cifar10": (50000, 10000), "cifar100": (50000, 10000),
         "svhn": (73257, 26032), "fashion-mnist": (60000, 10000), "tiny-imagenet": (100000, 10000)}
# A pass is one of an attack: forward and gradient in the input. A training step's, with gradients in the weights, costs half as
# much again, a forward pass alone half of it (tests/test_flops.py counts them).
TRAIN, FORWARD = 1.5, 0.5
STANDING = 0.4  # the share of the images that an attack has to work on to its end: assumed

HOW = ("Estimates: the mean of recorded times where the same run was made for another seed or before; else images x passes x "
       f"the time of one pass, measured just now on this machine, with {STANDING:.0%} of the images standing to an attack's end.")


def passes(attack: str) -> float:
    """Count the passes that `attack` needs for an image that is robust."""
    spec = registry.parse(attack)
    return spec.restarts * (spec.steps or 1) * (spec.passes + spec.queries * FORWARD)


def sizes(dataset: str, directory) -> tuple[int, int]:
    """The number of training and of test images, from the headers of the files where they are arrays."""
    if directory and arrays.are_in(directory):
        train, test = arrays.read(directory, dataset)
        return len(train[0]), len(test[0])
    if dataset not in SIZES:
        raise InputError(f"--dataset {dataset}: its four .npy files are needed; name their folder with --data-dir")
    return SIZES[dataset]


class Costs:
    """Seconds of the nodes of a graph. The first question about a network measures it."""

    def __init__(self, graph: Graph):
        from utils import devices

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
        """Of a process: what its imports take."""
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import train_standard"], cwd=ROOT, check=True)
        return time.monotonic() - began

    def seconds(self, name: str) -> float:
        """Of the node, as if nothing of it were there."""
        if known := self.known.get(_kind(name)):
            return sum(known) / len(known)
        node = self.graph.nodes[name]
        return self.start + (self._training(node) if node.trains else self._evaluation(node))

    def settings(self, node: Node):
        """The options of a stage script, with the defaults that have their home there."""
        script = importlib.import_module(node.words[0].removesuffix(".py"))
        return parse(script.Settings, "", node.words[1:])

    def _training(self, node: Node) -> float:
        settings = self.settings(node)
        epochs, steps, batch = settings.training.epochs, settings.attack.num_steps, settings.training.batch_size
        images = min(settings.data.limit_train or self.train_size, self.train_size)
        held = min(settings.data.holdout, images // 5)
        images, watching = images - held, held * settings.attack.eval_steps
        if hasattr(settings, "estimation"):  # stage 2: the target is frozen, and the held-out images are attacked once
            target = self.settings(self.graph.nodes[node.needs[0]]).network
            per_image = epochs * ((steps + 2 * FORWARD) * self.pass_seconds(target, batch)
                                  + self.estimator_seconds(settings.estimation.n_units, batch))
            return images * per_image + watching * self.pass_seconds(target, batch)
        pass_, stage_3 = self.pass_seconds(settings.network, batch), hasattr(settings, "warmup_epochs")
        if stage_3:
            natural, defense = settings.warmup_epochs, "namid"
        else:
            defense = settings.defense
            natural = epochs if defense == "natural" else 0
        of_a_step = steps + TRAIN * (1 if defense == "standard" else 2)
        seconds = pass_ * (images * (natural * TRAIN + (epochs - natural) * of_a_step) + epochs * watching)
        if stage_3:  # frozen estimators take no gradients in their weights
            units = self.settings(self.graph.nodes[node.needs[0]]).estimation.n_units
            seconds += images * (epochs - natural) * self.estimator_seconds(units, batch) / TRAIN
        return seconds

    def _evaluation(self, node: Node) -> float:
        options = dict(zip(node.words, node.words[1:]))
        images = min(int(options.get("--limit-test", self.test_size)), self.test_size)
        source = self.settings(self.graph.nodes[node.needs[1 if "--surrogate" in options else 0]]).network
        per_image = FORWARD + sum(STANDING * passes(attack) for attack in node.attacks)
        return images * per_image * self.pass_seconds(source, int(options.get("--batch-size", 256)))

    def pass_seconds(self, network, batch: int) -> float:
        """Of a pass over one image in a batch of at most 64 through a network of the options `network`."""
        import torch

        import models
        from utils.attacks.projected_gradient import pgd

        key = (network.arch, network.width, min(batch, 64))
        if key not in self.measured:
            net = self.compute.prepare(models.build(network.arch, self.spec.num_classes or 10, width=network.width))
            x, y = self._images(key[2]), torch.zeros(key[2], dtype=torch.int64, device=self.compute.device)
            self.measured[key] = self._time(lambda: pgd(net, x, y, steps=1)) / key[2]
        return self.measured[key]

    def estimator_seconds(self, units: int, batch: int) -> float:
        """Of a training step of both estimators on one image in a batch of at most 64."""
        import torch

        from models import mi
        from utils.mi.estimator import MIEstimator

        key = (units, min(batch, 64))
        if key not in self.measured:
            estimator = self.compute.prepare(MIEstimator(mi.LocalNet(units), mi.GlobalNet(10, units)).train())
            x, output = self._images(key[1]), torch.rand(key[1], 10, device=self.compute.device)
            self.measured[key] = 2 * self._time(lambda: estimator(x, output).sum().backward()) / key[1]
        return self.measured[key]

    def _images(self, number: int):
        import torch

        size = self.spec.size or 32
        return torch.rand(number, 3, size, size, device=self.compute.device)

    def _time(self, work) -> float:
        """Seconds that `work` takes in the precision of training, the faster of two times after one that does not count."""
        import torch

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
    return re.sub(r"^seed\d+", "seed", name)
