"""Measure the hidden layers of several networks side by side: `analyze_MI.py layers`."""

from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import torch

from common.errors import InputError
from common.files import make_folder, write_csv
from data.batches import in_order
from models.normalisation import Normalisation
from utils import devices, provenance
from utils.analysis.options.layers import LayerImages, Networks
from utils.attacks.projected_gradient import frozen
from utils.evaluation.images import load_images
from utils.evaluation.networks import Network, load_network
from utils.mi.layers import RELATIVE_NOISE, describe
from utils.mi.names import LAYER_QUANTITIES
from utils.mi.profiles import ROLES, profile, write_profile
from utils.mi.taps import select, tapped
from utils.plots import COLOURS, STYLES, save_figure, table

BATCH = 250  # images in a forward pass
PANELS = {
    "activation": "activation entropy",
    "information": "I(X;T), lower bound (nats)",
    "unit": "entropy of units, Gaussian (nats)",
    "binned": "entropy of units, binned (nats)",
}
assert tuple(PANELS) == LAYER_QUANTITIES

Layers = dict[str, torch.Tensor]
Values = dict[str, list[dict[str, float]]]  # {role: for each seed {layer: value}}


def measure(
    networks: Networks, quantity: str, layers: str, images: LayerImages, device: str, output: Path
) -> None:
    """Measure each network's layers, compare them over seeds; write, plot and print the profile.

    Networks run in float32 and in eval mode.

    Args:
        quantity: the quantity that is printed.
        layers: which hidden layers, as `utils.mi.taps.select` takes them.
        output: the folder of the files.
    """
    compute = devices.compute(device)
    make_folder(output, "--output")
    found: dict[str, list[dict]] = {}
    about: dict[str, list[dict]] = {}
    for role in ROLES:
        for name in getattr(networks, role):
            known, measured = _of_network(role, name, layers, images, compute)
            found.setdefault(role, []).append(measured)
            about.setdefault(role, []).append(known)
    _check_layers(found)
    seeds = max(map(len, found.values()))
    quantities = {kind: profile(_of_kind(found, kind)) for kind in _kinds(found)}
    facts = {
        "seeds": seeds,
        "split": images.split,
        "relative_noise": RELATIVE_NOISE,
        "networks": about,
        "hardware": provenance.hardware(compute.device),
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
    }
    write_profile(output / "profile.json", quantities, facts)
    write_csv(output / "layers.csv", _rows(found))
    _plot(quantities, output / "layers.png", seeds)
    _print_report(quantities[quantity], PANELS[quantity], seeds)
    print(f"\nwritten: {output}/profile.json, layers.csv, layers.png")


def _kinds(found: dict[str, list[dict]]) -> list[str]:
    """Name the quantities that were measured."""
    first = next(iter(found.values()))[0]
    return list(next(iter(first.values())))


def _of_kind(found: dict[str, list[dict]], kind: str) -> Values:
    """Take one quantity of every network's layers."""
    return {
        role: [{layer: entry[kind] for layer, entry in layers.items()} for layers in seeds]
        for role, seeds in found.items()
    }


def load(role: str, name: str, normalisation: Normalisation | None = None) -> Network:
    """Load the network of a run's folder, a model file or a factory.

    role: the option that names it. normalisation: of the images of those that are no runs.
    """
    path = Path(name)
    try:
        if path.is_dir():
            return load_network(path, None, None)
        if path.is_file():
            return load_network(None, path, None, normalisation=normalisation)
        if ":" in name:
            return load_network(None, None, None, "best", name, normalisation)
    except InputError as error:
        raise InputError(f"--{role}: {error}") from None
    raise InputError(
        f"--{role} {name}: is no folder, file or module:function; "
        "give the folder of a run, a model file or a factory"
    )


