"""What the figures share: MI values and their warnings, bars with errors, and the files."""

import csv
import io
import json
import math
from pathlib import Path

from reproduction import intervals
from reproduction.cells import Cell
from reproduction.graph import Graph
from reproduction.warned import Warned
from utils.evaluation import stored
from utils.plots import COLOURS, save_figure

HATCHES = ["", "//", "..", "xx", "--"]


def warned_images(graph: Graph, sources: list[str]) -> list[Warned]:
    """Return the warnings of the evaluations that made the images of `sources`."""
    found = []
    for name in dict.fromkeys(sources):
        if name.endswith("images.json"):
            results = json.loads(graph.nodes[name].outputs[-1].read_text())
            seed = int(name.split("/")[0].removeprefix("seed"))
            rows = stored.rows(results)
            for attack in graph.nodes[name].attacks:
                found += [Warned(text, name, seed) for text in rows[attack]["warnings"]]
    return found


def mi_values(graph: Graph, kinds: dict[str, str]) -> tuple[dict, list[str]]:
    """Read the MI values of finished measurements.

    kinds: {the kind of estimators: the measurement's node with "{seed}" in its name}.
    Returns {(kind, attack, name): {seed: MI}} and the nodes behind the values. The numbers of
    images have the name "n"; a mean over no image is left out.
    """
    found, sources = {}, []
    for seed in range(1, graph.experiment.seeds + 1):
        for kind, node in kinds.items():
            node = node.format(seed=seed)
            if node in graph.nodes and graph.state(node) == "finished":
                sources += [*graph.nodes[node].needs, node]
                for attack, row in json.loads(graph.product(node).read_text())["values"].items():
                    for name, value in row.items():
                        if value is not None:
                            found.setdefault((kind, attack, name), {})[seed] = value
    return found, sources


def fooled(found: dict) -> str:
    """Return in words how many images the means are over, from what `mi_values` found."""
    counts = [seeds.values() for (_, _, name), seeds in found.items() if name == "n"]
    numbers = sorted({n for each in counts for n in each})
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def as_csv(header: list[str], rows: list[list]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def spread(values: dict[int, float]) -> float:
    """Return the standard deviation over the seeds; 0 for one seed."""
    return intervals.deviation(list(values.values())) or 0.0


def whiskers(each: Cell) -> tuple[float, float]:
    """Return the errors of a bar of accuracy, down and up.

    They are the deviation over the seeds; for one seed, Wilson's interval over its images.
    """
    if each.deviation is not None:
        return each.deviation, each.deviation
    if not each.outcomes:
        return 0.0, 0.0
    low, high = each.interval
    return each.mean - low, high - each.mean


def bars(
    axis,
    number: int,
    of: int,
    heights: list[float],
    errors: list[list[float]],
    label: str,
    states: list[str] | None = None,
) -> None:
    """Draw one series of bars, a bar in each group.

    Args:
        axis: the axis to draw on.
        number: the number of the series, from 0.
        of: how many series there are.
        heights: a height for each group; NaN where there is none.
        errors: the errors of the bars, [down, up].
        label: the series in the legend.
        states: for each group the text to show where its height is NaN.
    """
    width = 0.8 / of
    places = [group + (number - (of - 1) / 2) * width for group in range(len(heights))]
    axis.bar(
        places,
        [0 if math.isnan(h) else h for h in heights],
        width * 0.92,
        yerr=errors if any(map(any, errors)) else None,
        capsize=2,
        label=label,
        color=COLOURS[number],
        hatch=HATCHES[number],
        edgecolor="black",
        linewidth=0.6,
        error_kw={"elinewidth": 0.8},
    )
    states = states or ["no value"] * len(heights)
    for place, height, state in zip(places, heights, states):
        if math.isnan(height):
            style = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 7}
            axis.text(place, 0.02, state, transform=axis.get_xaxis_transform(), **style)


def save(figure, folder: Path, name: str) -> None:
    """Save a figure as .png and .pdf, without a date, so that equal numbers give equal files."""
    save_figure(figure, folder / f"{name}.png", dpi=150)
    save_figure(figure, folder / f"{name}.pdf", dpi=150, metadata={"CreationDate": None})
