"""The paper's Figures 2, 4, 5 and 7 as PNG and PDF, with the numbers drawn as CSV and the caption as JSON.

Colours are told apart with any colour vision, line styles and hatches in grey. Accuracies are in percent, MI in nats. As in the
paper, the MI of Figures 2 and 4 is drawn with an offset, so that the smallest value of a plot is 0; the CSV has the raw values.
"""
import csv
import io
import json
import math
import statistics
from pathlib import Path

from common.files import write_text
from reproduction import intervals, warned
from reproduction.plan import DEFENSES, RADAR, VARIANTS, Graph
from reproduction.provenance import listed
from reproduction.tables import Cell, caption, cell
from reproduction.warned import Warned
from utils.attacks import registry
from utils.plots import COLOURS, STYLES, plt

HATCHES = ["", "//", "..", "xx", "--"]
RADAR_SERIES = {"standard_mi_of_adversarial": r"standard MI, $E_n(\tilde{x}; h(\tilde{x}))$",
                "natural_mi_of_adversarial": r"natural MI, $E_n(x; h(\tilde{x}))$",
                "adversarial_mi_of_adversarial": r"adversarial MI, $E_a(n; h(\tilde{x}))$"}
BAR_SERIES = {"natural": "natural samples", "adversarial": "adversarial samples"}  # whose output the MI is with
ESTIMATORS = {"estimators_max": "estimators by Eq. 4", "estimators": "estimators by the mechanism"}


def warned_images(graph: Graph, sources: list[str]) -> list[Warned]:
    """Return the warnings of the evaluations that made the images of `sources`."""
    found = []
    for name in dict.fromkeys(sources):
        if name.endswith("images.json"):
            results = json.loads(graph.nodes[name].outputs[-1].read_text())
            seed = int(name.split("/")[0].removeprefix("seed"))
            found += [Warned(text, name, seed) for attack in graph.nodes[name].attacks
                      for text in warned.of_row(results, attack)]
    return found


def mi_values(graph: Graph, kinds: dict[str, str]) -> tuple[dict, list[str]]:
    """{(kind, attack, value's name): {seed: MI}} of finished measurements, and the nodes behind them. A mean over no image is
    left out; the numbers of images have the name "n".

    kinds: {the kind of estimators: the measurement's node with "{seed}" in its name}."""
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
    """Over how many images the means are, in words."""
    numbers = sorted({n for (_, _, name), seeds in found.items() if name == "n" for n in seeds.values()})
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def lines(header: list[str], rows: list[list]) -> str:
    """As CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def spread(values: dict[int, float]) -> float:
    """The deviation over seeds; 0 for one."""
    return intervals.deviation(list(values.values())) or 0.0


def whiskers(each: Cell) -> tuple[float, float]:
    """How far a bar of accuracy reaches down and up: the deviation over seeds; for one, Wilson's interval over its images."""
    if each.deviation is not None:
        return each.deviation, each.deviation
    return (each.mean - each.interval[0], each.interval[1] - each.mean) if each.outcomes else (0.0, 0.0)


def figure2(graph: Graph):
    """The radar of three kinds of MI under five attacks on a naturally trained network."""
    kind = "estimators_max"
    found, sources = mi_values(graph, {kind: f"seed{{seed}}/natural/mi-{kind}.json"})
    means = {(value, attack): statistics.mean(found[kind, attack, value].values())
             for value in RADAR_SERIES for attack in RADAR if (kind, attack, value) in found}
    if len(means) < len(RADAR_SERIES) * len(RADAR):
        return None
    offset = min(means.values())
    figure, axis = plt.subplots(figsize=(5.4, 5.4), subplot_kw={"projection": "polar"}, layout="constrained")
    angles = [2 * math.pi * i / len(RADAR) for i in range(len(RADAR))]
    for i, (value, label) in enumerate(RADAR_SERIES.items()):
        radii = [means[value, attack] - offset for attack in RADAR]
        axis.plot([*angles, angles[0]], [*radii, radii[0]], label=label, color=COLOURS[i], linestyle=STYLES[i], marker="os^"[i])
    axis.set_theta_offset(math.pi / 2)
    axis.set_theta_direction(-1)
    axis.set_xticks(angles, [registry.parse(attack).label for attack in RADAR])
    axis.tick_params(axis="x", pad=12)
    axis.set_rlabel_position(180 / len(RADAR))
    axis.set_title("MI (nats), smallest value at 0", fontsize=10)
    figure.legend(loc="outside lower center", fontsize=8)
    rows = [[value, attack, seed, mi, found[kind, attack, "n"][seed]]
            for value in RADAR_SERIES for attack in RADAR for seed, mi in found[kind, attack, value].items()]
    what = ("MI in nats of the outputs for adversarial images with the whole image (standard MI), with the natural and with the "
            f"adversarial pattern: means over the {fooled(found)} images that an attack turns wrong, by estimators trained by "
            f"Eq. 4, of a naturally trained ResNet-18. {-offset:+.3g} nats is added to every value, so that the smallest is 0; "
            "the CSV file has the raw ones.")
    said = warned_images(graph, sources)
    header = ["value", "attack", "seed", "mi_nats", "images"]
    return figure, lines(header, rows), what, sources, said