def _of_network(
    role: str, name: str, layers: str, images: LayerImages, compute: devices.Compute
) -> tuple[dict, dict]:
    """Measure a network: what it is, and {layer: {quantity: value}}."""
    network = load(role, name, images.inputs.normalisation)
    if images.split == "holdout" and not Path(name).is_dir():
        raise InputError(f"--{role} {name}: is no run, and held no images out; give --split test")
    dataset, chosen, labels = load_images(
        network, images.dataset, images.data_dir, images.split, images.limit
    )
    model = network.prepare(compute, chosen, dataset.num_classes)
    activations = _activations(model, chosen, labels, layers, compute)
    about = {
        **{"name": network.name, "hash": network.hash(), "n": len(labels)},
        **{"dataset": dataset.name, "data_fingerprint": dataset.fingerprint},
        "seed": network.options.get("seed"),
    }
    y = labels.to(compute.device)
    return about, {name: describe(a, y) for name, a in activations.items()}


def _activations(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    layers: str,
    compute: devices.Compute,
) -> Layers:
    """Run the network on all images: {layer: activations (N,d)}."""
    parts: list[Layers] = []
    with frozen(model), torch.no_grad():
        for x, _ in in_order(images, labels, BATCH, compute.device):
            found = tapped(model, x)
            parts.append({name: found.layers[name] for name in select(found, layers)})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _check_layers(found: dict[str, list[dict]]) -> None:
    """Raise InputError where two networks have other layers."""
    networks = [each for seeds in found.values() for each in seeds]
    for one, other in pairwise(networks):
        if list(one) != list(other):
            raise InputError(
                f"--layers: one network has {','.join(one)} and another {','.join(other)}; "
                "give networks of one architecture, or the layers that both have"
            )


def _rows(found: dict[str, list[dict]]) -> list[dict]:
    """List the rows of layers.csv: one for each network and layer."""
    return [
        {"role": role, "number": number, "layer": layer, **values}
        for role, seeds in found.items()
        for number, layers in enumerate(seeds, start=1)
        for layer, values in layers.items()
    ]


def _plot(quantities: dict[str, dict], path: Path, seeds: int) -> None:
    """Plot the mean of each quantity over the layers, with the range over seeds, to a PNG file."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(17, 4.2), layout="constrained")
    for axis, (kind, title) in zip(axes, PANELS.items()):
        entries = quantities[kind]
        places = numpy.arange(len(entries))
        roles = [role for role in ROLES if role in next(iter(entries.values()))]
        for i, role in enumerate(roles):
            values = numpy.array([entry[role] for entry in entries.values()])
            low, high = values.min(1), values.max(1)
            style = {"color": COLOURS[i], "linestyle": STYLES[i], "marker": ".", "label": role}
            axis.plot(places, values.mean(1), **style)
            axis.fill_between(places, low, high, color=COLOURS[i], alpha=0.15)
        axis.set_xticks(places, list(entries), rotation=60, ha="right", fontsize=7)
        axis.set(title=title)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"hidden layers, mean and range over {seeds} seeds", fontsize=10)
    save_figure(figure, path)


def _print_report(layers: dict[str, dict], title: str, seeds: int) -> None:
    """Print a line for each layer: means, the difference with its interval, and the sign."""
    print(f"{title}, mean over {seeds} seeds\n")
    roles = [role for role in ROLES if role in next(iter(layers.values()))]
    compared = "delta" in next(iter(layers.values()))
    header = ["layer", *roles, *(["difference (95 %)", "sign"] if compared else [])]
    lines = [
        [name, *(f"{numpy.mean(entry[role]):.4f}" for role in roles), *_difference(entry)]
        for name, entry in layers.items()
    ]
    print(table(header, lines))
    if compared and seeds == 1:
        print("\nwith one seed there is no interval, and no sign can be told")


def _difference(entry: dict) -> list[str]:
    """Write the difference of a layer with its interval, and its sign; [] where there is none."""
    if "delta" not in entry:
        return []
    text = f"{entry['delta']:+.4f}"
    if entry["interval"]:
        text += " ({:+.4f} to {:+.4f})".format(*entry["interval"])
    return [text, f"{entry['sign']:+d}" if entry["sign"] else "0"]
