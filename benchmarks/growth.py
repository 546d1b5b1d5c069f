"""Measure how time and memory grow with batch, image size, units and the number of images.

On logarithmic axes growth by a power is a straight line whose slope is the power.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from matplotlib.ticker import LogLocator, NullFormatter
from torch import nn

from benchmarks import measure
from benchmarks.sizes import CLASSES, LOADER_BATCHES, SEED, Sizes, Variant, made_up
from benchmarks.steps import Workbench
from common.files import write_csv
from models.targets import Target
from utils.plots import COLOURS, STYLES, plt, save_figure, table

BATCHES = (0.25, 0.5, 1, 2, 4)  # of the bench's batch
SIDES = (16, 32, 64)  # pixels
UNITS = (256, 512, 1024, 2048)
IMAGES = (1, 2, 4, 8, 16)  # times LOADER_BATCHES batches
AXES = {
    "batch": "images in a batch",
    "pixels": "pixels of an image",
    "units": "units of the estimators",
    "images": "images of the set",
}
MEASURES = {"median": "seconds", "peak_bytes": "peak memory (MiB)"}
STEPS = {"namid": "NAMID step", "mi": "its MI part alone", "loader": "loader, an epoch"}


class MeanColour(Target):
    """A target of almost no cost: its logits are a linear map of the mean colour."""

    def __init__(self):
        super().__init__(CLASSES, layer3=3, layer4=3)
        self.linear = nn.Linear(3, CLASSES)

    def maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the images as feature maps, and the logits."""
        return {"layer3": x, "layer4": x, "logits": self.linear(x.mean((2, 3)))}


def sweeps(base: Sizes) -> dict[tuple[str, int], Sizes]:
    """Return {(axis, value): the sizes there}, where one size of `base` is changed at a time."""
    points = {}
    for factor in BATCHES:
        batch = max(2, int(factor * base.batch))
        points["batch", batch] = replace(base, batch=batch)
    points |= {("pixels", side**2): replace(base, size=side) for side in SIDES}
    return points | {("units", units): replace(base, n_units=units) for units in UNITS}


def cases(
    base: Sizes, variant: Variant, device: torch.device
) -> dict[tuple[str, int, str], tuple[Workbench, Callable]]:
    """Return {(axis, value, step): (workbench, ready)}.

    ready() brings the workbench's networks into the state of the step and returns the step.
    """
    found = {}
    for (axis, value), sizes in sweeps(base).items():
        images = made_up(sizes, device)
        for step, make_target in (("namid", None), ("mi", MeanColour)):
            bench = Workbench(sizes, variant, *images, make_target)
            found[axis, value, step] = bench, bench.namid
    images, labels = made_up(base, device)
    for times in IMAGES:
        repeated = images.repeat(times, 1, 1, 1), labels.repeat(times)
        bench = Workbench(base, variant, *repeated, MeanColour)
        found["images", times * LOADER_BATCHES * base.batch, "loader"] = bench, bench.loader
    return found


def slope(values: list[float], measured: list[float]) -> float:
    """Return the power p of the least-squares fit measured = c values^p, in logarithms."""
    return float(numpy.polyfit(numpy.log(values), numpy.log(measured), 1)[0])


def run(settings, device: torch.device, about: dict) -> None:
    """Measure, and write growth.csv and growth.png; about: the machine."""
    torch.manual_seed(SEED)
    base = Sizes(
        settings.arch[0], settings.width, settings.size, settings.batch_size[0], settings.n_units
    )
    variant = Variant(settings.precision[-1], settings.layout[0] == "channels-last")
    found = cases(base, variant, device)
    every_ready = {key: ready for key, (_, ready) in found.items()}
    seconds, failed = measure.in_turn(every_ready, settings.runs, settings.warmup, device)
    rows = []
    for key, runs in seconds.items():
        axis, value, step = key
        bench, ready = found[key]
        timed = ready()
        bench.clear()
        peak = measure.peak_memory(timed, device)
        row = {"axis": axis, "value": value, "step": step, **measure.summary(runs)}
        rows.append(row | {"peak_bytes": peak})
        bench.clear()
    write_csv(settings.output / "growth.csv", rows)
    title = (
        f"{base.arch} of width {base.width or 'its own'}; where not varied: batch {base.batch}, "
        f"{base.size}x{base.size} pixels, {base.n_units} units; {variant.precision}; "
        f"{about['hardware']}, torch {about['versions']['torch']}"
    )
    lines = curves(rows)
    plot(lines, settings.output / "growth.png", title)
    slopes = []
    for (axis, step), (values, measured) in lines.items():
        texts = [f"{slope(values, measured[name]):.2f}" for name in MEASURES]
        slopes.append([f"{STEPS[step]} against {AXES[axis]}", *texts])
    print(f"\n{title}\nSlopes on logarithmic axes:\n")
    print(table(["", *MEASURES.values()], slopes))
    for (axis, value, step), why in failed.items():
        print(f"warning: not measured: {STEPS[step]} at {value} {AXES[axis]}: {why}")
    print(f"done: {settings.output}/growth.csv and growth.png")


def curves(rows: list[dict]) -> dict[tuple[str, str], tuple[list, dict[str, list]]]:
    """Return {(axis, step): (values, {measure: numbers})} of the curves with two points or more."""
    lines = {}
    for row in rows:
        empty = [], {name: [] for name in MEASURES}
        values, measured = lines.setdefault((row["axis"], row["step"]), empty)
        values.append(row["value"])
        for name in MEASURES:
            measured[name].append(row[name] / 2**20 if name == "peak_bytes" else row[name])
    return {key: (values, measured) for key, (values, measured) in lines.items() if len(values) > 1}


def plot(lines: dict, path: Path, title: str) -> None:
    """Draw what `curves` returns as a PNG file.

    There is a panel for each measure and axis; the legends have the slopes.
    """
    columns = list(dict.fromkeys(axis for axis, _ in lines))
    figure, panels = plt.subplots(
        len(MEASURES),
        len(columns),
        figsize=(3.6 * len(columns), 3.2 * len(MEASURES)),
        squeeze=False,
        layout="constrained",
    )
    for (axis, step), (values, measured) in lines.items():
        style = list(STEPS).index(step)
        for panel, (name, label) in zip(panels[:, columns.index(axis)], MEASURES.items()):
            text = f"{STEPS[step]}, slope {slope(values, measured[name]):.2f}"
            look = {"color": COLOURS[style], "linestyle": STYLES[style], "marker": "o^s"[style]}
            panel.loglog(values, measured[name], label=text, **look)
            panel.set_xticks(values, [f"{value:g}" for value in values], fontsize=7)
            panel.set_xticks([], minor=True)
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set(xlabel=AXES[axis], ylabel=label)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
    figure.suptitle(title, fontsize=8)
    save_figure(figure, path)
