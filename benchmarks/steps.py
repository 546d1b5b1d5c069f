"""The steps that are timed: those of the stages, on networks and images made here.

The time of a step depends on shapes, not on what the images show: no step looks at a value to
decide what to compute. So images and labels are random, and the learning rate is 0, which costs the
same and keeps the weights as they are.
"""

from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import models
import train_MI_estimator
import train_MIAT
import train_standard
from benchmarks import bottleneck, measure, naive, retraining
from benchmarks.encoder import EncoderBench
from benchmarks.sizes import CLASSES, EPOCH, INDEX, LOADER_BATCHES, SEED, Sizes, Variant, made_up
from data.batches import Batches, to_float
from models.mi import GlobalNet, LocalNet
from utils.attacks.projected_gradient import pgd
from utils.devices import Compute
from utils.mi.estimator import MIEstimator
from utils.settings.command_line import check
from utils.settings.options import Training
from utils.training import estimators
from utils.training.held_out import examples
from utils.training.registry import LOSSES


class Workbench:
    """The networks of one variant, with the settings and optimizers of the stages' defaults.

    Each method that returns a Run is a part: it brings the networks into the state that the part
    needs, and returns the function to time.
    """

    def __init__(
        self,
        sizes: Sizes,
        variant: Variant,
        images: torch.Tensor,
        labels: torch.Tensor,
        make_target: Callable[[], torch.nn.Module] | None = None,
    ):
        self.compute = Compute(images.device, variant.precision, variant.compile)
        self.images, self.labels, self.batch = images, labels, sizes.batch
        self.sizes = sizes
        self.channels_last = variant.channels_last
        self.x, self.y = to_float(images[: self.batch], self.channels_last), labels[: self.batch]
        training = Training(batch_size=self.batch, seed=SEED)
        self.standard = train_standard.Settings(training=training)
        self.namid_settings = train_MIAT.Settings(training=training)
        self.stage2_settings = train_MI_estimator.Settings()
        for settings in (self.standard, self.namid_settings, self.stage2_settings):
            check(settings)

        with images.device:
            if make_target:
                self.target = make_target()
            else:
                self.target = models.build(
                    sizes.arch, CLASSES, width=sizes.width, size=(sizes.size, sizes.size)
                )
            self.natural_mi = MIEstimator(
                LocalNet(sizes.n_units), GlobalNet(CLASSES, sizes.n_units)
            )
            self.adversarial_mi = MIEstimator(
                LocalNet(sizes.n_units), GlobalNet(CLASSES, sizes.n_units)
            )
        if variant.channels_last:
            for net in self.nets:
                self.compute.prepare(net)
        self.compute.compiled(self.target)
        for estimator in self.nets[1:]:
            self.compute.compiled(estimator.local_net)
            self.compute.compiled(estimator.global_net)
        self.sgd = torch.optim.SGD(
            self.target.parameters(),
            lr=0.0,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            fused=True,
        )
        self.adam = torch.optim.Adam(
            [*self.natural_mi.parameters(), *self.adversarial_mi.parameters()], lr=0.0, fused=True
        )

    @property
    def nets(self) -> tuple[torch.nn.Module, ...]:
        """Return the target and both estimators."""
        return self.target, self.natural_mi, self.adversarial_mi

    def _generator(self) -> torch.Generator:
        return self.compute.generator(SEED, EPOCH, INDEX)

    def clear(self) -> None:
        """Drop every gradient."""
        for net in self.nets:
            net.zero_grad(set_to_none=True)

    def _training(self, loss: Callable, optimizer: torch.optim.Optimizer, budget) -> measure.Run:
        """Return what a training script does with a batch: PGD, loss, backward pass, step.

        loss(x, x_adv, y) -> scalar.
        """

        def run():
            optimizer.zero_grad(set_to_none=True)
            with self.compute.autocast():
                x_adv = pgd(self.target, self.x, self.y, *budget, generator=self._generator())
            loss(self.x, x_adv, self.y).backward()
            optimizer.step()

        return run

    def _estimators(self, training: bool, gradients: bool) -> dict[str, MIEstimator]:
        nets = {"natural": self.natural_mi, "adversarial": self.adversarial_mi}
        for net in nets.values():
            net.train(training).requires_grad_(gradients)
        return nets

    def loader(self) -> measure.Run:
        """Load an epoch of LOADER_BATCHES batches, cropped and flipped."""
        batches = Batches(
            self.images,
            self.labels,
            self.batch,
            padding=4,
            flip=True,
            device=self.compute.device,
            channels_last=self.channels_last,
        )

        def run():
            for _ in batches.epoch(SEED, EPOCH):
                pass

        return run

    def pgd(self) -> measure.Run:
        """Run the attack of training, `num_steps` steps of PGD."""
        budget = self.standard.attack.budget
        self.target.train()

        def run():
            with self.compute.autocast():
                pgd(self.target, self.x, self.y, *budget, generator=self._generator())

        return run

    def at(self) -> measure.Run:
        """Take a step of adversarial training."""
        self.target.train()

        def loss(x, x_adv, y):
            autocast = self.compute.autocast
            return train_standard.adversarial_loss(
                x, x_adv, y, self.target, LOSSES["ce"], self.standard.beta, autocast
            )

        return self._training(loss, self.sgd, self.standard.attack.budget)

    def namid(self) -> measure.Run:
        """Take a step of NAMID that does not also measure the gradients of the loss's parts."""
        self.target.train()
        estimators, settings = self._estimators(False, False), self.namid_settings
        method = train_MIAT.Method(
            defense=LOSSES["ce"],
            beta=settings.beta,
            lam=settings.lam,
            selection=settings.selection,
            without=settings.without,
            autocast=self.compute.autocast,
        )

        def loss(x, x_adv, y):
            batch = x, x_adv, y, self.target, estimators
            return train_MIAT.namid(*batch, method, settings.alpha).loss

        return self._training(loss, self.sgd, settings.attack.budget)

    def naive_namid(self) -> measure.Run:
        """Take a step of NAMID in the released arrangement: frozen networks have gradients."""
        self.target.train()
        estimators, settings = self._estimators(False, True), self.namid_settings

        def loss(x, x_adv, y):
            batch = x, x_adv, y, self.target, estimators
            with self.compute.autocast():
                return naive.namid_loss(*batch, settings.lam, settings.alpha)

        return self._training(loss, self.sgd, settings.attack.budget)

    def stage2(self) -> measure.Run:
        """Take a step of stage 2, which trains the estimators."""
        self.target.eval()
        nets, objectives = self._estimators(True, True), train_MI_estimator.OBJECTIVES["cosine"]

        def loss(x, x_adv, y):
            with self.compute.autocast():
                values = estimators.batch_values(x, x_adv, y, self.target, nets, "eq6")
            natural = objectives["natural"](*values.natural, values.masks)
            return natural + objectives["adversarial"](*values.adversarial, values.masks)

        return self._training(loss, self.adam, self.stage2_settings.attack.budget)

    def naive_stage2(self) -> measure.Run:
        """Take a step of stage 2 in the released arrangement."""
        self.target.eval()
        nets, objectives = self._estimators(True, True), train_MI_estimator.OBJECTIVES["cosine"]

        def loss(x, x_adv, y):
            with self.compute.autocast():
                return naive.stage2_loss(x, x_adv, y, self.target, nets, objectives)

        return self._training(loss, self.adam, self.stage2_settings.attack.budget)

    def evaluation(self) -> measure.Run:
        """Evaluate a batch as `held_out` does after each epoch.

        That is PGD of `eval_steps` steps, in float32, and both passes.
        """
        images, labels = self.images[: self.batch], self.labels[: self.batch]

        def run():
            attack, training = self.standard.attack, self.standard.training
            how = {"batch_size": training.batch_size, "seed": training.seed}
            for _ in examples(self.target, images, labels, attack, self.compute, **how):
                pass

        return run

    def worst_case(self) -> measure.Run:
        """Take a step of train_worst_case_MI.py."""
        return EncoderBench(self.sizes, self.compute, self.channels_last).step(self.x)

    def vib(self) -> measure.Run:
        """Take a step of train_VIB.py with FGSM's images."""
        net = bottleneck.network(self.sizes, self.compute, self.channels_last)
        return bottleneck.step(net, self.x, self.y, self.compute)

    def entropic(self) -> measure.Run:
        """Take a step of train_entropic.py."""
        return retraining.step(self.target, self.x, self.y, self.sgd, self.compute)

    def part(self, name: str) -> measure.Run:
        """Return the function to time of a part by its name in benchmarks.PARTS."""
        parts = {
            "loader": self.loader,
            "pgd": self.pgd,
            "at": self.at,
            "namid": self.namid,
            "stage2": self.stage2,
            "evaluation": self.evaluation,
            "naive-namid": self.naive_namid,
            "naive-stage2": self.naive_stage2,
            "worst-case": self.worst_case,
            "vib": self.vib,
            "entropic": self.entropic,
        }
        return parts[name]()

    def units(self, name: str) -> int:
        """Return how many batches, PGD steps or training steps a run of the part makes."""
        return {"loader": LOADER_BATCHES, "pgd": self.standard.attack.num_steps}.get(name, 1)


def count_flops(sizes: Sizes, parts: list[str]) -> dict[str, int]:
    """Count the FLOPs of a run of each part, on tensors that have shapes but no data.

    No variant changes them.
    """
    with FakeTensorMode():
        bench = Workbench(sizes, Variant(channels_last=False), *made_up(sizes, "cpu"))
        return {part: measure.flops(bench.part(part)) for part in parts if part != "loader"}
