"""The tables of the information bottleneck: printed values, and those measured under the printed
attacks and under the panel, where an image is right only if no attack fools it.
"""

import csv
import io
import json
from dataclasses import dataclass

from common.files import write_text
from reproduction.bottleneck import (
    BETAS,
    CW,
    DEEPFOOL,
    FIGURES,
    NETWORKS,
    PRINTED,
    SCALES,
    TABLES,
    add,
    columns,
    scale_of,
)
from reproduction.experiment import Experiment
from reproduction.graph import Graph, Node
from reproduction.table_files import markdown_lines
from utils.evaluation import stored
from utils.evaluation.results import share

LABELS = {"ib": "IB", "ce": "CE", "ib_adv": "IB + adv.", "ce_adv": "CE + adv."}
RUNS = {"ib": "vib-0.001", "ce": "ce", "ib_adv": "vib-0.001-fgsm", "ce_adv": "ce-fgsm"}
HOW = (
    "Accuracy in percent, with Wilson's 95 % interval for one seed and the mean for several. "
    "printed: the paper's. its attacks: measured under the paper's attacks as far as it states "
    "them; DeepFool and CW at any norm, CW with a searched constant. panel: the images that are "
    "right under each of pgd-100x10, apgd-ce, apgd-t, square, grey and pgd-40 made on another "
    "network, at the same Linf budget. grey: what the grey image alone leaves; from Linf 0.5 on no "
    "classifier keeps more."
)


@dataclass
class Line:
    """A row of a table: its name, what it shows, a text for each column, and the run of seed 1."""

    name: str
    shows: str
    texts: list[str]
    source: str = ""


def rows_of(graph: Graph, name: str) -> dict[str, dict]:
    """Return the rows of an evaluation; {} where it is not finished."""
    if name not in graph.nodes or graph.state(name) != "finished":
        return {}
    return stored.rows(json.loads(graph.product(name).read_text()))


def counted(outcomes: list[str], anywhere: bool = False) -> tuple[int, int]:
    """Count the images that are robust under every attack, from the outcomes of each: (robust, n).

    anywhere: whether an image fooled outside of the budget counts as fooled.
    """
    letters = "r" if anywhere else "ro"
    together = list(zip(*outcomes))
    return sum(all(each in letters for each in image) for image in together), len(together)


def text(counts: list[tuple[int, int]]) -> str:
    """Return the text of a cell from the counts of each seed."""
    if not counts:
        return "not run"
    found = [share(*count) for count in counts]
    mean = sum(each["accuracy"] for each in found) / len(found)
    if len(found) > 1:
        return f"{mean:.1f} (of {len(found)} seeds)"
    low, high = found[0]["interval"]
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def measured(graph: Graph, run: str, attack: str, budget: float | None) -> dict[str, str]:
    """Return the cells of a network in a column: its attacks, the panel, and the grey image.

    run: the network's name with "{seed}". budget: Linf, scaled; None: any norm.
    """
    found: dict[str, list] = {"its attacks": [], "panel": [], "grey": []}
    for seed in range(1, graph.experiment.seeds + 1):
        name = run.format(seed=seed)
        label = "l2" if budget is None else f"{budget:g}"
        printed = rows_of(graph, f"{name}/printed-{label}.json")
        if attack in printed:
            outcomes = [printed[attack]["outcomes"]]
            found["its attacks"].append(counted(outcomes, attack in (DEEPFOOL, CW)))
        panel = rows_of(graph, f"{name}/panel-{label}.json")
        transfer = rows_of(graph, f"{name}/transfer-{label}.json")
        if panel and transfer:
            outcomes = [row["outcomes"] for row in (*panel.values(), *transfer.values())]
            found["panel"].append(counted(outcomes))
            found["grey"].append(counted([panel["grey"]["outcomes"]]))
    return {name: text(counts) for name, counts in found.items()}


def lines(graph: Graph, name: str, run: str, printed: list, table: str) -> list[Line]:
    """Return the rows of a network: printed, its attacks, panel and grey."""
    factor, cells = scale_of(graph.experiment.scale).epsilon, []
    for attack, budget in columns(table):
        if attack == "none":
            some = next(each for _, each in columns(table) if each is not None)
            cell = measured(graph, run, "none", factor * some)
            cells.append(cell | {"panel": "", "grey": ""})
            continue
        cell = measured(graph, run, attack, None if budget is None else factor * budget)
        cells.append(cell | ({"panel": "", "grey": ""} if budget is None else {}))
    found = [Line(name, "printed", [f"{value:.2f}" for value in printed], run.format(seed=1))]
    for shows in ("its attacks", "panel", "grey"):
        found.append(Line("", shows, [cell[shows] for cell in cells]))
    return found


def rates(graph: Graph, run: str) -> list[str]:
    """Return E R of the images of each attack in Table 1, in bits: the paper's I(X';T')."""
    node = f"{run.format(seed=1)}/plane"
    if node not in graph.nodes or graph.state(node) != "finished":
        return ["not run"] * len(PRINTED["table1"]["columns"])
    with open(graph.product(node), newline="") as file:
        return [f"{float(row['rate_bits_adversarial']):.1f} bits" for row in csv.DictReader(file)]


