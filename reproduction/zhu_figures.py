"""Draw Figures 1 to 3 and the saliency maps of Zhu et al. 2020, with their numbers as CSV."""

import json
import statistics
from collections.abc import Iterator

import numpy

from common.array_files import read_archive
from common.files import write_csv, write_text
from reproduction import warned
from reproduction.figure_parts import save
from reproduction.graph import Graph
from reproduction.warned import Warned
from reproduction.zhu import IMAGES, PAPER, TRAININGS
from reproduction.zhu_tables import caption
from utils.mi.caps import fano_cap, printed_cap
from utils.plots import COLOURS, plt

MARKS = {"natural": "o", "robust-2": "^", "robust": "s"}
CLASSES = 10


def results(graph: Graph, file: str) -> dict[tuple[str, str], dict[int, dict]]:
    """Return {(architecture, training): {seed: the content of its finished results file}}."""
    found = {}
    for name in graph.nodes:
        run, _, last = name.rpartition("/")
        if last == file and graph.state(name) == "finished":
            seed, _, network = run.split("/")
            architecture = next(a for a in architectures(graph) if network.startswith(a))
            key = architecture, network.removeprefix(f"{architecture}-")
            content = json.loads(graph.nodes[name].outputs[-1].read_text())
            found.setdefault(key, {})[int(seed.removeprefix("seed"))] = content
    return found


def architectures(graph: Graph) -> tuple[str, ...]:
    """Return the architectures of the figures, baseline-h always among them."""
    return tuple(dict.fromkeys((*graph.scale.architectures, "baseline-h")))


def sources_of(graph: Graph, file: str) -> list[str]:
    """Return the finished nodes with a results file, and what they read."""
    nodes = [name for name in graph.nodes if name.endswith(f"/{file}")]
    done = [name for name in nodes if graph.state(name) == "finished"]
    return [each for name in done for each in (*graph.nodes[name].needs, name)]


def lines_of(found: dict) -> list[dict]:
    """Return a line for each network and seed, with the printed values beside the measured."""
    lines = []
    for (architecture, training), seeds in found.items():
        printed = PAPER["figures"][training].get(architecture, {})
        for seed, each in seeds.items():
            names = ("J1", "J2", "RV", "RV_sd", "adversarial_gap", "adversarial_accuracy")
            line = {"network": architecture, "training": training, "seed": seed}
            line |= {name: each[name] for name in (*names, "cap_percent", "cap_fano_percent")}
            lines.append(line | {f"printed_{name}": value for name, value in printed.items()})
    return lines


def figure1(graph: Graph):
    """Draw RV of the logits against adversarial gap, a mark for each network and seed."""
    found = results(graph, "vulnerability.json")
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    colours = dict(zip(architectures(graph), COLOURS))
    for (architecture, training), seeds in found.items():
        label = f"{architecture}, {TRAININGS[training][0]}"
        for number, each in enumerate(seeds.values()):
            axis.errorbar(
                each["RV"],
                100 * each["adversarial_gap"],
                xerr=each["RV_sd"],
                fmt=MARKS[training],
                color=colours[architecture],
                capsize=2,
                label=None if number else label,
            )
    axis.set(xlabel="RV of the logits (nats)", ylabel="adversarial gap (points)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    what = (
        "Representation vulnerability of the logits, J1 - J2, against adversarial gap (PGD-20). "
        "Whiskers: the deviation over the critics. J is what this class of critics sees: only "
        "equal critics, budgets and batches compare."
    )
    return figure, lines_of(found), what


def figure2(graph: Graph):
    """Draw J1 and J2 against adversarial accuracy, with both caps on it."""
    found = results(graph, "vulnerability.json")
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    worst = [each["J2"] for seeds in found.values() for each in seeds.values()]
    grid = numpy.linspace(min(0.0, *worst), max(2.3, *worst), 200)
    for number, (cap, label) in enumerate(((printed_cap, "printed"), (fano_cap, "Fano, whole"))):
        values = [100 * cap(value, CLASSES) for value in grid]
        style = {"color": "black", "linestyle": ("-", "--")[number]}
        axis.plot(grid, values, label=f"cap from J2, {label}", **style)
    colours = dict(zip(architectures(graph), COLOURS))
    for (architecture, training), seeds in found.items():
        label = f"{architecture}, {TRAININGS[training][0]}"
        for number, each in enumerate(seeds.values()):
            ends = [each["J2"], each["J1"]], 2 * [each["adversarial_accuracy"]]
            style = {"color": colours[architecture], "marker": MARKS[training], "linewidth": 0.8}
            axis.plot(*ends, label=None if number else label, **style)
    axis.set(xlabel="J2 (left end) and J1 (right end), nats", ylabel="adversarial accuracy (%)")
    axis.set_ylim(0, 102)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    what = (
        "J2 and J1 of the logits against adversarial accuracy (PGD-20), and the caps that follow "
        "from J2, as printed and with Fano's inequality kept whole. From estimates they certify "
        "nothing."
    )
    return figure, lines_of(found), what