def figure4(graph: Graph):
    """Natural and adversarial MI of natural and adversarial samples, by either kind of estimators."""
    found, sources = mi_values(graph, {kind: f"seed{{seed}}/linf/standard/mi-{kind}.json" for kind in ESTIMATORS})
    if not found:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
    rows, offsets = [], []
    for axis, (kind, title) in zip(axes, ESTIMATORS.items()):
        values = {(mi, sample): found.get((kind, "pgd-40", f"{mi}_mi_of_{sample}"), {})
                  for mi in BAR_SERIES for sample in BAR_SERIES}
        means = {key: statistics.mean(seeds.values()) for key, seeds in values.items() if seeds}
        offset = min(means.values(), default=0.0)
        for i, (sample, label) in enumerate(BAR_SERIES.items()):
            errors = [spread(values[mi, sample]) for mi in BAR_SERIES]
            bars(axis, i, 2, [means.get((mi, sample), math.nan) - offset for mi in BAR_SERIES], [errors, errors], label)
        axis.set_xticks(range(2), ["natural MI", "adversarial MI"])
        axis.set(title=title, ylabel="MI (nats), smallest value at 0")
        offsets.append(f"{-offset:+.3g} ({title})")
        rows += [[kind, f"{mi}_mi", sample, seed, value, found[kind, "pgd-40", "n"][seed]]
                 for (mi, sample), seeds in values.items() for seed, value in seeds.items()]
    axes[0].legend(fontsize=8)
    what = ("MI in nats of the outputs for natural and for adversarial images (PGD-40) with the natural and with the "
            f"adversarial pattern: means over the {fooled(found)} images that the attack turns wrong, of a ResNet-18 by standard "
            f"AT. Added to the values, so that the smallest is 0: {', '.join(offsets)} nats; the CSV file has the raw ones.")
    header = ["estimators", "value", "samples", "seed", "mi_nats", "images"]
    return figure, lines(header, rows), what, sources, warned_images(graph, sources)


def figure5(graph: Graph):
    """Standard AT, NAMID and its ablations under PGD and FWA."""
    ablations = {name: VARIANTS[name].label for name in ("namid_i", "namid_ii", "namid_iii")}
    runs = {"standard": DEFENSES["standard"].label, **ablations, "namid": DEFENSES["namid"].label}
    return accuracies(graph, runs, ("pgd-40", "fwa-40"), "Ablations (i) to (iii) of NAMID beside NAMID and standard AT.")


def figure7(graph: Graph):
    """NAMID with either kind of estimators."""
    runs = {"namid_max": ESTIMATORS["estimators_max"], "namid": ESTIMATORS["estimators"]}
    return accuracies(graph, runs, ("none", "pgd-40", "aa", "tidim"), "NAMID with either kind of estimators.")


