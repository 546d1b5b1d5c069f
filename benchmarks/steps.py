"""What is timed: the steps that the stages take, on networks and images made up here.

A step's time depends on shapes, not on what the images show: nothing in it looks at a value to decide what to compute. So
images and labels are drawn at random, and the learning rate is 0, which costs the same and keeps the weights as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import models
import train_MI_estimator
import train_MIAT
import train_standard
from benchmarks import measure, naive
from data.batches import Batches, to_float
from models.mi import GlobalNet, LocalNet
from utils.attacks.projected_gradient import pgd
from utils.devices import Compute
from utils.mi.estimator import MIEstimator
from utils.settings.command_line import check
from utils.settings.options import Training
from utils.training import estimators
from utils.training.held_out import examples

LOADER_BATCHES = 49  # an epoch of 50,000 images in batches of 1024
CLASSES, SEED = 10, 1
EPOCH, INDEX = (
    2,
    1,
)  # after NAMID's warm-up; not a step that also measures the gradients of the parts of its loss


@dataclass(frozen=True)
class Sizes:
    """What the arithmetic depends on: architecture, channels of its first stage (None: its own), side of the images in pixels,
    images in a batch, and units of the estimators."""

    arch: str
    width: int | None
    size: int
    batch: int
    n_units: int


@dataclass(frozen=True)
class Variant:
    """What the result does not depend on, but for rounding: "fp32" or "bf16" in training, memory layout, compiled or not."""

    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False


def made_up(sizes: Sizes, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, uint8 (N,3,H,W), and labels (N,) of LOADER_BATCHES batches, on the device."""
    shape = (LOADER_BATCHES * sizes.batch, 3, sizes.size, sizes.size)
    return (
        torch.randint(256, shape, dtype=torch.uint8, device=device),
        torch.randint(CLASSES, shape[:1], device=device),
    )


class Workbench:
    """The networks of one variant, with the settings and optimizers that the stages give them by default. Each method is a
    part: it brings the networks into the state that the part needs and returns the function to be timed."""

    def __init__(
        self,
        sizes: Sizes,
        variant: Variant,
        images: torch.Tensor,
        labels: torch.Tensor,
        make_target: Callable[[], torch.nn.Module] | None = None,
    ):
        self.compute = Compute(images.device, variant.precision, variant.compile)
        self.images, self.labels, self.batch, self.channels_last = (
            images,
            labels,
            sizes.batch,
            variant.channels_last,
        )
        self.x, self.y = to_float(images[: self.batch], variant.channels_last), labels[: self.batch]
        training = Training(batch_size=self.batch, seed=SEED)
        self.standard = train_standard.Settings(training=training)
        self.namid_settings = train_MIAT.Settings(training=training)
        self.stage2_settings = train_MI_estimator.Settings()
        for settings in (self.standard, self.namid_settings, self.stage2_settings):
            check(settings)

        with images.device:
            self.target = (
                make_target()
                if make_target
                else models.build(sizes.arch, CLASSES, width=sizes.width)
            )
            self.natural_mi, self.adversarial_mi = (
                MIEstimator(LocalNet(sizes.n_units), GlobalNet(CLASSES, sizes.n_units))
                for _ in range(2)
            )
        if variant.channels_last:
            for net in self.nets:
                self.compute.prepare(net)
        for net in (
            self.target,
            *(part for each in self.nets[1:] for part in (each.local_net, each.global_net)),
        ):
            self.compute.compiled(net)
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
        return self.target, self.natural_mi, self.adversarial_mi

    def _generator(self) -> torch.Generator:
        return self.compute.generator(SEED, EPOCH, INDEX)

    def clear(self) -> None:
        """Drop every gradient."""
        for net in self.nets:
            net.zero_grad(set_to_none=True)

    def _training(
        self, step: Callable, optimizer: torch.optim.Optimizer, **arguments
    ) -> measure.Run:
        """What utils.training.fit does with a batch."""

        def run():
            optimizer.zero_grad(set_to_none=True)
            loss, _ = step(
                self.x,
                self.y,
                EPOCH,
                INDEX,
                self._generator(),
                target=self.target,
                compute=self.compute,
                **arguments,
            )
            loss.backward()
            optimizer.step()

        return run

    def _estimators(self, training: bool, gradients: bool) -> dict[str, MIEstimator]:
        nets = {"natural_mi": self.natural_mi, "adversarial_mi": self.adversarial_mi}
        for net in nets.values():
            net.train(training).requires_grad_(gradients)
        return nets

    def loader(self) -> measure.Run:
        """An epoch of LOADER_BATCHES batches, cropped and flipped."""
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
        """The attack of training: `num_steps` steps."""
        attack = self.standard.attack
        self.target.train()

        def run():
            with self.compute.autocast():
                pgd(
                    self.target,
                    self.x,
                    self.y,
                    attack.norm,
                    attack.epsilon,
                    attack.num_steps,
                    attack.step_size,
                    generator=self._generator(),
                )

        return run

    def at(self) -> measure.Run:
        self.target.train()
        return self._training(train_standard.step, self.sgd, settings=self.standard)

    def namid(self, step: Callable = train_MIAT.step, frozen: bool = True) -> measure.Run:
        self.target.train()
        return self._training(
            step,
            self.sgd,
            settings=self.namid_settings,
            steps_per_epoch=LOADER_BATCHES,
            **self._estimators(training=False, gradients=not frozen),
        )

    def stage2(self, step: Callable = estimators.step) -> measure.Run:
        self.target.eval()
        return self._training(
            step,
            self.adam,
            settings=self.stage2_settings,
            objectives=train_MI_estimator.OBJECTIVES["cosine"],
            **self._estimators(training=True, gradients=True),
        )

    def evaluation(self) -> measure.Run:
        """What `held_out` has done to a batch after each epoch: PGD of `eval_steps` steps, in float32, and both passes."""

        def run():
            for _ in examples(
                self.target,
                self.images[: self.batch],
                self.labels[: self.batch],
                self.standard,
                self.compute,
            ):
                pass

        return run

    def part(self, name: str) -> measure.Run:
        """The function of a part by its name in benchmarks.PARTS."""
        parts = {
            "loader": self.loader,
            "pgd": self.pgd,
            "at": self.at,
            "namid": self.namid,
            "stage2": self.stage2,
            "evaluation": self.evaluation,
            "naive-namid": partial(self.namid, naive.namid_step, frozen=False),
            "naive-stage2": partial(self.stage2, naive.stage2_step),
        }
        return parts[name]()

    def units(self, name: str) -> int:
        """How many of what the table shows (batches, PGD steps, training steps) a run of the part makes."""
        return {"loader": LOADER_BATCHES, "pgd": self.standard.attack.num_steps}.get(name, 1)


def count_flops(sizes: Sizes, parts: list[str]) -> dict[str, int]:
    """The FLOPs of a run of each part, counted on tensors that have shapes but no data. No variant changes them."""
    with FakeTensorMode():
        bench = Workbench(sizes, Variant(channels_last=False), *made_up(sizes, "cpu"))
        return {part: measure.flops(bench.part(part)) for part in parts if part != "loader"}
