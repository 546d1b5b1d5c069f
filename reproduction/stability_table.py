"""The table and figure of ./reproduce.py stability: each setting of NAMID beside standard AT.

The networks of a row are chosen by their held-out images and measured on the test images. The
columns beside the accuracies are measured in training.
"""

import csv
import json
import math
import statistics
from pathlib import Path

from common.files import write_csv, write_text
from reproduction import intervals, warned
from reproduction.cells import Cell, cell, paired
from reproduction.figure_parts import save
from reproduction.graph import Graph
from reproduction.stability import ATTACKS, BASELINES, SETTINGS
from reproduction.table_files import markdown_lines, notes_below
from reproduction.tables import COVERS, caption
from reproduction.warned import Note
from utils.plots import COLOURS, plt

# A run has collapsed if the held-out score of its last epoch is below this share of standard AT's
# of the same seed.
COLLAPSED = 0.5


def inside(graph: Graph, run: str) -> dict | None:
    """Read what happened inside a finished training from its metrics.csv; None where it is not.

    Returns:
        held_out_score: the score of the best epoch.
        last_score, largest_class, logit_norm: the last epoch's score, share of images with one
            same predicted class, and norm of the logits.
        ratio_mi, ratio_mi_natural, ratio_mi_adversarial, ratio_mi_difference: the largest gradient
            ratio over the epochs, of alpha L_mi and of each of its terms to L_adv.
        natural_mi_W, adversarial_mi_W, ..._deviation: the last epoch's MI over W, in nats.
    """
    if graph.state(run) != "finished":
        return None
    with open(graph.nodes[run].folder / "metrics.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = [{name: float(value) for name, value in line.items() if value} for line in lines]
    with_gradients = [row for row in rows if "gradient_mi" in row and row.get("gradient_adv")]
    last = rows[-1]
    found = {
        "held_out_score": max(row["score"] for row in rows if "score" in row),
        "last_score": last["score"],
        "largest_class": last["largest_class"],
        "logit_norm": last.get("logit_norm", math.nan),
    }
    for part in ("mi", "mi_natural", "mi_adversarial", "mi_difference"):
        ratios = [row[f"gradient_{part}"] / row["gradient_adv"] for row in with_gradients]
        found[f"ratio_{part}"] = max(ratios, default=math.nan)
    for name in ("natural", "adversarial"):
        column = f"{name}_mi_of_adversarial_W"
        found[f"{name}_mi_W"] = last.get(column, math.nan)
        found[f"{name}_mi_W_deviation"] = last.get(f"{column}_deviation", math.nan)
    return found


def run_of(name: str) -> str:
    """Return the node of a row's network, with "{seed}" in it."""
    return "seed{seed}/linf/standard" if name == "standard" else f"seed{{seed}}/stability/{name}"


def rows_of(graph: Graph) -> list[dict]:
    """Return a row for each baseline and setting.

    A row has its cells, its difference from its baseline, and by seed what happened inside.
    """
    rows = [_row(graph, name, label) for name, (label, _) in BASELINES.items()]
    for name, setting in SETTINGS.items():
        row = _row(graph, name, setting.label)
        rows.append(row | _against(graph, row, setting.baseline))
    return rows


def _row(graph: Graph, name: str, label: str) -> dict:
    cells = {attack: cell(graph, run_of(name), "white", attack) for attack in ATTACKS}
    records = {}
    for seed in range(1, graph.experiment.seeds + 1):
        if found := inside(graph, run_of(name).format(seed=seed)):
            records[seed] = found
    return {
        "name": name,
        "label": label,
        "cells": cells,
        "records": records,
        "baseline": None,
        "difference": None,
        "interval": None,
        "collapsed": None,
    }


def _against(graph: Graph, row: dict, baseline: str) -> dict:
    """Compare a row with its baseline: the difference under PGD-40, and how many collapsed."""
    found = {"baseline": baseline}
    other = cell(graph, run_of(baseline), "white", "pgd-40")
    if pairs := paired(row["cells"]["pgd-40"], other):
        found["difference"], found["interval"] = intervals.of_a_difference(pairs)
    collapsed = []
    for seed, record in row["records"].items():
        if standard := inside(graph, run_of(baseline).format(seed=seed)):
            collapsed.append(record["last_score"] < COLLAPSED * standard["last_score"])
    for seed in range(1, graph.experiment.seeds + 1):
        if graph.nodes[run_of(row["name"]).format(seed=seed)].diverged_note.exists():
            collapsed.append(True)
    return found | {"collapsed": (sum(collapsed), len(collapsed))}


HEADER = [
    "setting",
    "natural",
    "PGD-40",
    "PGD-40 minus standard AT's",
    "held-out score",
    "collapsed",
    "logits",
    "gradient ratio",
    "of natural, adversarial, lambda's",
    "natural MI of W",
    "adversarial MI of W",
]


def notes_of(rows: list[dict]) -> list[Note]:
    """Return the warnings of all rows, each once."""
    cells = [cell for row in rows for cell in row["cells"].values()]
    return warned.notes([each for cell in cells for each in cell.warned])


def texts(row: dict, seeds: int, below: tuple[Note, ...] | list[Note] = ()) -> list[str]:
    """Return a row for a table of HEADER, its accuracies with the marks of the notes `below`."""

    def accuracy(attack):
        marks = warned.marks(row["cells"][attack].warned, below)
        return row["cells"][attack].text(seeds) + "".join(f" [{mark}]" for mark in marks)

    def mean(name):
        values = [record[name] for record in row["records"].values()]
        values = [value for value in values if not math.isnan(value)]
        return statistics.mean(values) if values else None

    def show(name, digits=3):
        return "" if mean(name) is None else f"{mean(name):.{digits}g}"

    def mi(kind):
        name = f"{kind}_mi_W"
        return "" if mean(name) is None else f"{show(name)} ± {show(f'{name}_deviation')}"

    difference = collapsed = ""
    if row["difference"] is not None:
        difference = "{:+.1f} ({:+.1f} to {:+.1f})".format(row["difference"], *row["interval"])
    if row["collapsed"] is not None:
        collapsed = "{} of {}".format(*row["collapsed"])
    parts = [show(f"ratio_mi_{part}", 2) for part in ("natural", "adversarial", "difference")]
    return [
        row["label"],
        *map(accuracy, ATTACKS),
        difference,
        show("held_out_score"),
        collapsed,
        show("logit_norm"),
        show("ratio_mi", 2),
        ", ".join(parts).strip(", "),
        mi("natural"),
        mi("adversarial"),
    ]


WHAT = (
    "NAMID with one setting changed at a time, and standard AT. Accuracy in percent on the test "
    "images, mean ± deviation over the seeds, of the network of the best epoch on held-out "
    "images; the difference is paired by seed and image. Held-out score: (natural + PGD)/2 of "
    "that epoch, what a setting may be chosen by. Collapsed: seeds whose last epoch has less than "
    "half of standard AT's held-out score. Logits: their norm at the end. Gradient ratio: "
    "the gradient norm of alpha L_mi, and of each of its terms, divided by that of L_adv at the "
    "target's outputs, the largest over the epochs. MI of W: in nats, of the outputs for the "
    "adversarial images that fool the network, in the last epoch, mean ± deviation over the "
    "images. " + COVERS
)


def write(graph: Graph) -> dict | None:
    """Write tables/stability.md, .csv and .json and figures/stability.png and .pdf.

    Returns the table's content for the report; None where nothing was run.
    """
    evaluated = [
        node for node in graph.nodes if "/stability/" in node and node.endswith("white.json")
    ]
    if not any(graph.state(node) == "finished" for node in evaluated):
        return None
    experiment, rows = graph.experiment, rows_of(graph)
    root, below = experiment.root, notes_of(rows)
    cells = [each for row in rows for each in row["cells"].values()]
    sources = list(dict.fromkeys(source for each in cells for source in each.sources))
    images = sorted({n for each in cells for n in each.images})
    content = {
        "name": "stability",
        "title": "Stability: which settings of NAMID train",
        "header": HEADER,
        "caption": caption(graph, WHAT, sources, images, ["linf"]),
        "rows": [texts(row, experiment.seeds, below) for row in rows],
        "notes": [note.line() for note in below],
        "sources": {row["label"]: row["cells"]["pgd-40"].sources for row in rows},
    }
    for folder in ("tables", "figures"):
        (root / folder).mkdir(exist_ok=True)
    page = [f"# {content['title']}", "", content["caption"], ""]
    page += [*markdown_lines(HEADER, content["rows"]), "", *notes_below(content["notes"])]
    write_text(root / "tables/stability.md", "\n".join(page))
    write_csv(root / "tables/stability.csv", [line for row in rows for line in _lines(row)])
    write_text(root / "tables/stability.json", json.dumps(content, indent=1) + "\n")
    draw(rows, root / "figures")
    return content


def _lines(row: dict) -> list[dict]:
    """Return the lines of a row in the CSV file, one for each seed."""
    lines = []
    for seed, record in row["records"].items():
        accuracies = {attack: _accuracy(row["cells"][attack], seed) for attack in ATTACKS}
        lines.append({"setting": row["name"], "seed": seed, **accuracies, **record})
    return lines


def _accuracy(each: Cell, seed: int) -> float | None:
    """Return the accuracy of a seed in percent; None where it was not measured."""
    right = each.outcomes.get(seed)
    return 100 * sum(right) / len(right) if right else None


def draw(rows: list[dict], folder: Path) -> None:
    """Draw natural and PGD-40 accuracy, a line for each setting and a mark for each seed."""
    measured = [row for row in rows if row["cells"]["pgd-40"].outcomes]
    height = 0.27 * len(measured) + 1.3
    figure, axis = plt.subplots(figsize=(7.6, height), layout="constrained")
    for i, (attack, label) in enumerate((("none", "no attack"), ("pgd-40", "PGD-40"))):
        values = [row["cells"][attack].values for row in measured]
        places = [(value, y) for y, of_row in enumerate(values) for value in of_row]
        axis.scatter(*zip(*places), color=COLOURS[i], marker="ox"[i], s=28, label=label, zorder=3)
        if measured[0]["name"] == "standard":
            mean = measured[0]["cells"][attack].mean
            axis.axvline(mean, color=COLOURS[i], linestyle=("-", "--")[i], linewidth=0.8)
    axis.set_yticks(range(len(measured)), [row["label"] for row in measured], fontsize=8)
    axis.invert_yaxis()
    label = "accuracy (%), a mark for each seed; lines: standard AT's means"
    axis.set(xlabel=label, xlim=(0, 100))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    save(figure, folder, "stability")