def figure3(graph: Graph):
    """Draw J1, J2 and RV of single units of the second convolution, in the order of RV."""
    found = results(graph, "units.json")
    if not found:
        return None
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
    lines = []
    for number, ((_, training), seeds) in enumerate(found.items()):
        for seed, each in seeds.items():
            lines += [{"training": training, "seed": seed, **row} for row in each["units"]]
        for axis, name in zip(axes, ("J1", "J2", "RV")):
            values = sorted(row[name] for each in seeds.values() for row in each["units"])
            style = {"color": COLOURS[number], "marker": MARKS[training], "markersize": 3}
            label = f"{TRAININGS[training][0]}: mean {statistics.mean(values):.3f}"
            axis.plot(values, label=label, **style)
            axis.set(title=name, xlabel="unit, in this order", ylabel="nats")
            axis.legend(fontsize=7)
            axis.grid(alpha=0.3)
    what = (
        "Vulnerability of single units of the second convolution of Baseline-H: mutual "
        "information of a patch of 10x10 pixels and the unit's value, without (J1) and under "
        "attack (J2)."
    )
    return figure, lines, what


def saliency(graph: Graph):
    """Draw the gradient of the cross-entropy in the pixels of test images."""
    shown = [
        (graph.nodes[name].needs[0], graph.nodes[name].outputs[0])
        for name in graph.nodes
        if name.endswith("/saliency.json") and graph.state(name) == "finished"
    ]
    if not shown:
        return None
    figure, axes = plt.subplots(
        1 + len(shown), IMAGES, figsize=(1.5 * IMAGES, 1.7 * (1 + len(shown))), layout="constrained"
    )
    for row, (run, path) in enumerate(shown):
        content = read_archive(path, 2**30, "delete it, and it is measured again")
        images, maps = content["images"][:IMAGES], content["maps"][:IMAGES]
        for column, (image, gradient) in enumerate(zip(images, maps)):
            axes[0][column].imshow(image.transpose(1, 2, 0))
            size = numpy.abs(gradient).max(0)
            axes[1 + row][column].imshow(size / max(size.max(), 1e-30), cmap="gray")
        axes[1 + row][0].set_ylabel(run.replace("/zhu/", "\n"), fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    what = (
        "Saliency maps: the largest of the three channels of |gradient of the cross-entropy| in "
        "each pixel, scaled to the map's largest value."
    )
    return figure, [{"network": run} for run, _ in shown], what


DRAW = {
    "zhu-figure1": (figure1, "vulnerability.json", "vulnerability against adversarial gap"),
    "zhu-figure2": (figure2, "vulnerability.json", "J1, J2 and the caps"),
    "zhu-figure3": (figure3, "units.json", "single units"),
    "zhu-saliency": (saliency, "saliency.json", "saliency maps"),
}


def warnings_of(contents: dict[str, dict]) -> Iterator[Warned]:
    """Yield the warnings of results files, {node: content}."""
    for name, content in contents.items():
        seed, _, run = name.rpartition("/")[0].partition("/")
        for text in content.get("warnings", ()):
            yield Warned(text, run, int(seed.removeprefix("seed")))


def write(graph: Graph) -> list[dict]:
    """Draw every figure that has a value; return the contents of the .json files."""
    folder, written = graph.experiment.root / "figures", []
    folder.mkdir(exist_ok=True)
    for name, (draw, file, title) in DRAW.items():
        drawn = draw(graph)
        if drawn is None:
            continue
        figure, lines, what = drawn
        save(figure, folder, name)
        write_csv(folder / f"{name}.csv", lines)
        sources = list(dict.fromkeys(sources_of(graph, file)))
        measured = [each for each in sources if each.endswith(f"/{file}")]
        contents = {
            each: json.loads(graph.nodes[each].outputs[-1].read_text()) for each in measured
        }
        images = sorted({content["n"] for content in contents.values()})
        below = [note.line() for note in warned.notes(list(warnings_of(contents)))]
        text = caption(graph, what, sources, images)
        text += f" Warnings: {'; '.join(below)}." if below else ""
        number = f"Figure {name[-1]}" if name[-1].isdigit() else "Figures 4 to 6"
        content = {"name": name, "title": f"Zhu et al., {number}: {title}", "caption": text}
        content |= {"sources": sources, "warnings": below}
        write_text(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
        written.append(content)
    return written
