"""Draw the paper's Figures 2, 4, 5 and 7; write their numbers as CSV and captions as JSON.

Colours, line styles and hatches differ, so that the figures can be read with any colour vision and
in grey. Accuracies are in percent, MI in nats. As in the paper, the MI of Figures 2 and 4 is drawn
with an offset, so that the smallest value of a plot is 0; the CSV files have the raw values.
"""

import json
import math
import statistics

from common.files import write_text
from reproduction import warned
from reproduction.cells import Cell, cell
from reproduction.figure_parts import (
    as_csv,
    bars,
    fooled,
    mi_values,
    save,
    spread,
    warned_images,
    whiskers,
)
from reproduction.graph import Graph
from reproduction.paper import DEFENSES, RADAR, VARIANTS
from reproduction.provenance import listed
from reproduction.tables import caption
from utils.attacks import registry
from utils.plots import COLOURS, STYLES, plt

RADAR_SERIES = {
    "standard_mi_of_adversarial": r"standard MI, $E_n(\tilde{x}; h(\tilde{x}))$",
    "natural_mi_of_adversarial": r"natural MI, $E_n(x; h(\tilde{x}))$",
    "adversarial_mi_of_adversarial": r"adversarial MI, $E_a(n; h(\tilde{x}))$",
}
# the samples whose output the MI is with
BAR_SERIES = {"natural": "natural samples", "adversarial": "adversarial samples"}
ESTIMATORS = {"estimators_max": "estimators by Eq. 4", "estimators": "estimators by the mechanism"}


def figure2(graph: Graph):
    """Draw the radar of three kinds of MI under five attacks on a naturally trained network."""
    kind = "estimators_max"
    found, sources = mi_values(graph, {kind: f"seed{{seed}}/natural/mi-{kind}.json"})
    means = {
        (value, attack): statistics.mean(found[kind, attack, value].values())
        for value in RADAR_SERIES
        for attack in RADAR
        if (kind, attack, value) in found
    }
    if len(means) < len(RADAR_SERIES) * len(RADAR):
        return None
    offset = min(means.values())
    figure, axis = plt.subplots(
        figsize=(5.4, 5.4), subplot_kw={"projection": "polar"}, layout="constrained"
    )
    angles = [2 * math.pi * i / len(RADAR) for i in range(len(RADAR))]
    for i, (value, label) in enumerate(RADAR_SERIES.items()):
        radii = [means[value, attack] - offset for attack in RADAR]
        style = {"color": COLOURS[i], "linestyle": STYLES[i], "marker": "os^"[i]}
        axis.plot([*angles, angles[0]], [*radii, radii[0]], label=label, **style)
    axis.set_theta_offset(math.pi / 2)
    axis.set_theta_direction(-1)
    axis.set_xticks(angles, [registry.parse(attack).label for attack in RADAR])
    axis.tick_params(axis="x", pad=12)
    axis.set_rlabel_position(180 / len(RADAR))
    axis.set_title("MI (nats), smallest value at 0", fontsize=10)
    figure.legend(loc="outside lower center", fontsize=8)
    rows = [
        [value, attack, seed, mi, found[kind, attack, "n"][seed]]
        for value in RADAR_SERIES
        for attack in RADAR
        for seed, mi in found[kind, attack, value].items()
    ]
    what = (
        "MI in nats of the outputs for adversarial images with the whole image (standard MI), "
        "with the natural and with the adversarial pattern: means over the "
        f"{fooled(found)} images that an attack turns wrong, by estimators trained by Eq. 4, of a "
        f"naturally trained ResNet-18. {-offset:+.3g} nats is added to every value, so that the "
        "smallest is 0; the CSV file has the raw ones."
    )
    header = ["value", "attack", "seed", "mi_nats", "images"]
    return figure, as_csv(header, rows), what, sources, warned_images(graph, sources)


def figure4(graph: Graph):
    """Draw natural and adversarial MI of both kinds of samples, by either kind of estimators."""
    found, sources = mi_values(
        graph, {kind: f"seed{{seed}}/linf/standard/mi-{kind}.json" for kind in ESTIMATORS}
    )
    if not found:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
    rows, offsets = [], []
    for axis, (kind, title) in zip(axes, ESTIMATORS.items()):
        values = {
            (mi, sample): found.get((kind, "pgd-40", f"{mi}_mi_of_{sample}"), {})
            for mi in BAR_SERIES
            for sample in BAR_SERIES
        }
        means = {key: statistics.mean(seeds.values()) for key, seeds in values.items() if seeds}
        offset = min(means.values(), default=0.0)
        for i, (sample, label) in enumerate(BAR_SERIES.items()):
            heights = [means.get((mi, sample), math.nan) - offset for mi in BAR_SERIES]
            errors = [spread(values[mi, sample]) for mi in BAR_SERIES]
            bars(axis, i, 2, heights, [errors, errors], label)
        axis.set_xticks(range(2), ["natural MI", "adversarial MI"])
        axis.set(title=title, ylabel="MI (nats), smallest value at 0")
        offsets.append(f"{-offset:+.3g} ({title})")
        rows += [
            [kind, f"{mi}_mi", sample, seed, value, found[kind, "pgd-40", "n"][seed]]
            for (mi, sample), seeds in values.items()
            for seed, value in seeds.items()
        ]
    axes[0].legend(fontsize=8)
    what = (
        "MI in nats of the outputs for natural and for adversarial images (PGD-40) with the "
        f"natural and with the adversarial pattern: means over the {fooled(found)} images that the "
        "attack turns wrong, of a ResNet-18 by standard AT. Added to the values, so that the "
        f"smallest is 0: {', '.join(offsets)} nats; the CSV file has the raw ones."
    )
    header = ["estimators", "value", "samples", "seed", "mi_nats", "images"]
    return figure, as_csv(header, rows), what, sources, warned_images(graph, sources)