def accuracies(graph: Graph, runs: dict[str, str], attacks: tuple[str, ...], what: str):
    """Bars of accuracy, a group for each attack, a bar for each network of `runs`, {name: label}."""
    cells: dict[tuple[str, str], Cell] = {(run, attack): cell(graph, f"seed{{seed}}/linf/{run}", "white", attack)
                                          for run in runs for attack in attacks}
    measured = [each for each in cells.values() if each.outcomes]
    if not measured:
        return None
    figure, axis = plt.subplots(figsize=(7.6, 3.9), layout="constrained")
    for i, (run, label) in enumerate(runs.items()):
        chosen = [cells[run, attack] for attack in attacks]
        heights = [math.nan if each.mean is None else each.mean for each in chosen]
        bars(axis, i, len(runs), heights, [list(side) for side in zip(*map(whiskers, chosen))], label,
             [each.state for each in chosen])
    images = {attack: sorted({n for run in runs for n in cells[run, attack].images}) for attack in attacks}
    axis.set_xticks(range(len(attacks)), [f"{registry.parse(attack).label}\nn = {listed(images[attack])}" for attack in attacks])
    axis.set(ylabel="accuracy (%)", ylim=(0, 100))
    figure.legend(loc="outside lower center", fontsize=8, ncols=2 if len(runs) > 2 else len(runs))
    rows = []
    for (run, attack), each in cells.items():
        texts = warned.seeds_of(each.warned)
        rows += [[run, attack, each.state, seed, value, len(each.outcomes[seed]),
                  "; ".join(text for text, seeds in texts.items() if seed in seeds)]
                 for seed, value in zip(each.outcomes, each.values)]
        rows += [] if each.outcomes else [[run, attack, each.state, *[""] * 4]]
    what += (" Accuracy in percent on test images; the whiskers are the deviation over the seeds, for one seed Wilson's 95 % "
             "interval over the images.")
    sources = [source for each in measured for source in each.sources]
    header = ["run", "attack", "state", "seed", "accuracy", "images", "warnings"]
    said = [text for each in measured for text in each.warned]
    return figure, lines(header, rows), what, sources, said


def bars(axis, number: int, of: int, heights: list[float], errors: list[list[float]], label: str,
         states: list[str] | None = None) -> None:
    """Draw series `number` of `of` as a bar in each group, with errors down and up; where a height is NaN, why stands there."""
    width = 0.8 / of
    places = [group + (number - (of - 1) / 2) * width for group in range(len(heights))]
    axis.bar(places, [0 if math.isnan(h) else h for h in heights], width * 0.92, yerr=errors if any(map(any, errors)) else None,
             capsize=2, label=label, color=COLOURS[number], hatch=HATCHES[number], edgecolor="black", linewidth=0.6,
             error_kw={"elinewidth": 0.8})
    for place, height, state in zip(places, heights, states or ["no value"] * len(heights)):
        if math.isnan(height):
            axis.text(place, 0.02, state, rotation=90, ha="center", va="bottom", fontsize=7, transform=axis.get_xaxis_transform())


TITLES = {"figure2": "three kinds of MI under five attacks", "figure4": "MI of natural and of adversarial samples",
          "figure5": "ablations", "figure7": "NAMID by either kind of estimators"}
DRAW = {"figure2": figure2, "figure4": figure4, "figure5": figure5, "figure7": figure7}


def save(figure, folder: Path, name: str) -> None:
    """As .png and .pdf; without a date the same numbers give the same file."""
    for suffix in ("png", "pdf"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=150, metadata={"CreationDate": None} if suffix == "pdf" else None)
    plt.close(figure)


def write_figures(graph: Graph) -> list[dict]:
    """Draw every figure that has something to show as .png and .pdf, with .csv and .json; their captions."""
    folder, written = graph.experiment.root / "figures", []
    folder.mkdir(exist_ok=True)
    for name, draw in DRAW.items():
        drawn = draw(graph)
        if drawn is None:
            continue
        figure, numbers, what, sources, said = drawn
        below = [note.line() for note in warned.notes(said)]
        save(figure, folder, name)
        write_text(folder / f"{name}.csv", numbers)
        evaluated = [json.loads(graph.nodes[source].outputs[-1].read_text())["n"] for source in sources
                     if source.endswith(".json") and not source.endswith("images.json")]
        text = caption(graph, what, sources, sorted(set(evaluated)), ["linf"])
        text += f" Warnings of the evaluations: {'; '.join(below)}." if below else ""
        content = {"name": name, "title": f"Figure {name[-1]}: {TITLES[name]}",
                   "sources": list(dict.fromkeys(sources)), "caption": text, "warnings": below}
        write_text(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
        written.append(content)
    return written
