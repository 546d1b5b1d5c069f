"""Measure trained networks: information, Lipschitz constants, transfer, entropy of features.

Every function takes images and a `Trained` network; if the network has a bottleneck, its predictor
is `bank`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import data
import models
from common.errors import InputError
from data.batches import in_order
from data.sets import DataSet
from models.bottleneck import Bottleneck
from utils.attacks import registry
from utils.attacks.projected_gradient import frozen
from utils.devices import Compute
from utils.mi import bottleneck, lipschitz, theorem3
from utils.mi.feature_entropy import ESTIMATORS, feature_entropies
from utils.training import settings_file
from utils.training.information import BIT, encode, information

BATCH = 250


@dataclass
class Trained:
    """A network of a run's folder, the options of the run, and the name of the model file."""

    net: torch.nn.Module
    options: dict
    folder: Path
    file: str

    @property
    def about(self) -> dict:
        """Return the columns that say which network a row is of."""
        names = ("beta", "objective", "adversarial", "adversarial_fraction", "seed")
        return {"run": self.folder.name, "file": self.file} | {
            name: self.options[name] for name in names if name in self.options
        }


@dataclass
class Attacked:
    """How images are attacked: a name of the registry, the Linf budget and a seed."""

    attack: str
    epsilon: float
    seed: int
    compute: Compute


def load(folder: Path, compute: Compute, file: str = "best_model.pth") -> Trained:
    """Load a model of a run's folder."""
    options = settings_file.read(folder)["options"]
    path = folder / file
    if not path.is_file():
        raise InputError(f"--model-dirs {folder}: has no {file} yet; let its training finish")
    return Trained(compute.prepare(models.load(path)), options, folder, file)


def epochs(folder: Path) -> list[str]:
    """List the models of single epochs in a run's folder, in order."""
    number = {
        path: path.name.removeprefix("epoch").split("_")[0]
        for path in folder.glob("epoch*_model.pth")
    }
    return [path.name for path in sorted(number, key=lambda path: int(number[path]))]


def images_of(trained: Trained, data_dir: Path | None) -> DataSet:
    """Load the data set that a network was trained on."""
    options = trained.options
    return data.load(options["dataset"], data_dir or options["data_dir"])


def need_bottleneck(trained: Trained, part: str) -> Bottleneck:
    """Return the network. Raises InputError where it has no noise to measure."""
    if isinstance(trained.net, Bottleneck) and trained.net.noise != "none":
        return trained.net
    raise InputError(
        f"--model-dirs {trained.folder}: {part} needs a stochastic bottleneck; "
        "give runs of train_VIB.py --objective vib or ceb"
    )


def predictions(net, images, labels, compute: Compute) -> torch.Tensor:
    """Return the predicted labels (N,) of uint8 images."""
    with frozen(net), torch.no_grad():
        batches = in_order(images, labels, BATCH, compute.device)
        return torch.cat([net(x).argmax(1).cpu() for x, _ in batches])


def adversarial(trained: Trained, images, labels, how: Attacked) -> Iterator[torch.Tensor]:
    """Yield the adversarial images (n,3,H,W) in [0,1], batch by batch."""
    for x, y in in_order(images, labels, BATCH, how.compute.device):
        known = (how.attack, trained.net, x, y, "linf", how.epsilon, how.seed)
        yield registry.attack(*known)


def accuracies(trained: Trained, dataset: DataSet, limit: int, how: Attacked) -> dict:
    """Measure training, benign and adversarial accuracy in percent, and the gap of the paper,
    training minus adversarial.
    """
    images, labels = dataset.test_images[:limit], dataset.test_labels[:limit]
    train = dataset.train_images[:limit], dataset.train_labels[:limit]
    right = predictions(trained.net, images, labels, how.compute) == labels
    with frozen(trained.net), torch.no_grad():
        said = [trained.net(x).argmax(1).cpu() for x in adversarial(trained, images, labels, how)]
    robust = right & (torch.cat(said) == labels)
    training = predictions(trained.net, *train, how.compute) == train[1]
    found = {
        f"{name}_accuracy": 100 * mask.double().mean().item()
        for name, mask in {"training": training, "benign": right, "adversarial": robust}.items()
    }
    found["gap"] = found["training_accuracy"] - found["adversarial_accuracy"]
    return found | {"n": len(labels), "attack": how.attack, "epsilon": how.epsilon}


def plane(trained: Trained, dataset: DataSet, limit: int, how: Attacked) -> dict:
    """Measure rate, brackets of I(X;T) and I(Y;T), and the rate of adversarial images, in bits.

    The brackets are cut to what is known besides: 0, the rate, and the entropy of the labels.
    """
    net = need_bottleneck(trained, "plane")
    images, labels = dataset.test_images[:limit], dataset.test_labels[:limit]
    mu, sigma = encode(net, images, BATCH, how.compute)
    generator = how.compute.generator(how.seed)
    noise = torch.randn(mu.shape, generator=generator, device=mu.device)
    drawn = (mu, sigma, mu + sigma * noise)
    lower, upper = bottleneck.brackets(*drawn)
    label_lower, label_upper = bottleneck.label_brackets(*drawn, labels.to(mu.device))
    entropy = bottleneck.label_information(labels, 0.0, net.options["num_classes"])
    with frozen(net), torch.no_grad():
        codes = [net.encode(x) for x in adversarial(trained, images, labels, how)]
    rate_adv = torch.cat([bottleneck.rate(*code) for code in codes]).mean().item()
    rate = bottleneck.rate(mu, sigma).mean().item()
    return {
        **trained.about,
        **information(net, mu, sigma, labels, generator),
        "input_bits_lower": max(lower, 0.0) / BIT,
        "input_bits_upper": min(upper, rate) / BIT,
        "label_bits_lower": max(label_lower, 0.0) / BIT,
        "label_bits_upper": min(label_upper, entropy) / BIT,
        "rate_bits_adversarial": rate_adv / BIT,
        **accuracies(trained, dataset, limit, how),
    }