def figure5(graph: Graph):
    """Draw standard AT, NAMID and its ablations under PGD and FWA."""
    ablations = {name: VARIANTS[name].label for name in ("namid_i", "namid_ii", "namid_iii")}
    runs = {"standard": DEFENSES["standard"].label, **ablations, "namid": DEFENSES["namid"].label}
    what = "Ablations (i) to (iii) of NAMID beside NAMID and standard AT."
    return accuracies(graph, runs, ("pgd-40", "fwa-40"), what)


def figure7(graph: Graph):
    """Draw NAMID with either kind of estimators."""
    runs = {"namid_max": ESTIMATORS["estimators_max"], "namid": ESTIMATORS["estimators"]}
    return accuracies(
        graph, runs, ("none", "pgd-40", "aa", "tidim"), "NAMID with either kind of estimators."
    )


def accuracies(graph: Graph, runs: dict[str, str], attacks: tuple[str, ...], what: str):
    """Draw bars of accuracy, a group for each attack, a bar for each network.

    Args:
        graph: the experiment's runs.
        runs: {name: label} of the networks.
        attacks: names of attacks.
        what: the first sentence of the caption.

    Returns:
        The figure, its numbers as CSV, its caption, the nodes behind it and their warnings; None
        where nothing was measured.
    """
    cells: dict[tuple[str, str], Cell] = {
        (run, attack): cell(graph, f"seed{{seed}}/linf/{run}", "white", attack)
        for run in runs
        for attack in attacks
    }
    measured = [each for each in cells.values() if each.outcomes]
    if not measured:
        return None
    figure, axis = plt.subplots(figsize=(7.6, 3.9), layout="constrained")
    for i, (run, label) in enumerate(runs.items()):
        chosen = [cells[run, attack] for attack in attacks]
        heights = [math.nan if each.mean is None else each.mean for each in chosen]
        errors = [list(side) for side in zip(*map(whiskers, chosen))]
        bars(axis, i, len(runs), heights, errors, label, [each.state for each in chosen])
    images = {
        attack: sorted({n for run in runs for n in cells[run, attack].images}) for attack in attacks
    }
    axis.set_xticks(
        range(len(attacks)),
        [f"{registry.parse(attack).label}\nn = {listed(images[attack])}" for attack in attacks],
    )
    axis.set(ylabel="accuracy (%)", ylim=(0, 100))
    figure.legend(loc="outside lower center", fontsize=8, ncols=2 if len(runs) > 2 else len(runs))
    rows = [row for key, each in cells.items() for row in _lines(*key, each)]
    what += (
        " Accuracy in percent on test images; the whiskers are the deviation over the seeds, for "
        "one seed Wilson's 95 % interval over the images."
    )
    sources = [source for each in measured for source in each.sources]
    header = ["run", "attack", "state", "seed", "accuracy", "images", "warnings"]
    warnings = [text for each in measured for text in each.warned]
    return figure, as_csv(header, rows), what, sources, warnings


def _lines(run: str, attack: str, each: Cell) -> list[list]:
    """Return the lines of a cell in the CSV file, one for each seed."""
    if not each.outcomes:
        return [[run, attack, each.state, *[""] * 4]]
    texts, lines = warned.seeds_of(each.warned), []
    for seed, value in zip(each.outcomes, each.values):
        own = "; ".join(text for text, seeds in texts.items() if seed in seeds)
        lines.append([run, attack, each.state, seed, value, len(each.outcomes[seed]), own])
    return lines


TITLES = {
    "figure2": "three kinds of MI under five attacks",
    "figure4": "MI of natural and of adversarial samples",
    "figure5": "ablations",
    "figure7": "NAMID by either kind of estimators",
}
DRAW = {"figure2": figure2, "figure4": figure4, "figure5": figure5, "figure7": figure7}


def write_figures(graph: Graph) -> list[dict]:
    """Draw every figure that has a value as .png and .pdf, with .csv and .json files.

    Returns the contents of the .json files.
    """
    folder, written = graph.experiment.root / "figures", []
    folder.mkdir(exist_ok=True)
    for name, draw in DRAW.items():
        drawn = draw(graph)
        if drawn is None:
            continue
        figure, numbers, what, sources, warnings = drawn
        below = [note.line() for note in warned.notes(warnings)]
        save(figure, folder, name)
        write_text(folder / f"{name}.csv", numbers)
        evaluated = [
            json.loads(graph.nodes[source].outputs[-1].read_text())["n"]
            for source in sources
            if source.endswith(".json") and not source.endswith("images.json")
        ]
        text = caption(graph, what, sources, sorted(set(evaluated)), ["linf"])
        text += f" Warnings of the evaluations: {'; '.join(below)}." if below else ""
        content = {
            "name": name,
            "title": f"Figure {name[-1]}: {TITLES[name]}",
            "sources": list(dict.fromkeys(sources)),
            "caption": text,
            "warnings": below,
        }
        write_text(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
        written.append(content)
    return written
