r"""Train a classifier with a Gaussian bottleneck, with and without adversarial images.

    python train_VIB.py --dataset mnist --beta 1e-3 --model-dir runs/vib
    python train_VIB.py --dataset mnist --adversarial fgsm --epsilon 0.3 --model-dir runs/vib_fgsm
    python train_VIB.py --dataset mnist --objective ce --model-dir runs/ce
    python train_VIB.py --dataset digits --width 128 --layers 2 --bottleneck 32 --lr 1e-3 \
        --epochs 3 --epsilon 0.15 --model-dir runs/vib_try

The variational information bottleneck minimises E_eps CE(t) + beta KL(p(t|x) || N(0,I)) (Alemi et
al. 2017); with --adversarial, the same on adversarial images as well. A stochastic network can look
robust because attacks fail on it: docs/information_bottleneck.md says how to evaluate it. The run's
folder ends with best_model.pth, the best (natural + PGD accuracy)/2 on held-out images, and
last_model.pth; both hold averaged weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.settings.command_line import parse
from utils.settings.options import (
    Attack,
    Count,
    Data,
    Run,
    StageSettings,
    Training,
    group,
    need,
    need_memory,
)


@dataclass
class Network:
    """The network. --encoder takes the encoder of another run, with all its sizes."""

    arch: Literal["vib-mlp", "vib-cnn", "allcnn"] = "vib-mlp"
    """vib-mlp: fully connected layers on the grey image; vib-cnn: two convolutions before the same
    layers; allcnn: All-CNN-C, without a bottleneck (--objective ce).
    """
    width: Count = None
    """Units of a wide layer (paper: 512); a narrow layer has half of them. For allcnn: channels
    (96).
    """
    layers: int = 3
    """Number of wide layers (N in the paper, which gives no value)."""
    narrow: Count = None
    """Number of narrow layers; when not given as many as wide ones (paper)."""
    bottleneck: int = 256
    """K, the dimension of t (released code of VIB: 256)."""
    decoder: Literal["linear", "mlp"] = "linear"
    """The map from t to the logits: linear (paper), or mlp, with one hidden layer of 256 units."""
    encoder: Path | None = None
    """Freeze the encoder of this model file, and train a new decoder on it."""

    def check(self) -> None:
        need(0 < self.layers <= 1000, "layers", self.layers, "give 1 to 1000 layers")
        valid = self.narrow is None or 0 <= self.narrow <= 1000
        need(valid, "narrow", self.narrow, "give 0 to 1000 layers, or leave it out")
        valid = self.width is None or self.width > 0
        need(valid, "width", self.width, "give 1 or more units, or leave it out")
        need(self.bottleneck > 0, "bottleneck", self.bottleneck, "give 1 or more dimensions")
        need_memory("width", self.width, (self.width or 0) ** 2 / 4)
        need_memory("bottleneck", self.bottleneck, 10 * self.bottleneck)


@dataclass
class Settings(StageSettings):
    """Options of the information bottleneck."""

    stage = "train_VIB"

    objective: Literal["vib", "ceb", "ce"] = "vib"
    """vib: the variational information bottleneck; ceb: the conditional entropy bottleneck (Fischer
    and Alemi 2020), sigma = 1; ce: cross-entropy without noise.
    """
    beta: float = 1e-3
    """vib: the weight of the rate (paper: 1e-1, 1e-2, 1e-3)."""
    rho: float = 3.0
    """ceb: its weight is e^-rho."""
    rho_ramp: float = 0.5
    """ceb: the share of the epochs over which the weight rises from 0."""
    adversarial: Literal["none", "fgsm", "bim", "pgd"] = "none"
    """The attack that makes adversarial training images (paper: FGSM at 0.3)."""
    adversarial_weight: float = 0.5
    """a in (1-a) L(x,y) + a L(x',y) for an image that is attacked."""
    adversarial_fraction: float = 1.0
    """The share of the images of a batch that are attacked (Figure 4)."""
    attack_objective: Literal["ce", "full"] = "ce"
    """What the attack maximises: the cross-entropy, or the loss of vib with its rate."""
    attack_samples: int = 1
    """Draws of the noise that the attack averages over."""
    samples: int = 1
    """Draws of the noise for each image and step (released code of VIB: 1)."""
    ema: float = 0.999
    """Decay of the averaged weights (released code of VIB: 0.999); 0: off."""
    keep_every: int = 0
    """Also keep the model of every so many epochs, as epoch1_model.pth, ...; 0: none."""
    half: Literal["both", "first", "second"] = "both"
    """both: train on every image; first, second: on every other one, from that image on."""
    data: Data = group(Data, dataset="mnist", augment=False)
    network: Network = group(Network)
    attack: Attack = group(Attack, epsilon=0.3)
    training: Training = group(
        Training, epochs=200, batch_size=100, lr=1e-4, schedule="exponential", lr_factor=0.97
    )
    run: Run = group(Run, model_dir=Path("runs/vib"), precision="fp32")

    def check(self) -> None:
        for option in ("beta", "rho"):
            need(getattr(self, option) >= 0, option, getattr(self, option), "give 0 or more")
        for option in ("rho_ramp", "adversarial_weight", "adversarial_fraction"):
            value = getattr(self, option)
            need(0 <= value <= 1, option, value, "give a share from 0 to 1")
        for option in ("samples", "attack_samples"):
            need(getattr(self, option) > 0, option, getattr(self, option), "give 1 or more draws")
        need(0 <= self.ema < 1, "ema", self.ema, "give a decay from 0 (off) to below 1")
        need(self.keep_every >= 0, "keep_every", self.keep_every, "give 0 or more epochs")
        for option in ("momentum", "weight_decay"):
            value = getattr(self.training, option)
            unused = value == getattr(Training, option)
            need(
                unused, option, value, "applies to SGD; this script trains with Adam, leave it out"
            )
        fits = self.network.arch != "allcnn" or self.objective == "ce"
        need(fits, "objective", self.objective, "allcnn has no bottleneck; give --objective ce")
        fits = self.network.arch != "allcnn" or self.network.encoder is None
        need(fits, "encoder", self.network.encoder, "allcnn has no encoder; leave it out")
        fits = self.attack_objective == "ce" or self.objective == "vib"
        need(fits, "attack_objective", self.attack_objective, "needs --objective vib")


if __name__ == "__main__":
    settings = parse(Settings, __doc__)  # before torch is imported, so that --help answers at once

import math
from functools import partial

import torch

import models
from data import DATASETS
from utils import distributed
from utils.distributed import gather
from utils.schedules import ramp
from utils.scripts import run_script
from utils.training.averaging import Average
from utils.training.bottleneck_losses import ce, ceb, vib
from utils.training.held_out import held_out, held_out_examples
from utils.training.information import encode, information
from utils.training.loop import Loop
from utils.training.noisy import Noisy, attack, draw, weighted
from utils.training.stages import Stage, check_classes, need_files, open_stage

NOISE = {"vib": "learned", "ceb": "unit", "ce": "none"}


def build(options: Network, objective: str, dataset) -> torch.nn.Module:
    """Build the network, with the frozen encoder of --encoder where one is given."""
    if options.arch == "allcnn":
        return models.build("allcnn", dataset.num_classes, width=options.width)
    if options.encoder is None:
        narrow = options.layers if options.narrow is None else options.narrow
        sizes = {"width": options.width, "layers": options.layers, "narrow": narrow}
        sizes |= {"bottleneck": options.bottleneck, "decoder": options.decoder}
        # The fully connected network sees 28x28 digits without their border of 2 pixels.
        framed = DATASETS[dataset.name].source_size == 28 and options.arch == "vib-mlp"
        sizes["side"] = 28 if framed else dataset.train_images.shape[-1]
        return models.build(options.arch, dataset.num_classes, noise=NOISE[objective], **sizes)
    trained = models.load(options.encoder)
    check_classes(trained, dataset, f"--encoder {options.encoder}")
    net = models.build(trained.arch, **trained.options | {"decoder": options.decoder})
    net.load_state_dict(
        {name: value for name, value in trained.state_dict().items() if "decoder" not in name},
        strict=False,
    )
    for name, weight in net.named_parameters():
        weight.requires_grad_("decoder" in name)
    return net


def train(stage: Stage, settings: Settings) -> None:
    """Train the network, and keep the best and the last model."""
    compute, objective = stage.compute, settings.objective
    if settings.half != "both":
        stage.batches.keep(slice(settings.half == "second", None, 2))

    net = compute.prepare(build(settings.network, objective, stage.dataset)).train()
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, settings.training.lr, betas=(0.5, 0.999), fused=True)
    nets, kept = {"net": net}, net
    if settings.ema:
        nets["average"] = Average(net, settings.ema, optimizer)
        kept = nets["average"].module

    craft = None
    if settings.adversarial != "none":
        beta_adv = settings.beta if settings.attack_objective == "full" else 0.0
        how = {"kind": settings.adversarial, "samples": settings.attack_samples}
        craft = partial(attack, net, budget=settings.attack.budget, beta=beta_adv, **how)
    a, fraction = settings.adversarial_weight, settings.adversarial_fraction
    ramp_epochs = settings.rho_ramp * settings.training.epochs
    keep = partial(save, kept, stage=stage, settings=settings)
    with Loop(stage, nets, optimizer, settings.training, keep, objective) as loop:
        for epoch in loop.epochs():
            for x, y in loop.batches(epoch):
                with compute.autocast():
                    parts = weighted(x, y, craft, a, fraction, loop.generator)
                loss = 0.0
                for share, images, labels in parts:
                    noise = draw(net, images, settings.samples, loop.generator)
                    with compute.autocast():
                        logits, t, mu, sigma = Noisy(net, noise)(images).gathered()
                    labels = gather(labels)
                    if objective == "vib":  # E_eps CE + beta R
                        part = vib(logits, labels, mu, sigma, settings.beta)
                    elif objective == "ceb":  # E_eps CE + e^-rho ln[p(t|x) / b(t|y)]
                        done = epoch + loop.index / len(stage.batches)
                        weight = ramp(math.exp(-settings.rho), done, ramp_epochs)
                        part = ceb(logits, labels, t, mu, net.class_means, weight)
                    else:
                        part = ce(logits, labels)
                    loss = loss + share * part
                loop.step(loss)
            loop.end_of_epoch(evaluate(kept, epoch, stage, settings))
            if settings.keep_every and (epoch + 1) % settings.keep_every == 0:
                keep(f"epoch{epoch + 1}")
    print(f"done: {stage.folder.path}/best_model.pth and last_model.pth, metrics.csv, curves.png")