def lipschitz_of(net: Bottleneck, images: torch.Tensor, compute: Compute) -> dict:
    """Bound the Lipschitz constant of mu and sigma, from what the first layer sees, and Theorem 3.

    images: uint8 (N,3,H,W), at which the slope is sought.
    """
    x = net.seen(images.to(compute.device).float() / 255)

    def mean(seen):
        return net.gaussian(net.hidden(seen)[1])[0]

    trunk = [net.features] if net.features is not None else []
    encoder = torch.nn.Sequential(*trunk, net.wide, net.narrow, net.code)
    product = lipschitz.lipschitz_product(encoder, lambda: mean(x[:1]), prefix=2.0)
    with frozen(net):
        slope = lipschitz.largest_slope(mean, x)
        with torch.no_grad():
            smallest = net.gaussian(net.hidden(x)[1])[1].min().item()
    theorem = (net.options["bottleneck"], smallest, product, product)
    return {
        "lipschitz": product,
        "largest_slope": slope,
        "smallest_sigma": smallest,
        "theorem3_printed_log10": _log10(theorem3.log_printed(*theorem)),
        "theorem3_corrected_log10": _log10(theorem3.log_corrected(*theorem)),
    }


def _log10(nats: float) -> float:
    return nats / 2.302585092994046


def bound(trained: Trained, dataset: DataSet, limit: int, slopes: int, how: Attacked) -> dict:
    """Measure the Lipschitz constant, the rate and brackets, and the accuracies of a network.

    slopes: images at which the largest slope is sought.
    """
    net = need_bottleneck(trained, "bound")
    images = dataset.test_images[:slopes]
    row = plane(trained, dataset, limit, how)
    number = trained.file.removeprefix("epoch").split("_")[0]
    epoch = int(number) if number.isdigit() else trained.options["epochs"]
    return row | {"epoch": epoch} | lipschitz_of(net, images, how.compute)


def transfer(first: Trained, second: Trained, dataset: DataSet, limit: int, how: Attacked) -> dict:
    """Measure how adversarial images made for f1 act on f2, which shares its encoder.

    effect = P[f(X) != f(A(X))], delta = 1 - effect; tau is the larger benign error.
    """
    net = need_bottleneck(first, "transfer")
    images, labels = dataset.test_images[:limit], dataset.test_labels[:limit]
    nets = {"first": first.net, "second": second.net}
    said = {name: predictions(each, images, labels, how.compute) for name, each in nets.items()}
    after: dict[str, list] = {name: [] for name in nets}
    for x in adversarial(first, images, labels, how):
        for name, each in nets.items():
            with frozen(each), torch.no_grad():
                after[name].append(each(x).argmax(1).cpu())
    delta = {name: (said[name] == torch.cat(after[name])).double().mean().item() for name in nets}
    errors = [(said[name] != labels).double().mean().item() for name in nets]
    return {
        **first.about,
        "head": second.options.get("decoder"),
        "attack": how.attack,
        "epsilon": how.epsilon,
        "delta": delta["first"],
        "delta_prime": delta["second"],
        "gap": delta["second"] - delta["first"],
        "tau": max(errors),
        "n": len(labels),
        **lipschitz_of(net, images[:16], how.compute),
    }


def entropy(trained: Trained, dataset: DataSet, limit: int, width: float, how: Attacked) -> dict:
    """Estimate the entropy of the last hidden layer's features, in bits, and the accuracies.

    A feature map is averaged over its positions. width: of the absolute bins.
    """
    images, labels = dataset.test_images[:limit], dataset.test_labels[:limit]
    natural = (x for x, _ in in_order(images, labels, BATCH, how.compute.device))
    sets = {"natural": natural, "adversarial": adversarial(trained, images, labels, how)}
    features, row = {}, dict(trained.about)
    with frozen(trained.net), torch.no_grad():
        for name, batches in sets.items():
            taps = [trained.net(x, tap="layer4")[1].mean((2, 3)).cpu() for x in batches]
            features[name] = torch.cat(taps).double().numpy()
    for name, values in features.items():
        found = feature_entropies(values, features["natural"], width)
        for bins, estimates in found.items():
            for estimator in ESTIMATORS:
                row[f"{name}_{bins}_{estimator}"] = estimates[estimator] / BIT
            row[f"{name}_{bins}_single_share"] = estimates["single_share"]
    return row | accuracies(trained, dataset, limit, how)