def table1(graph: Graph) -> list[Line]:
    """Return the rows of Table 1; each hardened network is trained by the column's own attack."""
    found = []
    attacks = [text.split()[0] for text in PRINTED["table1"]["columns"]]
    for beta in BETAS:
        printed = {part: PRINTED["table1"][part][f"{beta:g}"] for part in ("I_adv", "accuracy")}
        run = f"seed{{seed}}/ib/vib-{beta:g}"
        label = f"IB, beta {beta:g}"
        found += lines(graph, label, run, printed["accuracy"]["ib"], "ib-table1")
        found.append(Line("", "I(X';T') printed", [f"{x:.2f}" for x in printed["I_adv"]["ib"]]))
        found.append(Line("", "E R(x') measured", rates(graph, run)))
        own = [
            lines(graph, "", f"{run}-{attack}", printed["accuracy"]["ib_adv"], "ib-table1")
            for attack in attacks
        ]
        for number, line in enumerate(own[0]):
            texts = [each[number].texts[column] for column, each in enumerate(own)]
            name = f"IB + adv., beta {beta:g}" if number == 0 else ""
            found.append(Line(name, line.shows, texts, line.source))
        found.append(Line("", "I(X';T') printed", [f"{x:.2f}" for x in printed["I_adv"]["ib_adv"]]))
        diagonal = [rates(graph, f"{run}-{attack}")[i] for i, attack in enumerate(attacks)]
        found.append(Line("", "E R(x') measured", diagonal))
    return found


def table23(graph: Graph, table: str) -> list[Line]:
    """Return the rows of Table 2 or 3."""
    found = []
    for name in NETWORKS:
        printed = PRINTED[table.removeprefix("ib-")][name]
        found += lines(graph, LABELS[name], f"seed{{seed}}/ib/{RUNS[name]}", printed, table)
    return found


def ran(graph: Graph, name: str) -> bool:
    """Return whether a name is that of a run with something to show."""
    return name in graph.nodes and graph.ran(name)


def content_of(graph: Graph, table: str) -> dict:
    """Return a table as plain values: its rows, and the run that each network comes from."""
    scale = scale_of(graph.experiment.scale)
    named = PRINTED["table1"]["columns"] if table == "ib-table1" else PRINTED["columns23"]
    found = table1(graph) if table == "ib-table1" else table23(graph, table)
    note = f" {graph.experiment.data_note}." if graph.experiment.data_note else ""
    budgets = (
        f" Budgets are {scale.epsilon:g} times the printed ones." if scale.epsilon != 1 else ""
    )
    printed_on = "CIFAR-10" if table == "ib-table3" else "MNIST"
    where = f"Printed values are of {printed_on}, measured ones of {graph.experiment.dataset}."
    return {
        "name": table,
        "title": f"Information bottleneck, Table {table[-1]}: {graph.experiment.root.name}",
        "header": ["network", "", *named],
        "caption": f"{HOW} {where}{budgets} {scale.shows}{note}",
        "rows": [[line.name, line.shows, *line.texts] for line in found],
        "notes": [],
        "sources": {line.name: [line.source] for line in found if ran(graph, line.source)},
    }


def write(graph: Graph, table: str) -> dict:
    """Write a table as Markdown and CSV to the tables of an experiment; return its content."""
    content = content_of(graph, table)
    header, rows = content["header"], content["rows"]
    folder = graph.experiment.root / "tables"
    folder.mkdir(exist_ok=True)
    page = [f"# {content['title']}", "", content["caption"], "", *markdown_lines(header, rows), ""]
    write_text(folder / f"{table}.md", "\n".join(page))
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    write_text(folder / f"{table}.csv", stream.getvalue())
    return content


def write_measured(experiment: Experiment) -> tuple[list[dict], dict[str, Node]]:
    """Write the tables of an experiment of which an evaluation is finished.

    Returns their contents, and {name: node} of the targets of which something was run.
    """
    contents: list[dict] = []
    nodes: dict[str, Node] = {}
    if experiment.scale not in SCALES:
        return contents, nodes
    for target in (*TABLES, *FIGURES):
        graph = Graph(experiment)
        add(target, graph)
        nodes |= graph.nodes if any(map(graph.ran, graph.nodes)) else {}
        evaluations = [name for name, node in graph.nodes.items() if node.attacks]
        if target in TABLES and any(graph.state(name) == "finished" for name in evaluations):
            contents.append(write(graph, target))
    return contents, nodes


def finish(graph: Graph, target: str) -> list[str]:
    """Return the files of a target, to print."""
    root = graph.experiment.root
    if target in TABLES:
        return [str(root / "tables" / f"{target}.{suffix}") for suffix in ("md", "csv")]
    nodes = [node for node in graph.nodes.values() if node.analyzes]
    return [str(path) for node in nodes for path in node.outputs if path.is_file()]