def evaluate(net: torch.nn.Module, epoch: int, stage: Stage, settings: Settings) -> dict:
    """Measure accuracies on held-out images, also under PGD, and the bounds of information."""
    images, labels, compute = stage.holdout_images, stage.holdout_labels, stage.compute
    found = held_out(held_out_examples(net, stage, settings.attack, settings.training))
    if found and settings.objective != "ce":
        code = encode(net, images, settings.training.batch_size, compute)
        generator = compute.generator(settings.training.seed, epoch)
        found |= information(net, *code, labels, generator)
    return found


def save(net: torch.nn.Module, which: str, stage: Stage, settings: Settings) -> None:
    """Write the best or last model, or an epoch's, with what is known of its training."""
    if not distributed.first():
        return
    about = settings.data.about | {"objective": settings.objective}
    about |= {"beta": settings.beta, "adversarial": settings.adversarial} | stage.split
    if settings.adversarial != "none":
        about |= settings.attack.threat_model
    models.save(net, stage.folder.path / f"{which}_model.pth", **about)


def main(settings: Settings) -> None:
    """Open the stage and train."""
    encoder = settings.network.encoder
    inputs = {"encoder": encoder} if encoder else {}
    need_files(inputs)
    with open_stage(settings.stage, settings, inputs) as stage:
        train(stage, settings)


if __name__ == "__main__":
    run_script(main, settings)
