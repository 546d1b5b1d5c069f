"""The table and figure of ./reproduce.py stability: each setting of NAMID beside standard AT.

The networks of a row are chosen by their held-out images and measured on the test images. The
columns beside the accuracies are measured in training.
"""

import csv
import json
import math
import statistics

from common.files import write_csv, write_text
from reproduction import intervals, warned
from reproduction.cells import Cell, cell, paired
from reproduction.figures import save
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
    """What the record of a finished run says: the score of its best epoch; the last epoch's, its share of images with one same
    label and its logits; the strongest pull of the MI part and of each of its terms beside L_adv's; and MI over W."""
    if graph.state(run) != "finished":
        return None
    with open(graph.nodes[run].folder / "metrics.csv", newline="") as file:
        rows = [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
    pulls = [row for row in rows if "gradient_mi" in row and row.get("gradient_adv")]
    last = rows[-1]
    found = {
        "held_out_score": max(row["score"] for row in rows if "score" in row),
        "last_score": last["score"],
        "largest_class": last["largest_class"],
        "logit_norm": last.get("logit_norm", math.nan),
    }
    for part in ("mi", "mi_natural", "mi_adversarial", "mi_difference"):
        found[f"pull_{part}"] = max(
            (row[f"gradient_{part}"] / row["gradient_adv"] for row in pulls), default=math.nan
        )
    for name in ("natural", "adversarial"):
        column = f"{name}_mi_of_adversarial_W"
        found[f"{name}_mi"] = last.get(column, math.nan)
        found[f"{name}_mi_deviation"] = last.get(f"{column}_deviation", math.nan)
    return found


def rows_of(graph: Graph) -> list[dict]:
    """A row for each baseline and setting: cells, its difference from its baseline, and what happened inside, by seed."""
    seeds, rows = range(1, graph.experiment.seeds + 1), []
    places = {
        name: "seed{seed}/linf/standard" if name == "standard" else f"seed{{seed}}/stability/{name}"
        for name in (*BASELINES, *SETTINGS)
    }
    for name, place in places.items():
        cells = {attack: cell(graph, place, "white", attack) for attack in ATTACKS}
        runs = {seed: place.format(seed=seed) for seed in seeds}
        records = {seed: found for seed, run in runs.items() if (found := inside(graph, run))}
        against = SETTINGS[name].baseline if name in SETTINGS else None
        row = {
            "name": name,
            "label": SETTINGS[name].label if name in SETTINGS else BASELINES[name][0],
            "cells": cells,
            "records": records,
            "baseline": against,
            "difference": None,
            "interval": None,
            "collapsed": None,
        }
        if against:
            other = cell(graph, places[against], "white", "pgd-40")
            if pairs := paired(cells["pgd-40"], other):
                row |= dict(zip(("difference", "interval"), intervals.of_a_difference(pairs)))
            standard = {seed: inside(graph, places[against].format(seed=seed)) for seed in records}
            low = [
                records[seed]["last_score"] < COLLAPSED * standard[seed]["last_score"]
                for seed in records
                if standard[seed]
            ]
            low += [True for run in runs.values() if graph.nodes[run].diverged_note.exists()]
            row["collapsed"] = sum(low), len(low)
        rows.append(row)
    return rows


HEADER = [
    "setting",
    "natural",
    "PGD-40",
    "PGD-40 less standard AT's",
    "held-out score",
    "collapsed",
    "logits",
    "pull",
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
        values = [
            record[name] for record in row["records"].values() if not math.isnan(record[name])
        ]
        return statistics.mean(values) if values else None

    def show(name, digits=3):
        return "" if mean(name) is None else f"{mean(name):.{digits}g}"

    difference = (
        ""
        if row["difference"] is None
        else "{:+.1f} ({:+.1f} to {:+.1f})".format(row["difference"], *row["interval"])
    )
    mi = [
        f"{show(f'{kind}_mi')} ± {show(f'{kind}_mi_deviation')}"
        if mean(f"{kind}_mi") is not None
        else ""
        for kind in ("natural", "adversarial")
    ]
    parts = ", ".join(
        show(f"pull_mi_{part}", 2) for part in ("natural", "adversarial", "difference")
    )
    return [
        row["label"],
        *map(accuracy, ATTACKS),
        difference,
        show("held_out_score"),
        "" if row["collapsed"] is None else "{} of {}".format(*row["collapsed"]),
        show("logit_norm"),
        show("pull_mi", 2),
        parts.strip(", "),
        *mi,
    ]


WHAT = (
    "NAMID with one setting changed at a time, and standard AT. Accuracy in percent on the test images, mean ± deviation over "
    "the seeds, of the network of the best epoch on held-out images; the difference is paired by seed and image. Held-out "
    "score: (natural + PGD)/2 of that epoch, what a setting may be chosen by. Collapsed: seeds whose last epoch has less than "
    "half of standard AT's held-out score. Logits: their norm at the end. Pull: the largest ratio over the epochs of the "
    "gradient of alpha L_mi to that of L_adv at the target's outputs, and of each term. MI of W: in nats, of the outputs for "
    "adversarial images that fool, in the last epoch, mean ± deviation over the images. " + COVERS
)


def write(graph: Graph) -> dict | None:
    """tables/stability.md, .csv and .json and figures/stability.png and .pdf of what there is, and the table's content for the
    report; None where nothing was run."""
    evaluated = [
        node for node in graph.nodes if "/stability/" in node and node.endswith("white.json")
    ]
    if not any(graph.state(node) == "finished" for node in evaluated):
        return None
    experiment, rows = graph.experiment, rows_of(graph)
    below = notes_of(rows)
    sources = list(
        dict.fromkeys(
            source for row in rows for each in row["cells"].values() for source in each.sources
        )
    )
    images = sorted({n for row in rows for each in row["cells"].values() for n in each.images})
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
        (experiment.root / folder).mkdir(exist_ok=True)
    page = [
        f"# {content['title']}",
        "",
        content["caption"],
        "",
        *markdown_lines(HEADER, content["rows"]),
        "",
        *notes_below(content["notes"]),
    ]
    write_text(experiment.root / "tables/stability.md", "\n".join(page))
    write_csv(
        experiment.root / "tables/stability.csv",
        [
            {
                "setting": row["name"],
                "seed": seed,
                **{attack: _value(row["cells"][attack], seed) for attack in ATTACKS},
                **record,
            }
            for row in rows
            for seed, record in row["records"].items()
        ],
    )
    write_text(experiment.root / "tables/stability.json", json.dumps(content, indent=1) + "\n")
    draw(rows, experiment.root / "figures")
    return content


def _value(each: Cell, seed: int) -> float | None:
    return (
        100 * sum(each.outcomes[seed]) / len(each.outcomes[seed]) if seed in each.outcomes else None
    )


def draw(rows: list[dict], folder) -> None:
    """A line for each setting, a mark for each seed: accuracies without an attack and under PGD-40; standard AT's means."""
    measured = [row for row in rows if row["cells"]["pgd-40"].outcomes]
    figure, axis = plt.subplots(figsize=(7.6, 0.27 * len(measured) + 1.3), layout="constrained")
    for i, (attack, label) in enumerate((("none", "no attack"), ("pgd-40", "PGD-40"))):
        places = [
            (value, y) for y, row in enumerate(measured) for value in row["cells"][attack].values
        ]
        axis.scatter(*zip(*places), color=COLOURS[i], marker="ox"[i], s=28, label=label, zorder=3)
        if measured[0]["name"] == "standard":
            axis.axvline(
                measured[0]["cells"][attack].mean,
                color=COLOURS[i],
                linestyle=("-", "--")[i],
                linewidth=0.8,
            )
    axis.set_yticks(range(len(measured)), [row["label"] for row in measured], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="accuracy (%), a mark for each seed; lines: standard AT's means", xlim=(0, 100))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    save(figure, folder, "stability")
