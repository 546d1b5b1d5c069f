"""The paper's tables, measured: each cell beside the printed value, and whether the printed order of the defenses holds."""
import csv
import io
import itertools
import json
import statistics
from dataclasses import asdict, dataclass, field

from common.files import write_text
from reproduction import intervals, warned
from reproduction.plan import DEFENSES, PAPER, TABLES, Graph, budget
from reproduction.provenance import facts, listed, said_of_rows
from reproduction.scales import SCALES
from reproduction.warned import Note, Warned
from utils.attacks import registry

NORMS = {"linf": "Linf", "l2": "L2"}
COVERS = ("An interval over one seed covers other test images, not other trainings; one over "
          "several seeds covers both.")
BASELINES = {"wmim": "standard", "namid": "standard", "namid_t": "trades", "namid_m": "mart"}  # what each adds MI to
TITLES = {"white": "white box", "black": "black box, crafted on a VGG-19"}


@dataclass
class Cell:
    """What was measured of one network under one attack, over the seeds. Accuracies in percent.

    anywhere: counted at any norm, as the paper counts CW and DDN. outcomes: {seed: right or not for each image}. sources: the
    nodes of the graph behind it. state: "measured", "diverged" (every seed that was run) or "not run".
    """

    attack: str
    anywhere: bool
    outcomes: dict[int, list[bool]] = field(default_factory=dict)
    diverged: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    printed: tuple[float, float] | None = None
    warned: list[Warned] = field(default_factory=list)

    @property
    def state(self) -> str:
        return "measured" if self.outcomes else "diverged" if self.diverged else "not run"

    @property
    def values(self) -> list[float]:
        return [100 * sum(right) / len(right) for right in self.outcomes.values()]

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.values) if self.outcomes else None

    @property
    def deviation(self) -> float | None:
        return intervals.deviation(self.values)

    @property
    def images(self) -> list[int]:
        """The numbers of images, one where the seeds agree."""
        return sorted({len(right) for right in self.outcomes.values()})

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the mean's: over the images for one seed, over seeds and images for several."""
        return intervals.of_a_mean(list(self.outcomes.values())) if self.outcomes else None

    def text(self, seeds: int) -> str:
        """For a table of `seeds` seeds."""
        if not self.outcomes:
            return self.state
        if len(self.outcomes) == 1:
            low, high = self.interval
            text = f"{self.mean:.1f} ({low:.1f} to {high:.1f})"
        else:
            text = f"{self.mean:.1f} ± {self.deviation:.1f}"
        lacking = [f"{len(self.outcomes)} of {seeds} seeds"] * (len(self.outcomes) < seeds)
        lacking += [f"{len(self.diverged)} diverged"] * bool(self.diverged)
        return text + (f" [{', '.join(lacking)}]" if lacking else "")


def cell(graph: Graph, run: str, box: str, attack: str, anywhere: bool = False) -> Cell:
    """The cell of the network `run`, a node's name with "{seed}" in it."""
    found = Cell(attack, anywhere)
    for seed in range(1, graph.experiment.seeds + 1):
        name = run.format(seed=seed)
        node = f"{name}/{box}{'-aa' if attack == 'aa' else ''}.json"
        state = graph.state(node) if node in graph.nodes else "not run"
        if state == "diverged":
            found.diverged.append(seed)
        elif state == "finished":
            results = json.loads(graph.product(node).read_text())
            row = results["attacks"][attack]
            found.warned += [Warned(text, run, seed) for text in warned.of_row(results, attack)]
            found.outcomes[seed] = [mark == "r" or (mark == "o" and not anywhere) for mark in row["standing"]]
            found.sources += [*graph.nodes[node].needs, node]
    return found


@dataclass
class Half:
    """One box and norm of a table: {defense: its cells, in the order of `columns`}; a column is (attack, at any norm)."""

    box: str
    norm: str
    columns: list[tuple[str, bool]]
    rows: dict[str, list[Cell]]

    def column(self, number: int) -> dict[str, Cell]:
        return {name: cells[number] for name, cells in self.rows.items()}

    def heading(self, number: int, epsilon: float) -> str:
        """Of a column: the attack, how it is counted, and the number of images."""
        attack, anywhere = self.columns[number]
        spec, images = registry.parse(attack), sorted({n for each in self.column(number).values() for n in each.images})
        text = spec.label
        if spec.kind == "minimum-norm":
            text += ", any norm" if anywhere else f", within {epsilon:g}"
        return text + (f" (n = {listed(images)})" if images else "")


def half(graph: Graph, box: str, norm: str) -> Half:
    """What there is of one half of a table. The printed CW and DDN stand by the count at any norm."""
    printed = PAPER[f"{box}_box_{norm}"][graph.experiment.nearest]
    columns = []
    for attack in registry.COLUMNS[norm]:
        if registry.parse(attack).kind == "minimum-norm":
            columns.append((attack, True))
        columns.append((attack, False))
    rows = {}
    for name in printed:
        rows[name] = [cell(graph, f"seed{{seed}}/{norm}/{name}", box, *column) for column in columns]
        for each in rows[name]:
            if each.anywhere or (each.attack, True) not in columns:
                each.printed = tuple(printed[name][each.attack])
    return Half(box, norm, columns, rows)


def paired(one: Cell, other: Cell) -> list[tuple[list[bool], list[bool]]]:
    """The outcomes of two networks on the same images, for each seed that has both."""
    return [(one.outcomes[seed], other.outcomes[seed]) for seed in one.outcomes if seed in other.outcomes
            and len(one.outcomes[seed]) == len(other.outcomes[seed])]


def compare(cells: dict[str, Cell]) -> list[dict]:
    """Of each defense with MI and its baseline in one column: the measured difference in points with its interval, paired by
    seed and image, the printed one, and whether the interval puts the sign beyond doubt."""
    found = []
    for name, baseline in BASELINES.items():
        if name not in cells or cells[name].printed is None:
            continue
        one, other = cells[name], cells[baseline]
        printed = one.printed[0] - other.printed[0]
        pairs = paired(one, other)
        row = {"defense": name, "baseline": baseline, "printed": round(printed, 2), "seeds": len(pairs), "difference": None,
               "interval": None, "verdict": "not run"}
        if pairs:
            difference, (low, high) = intervals.of_a_difference(pairs)
            least, most = (low, high) if printed > 0 else (-high, -low)  # in the printed direction
            row |= {"difference": difference, "interval": (low, high),
                    "verdict": "holds" if least > 0 else "reversed" if most < 0 else "not decided"}
        elif "diverged" in (one.state, other.state):
            row["verdict"] = "diverged"
        found.append(row)
    return found


def in_order(cells: dict[str, Cell]) -> tuple[int, int]:
    """Of the pairs of defenses of a column that were both measured, how many the means put in the printed order, and how many
    there are. A tie is not the printed order."""
    pairs = [(a, b) for a, b in itertools.combinations(cells.values(), 2) if a.outcomes and b.outcomes and a.printed]
    return sum((a.mean - b.mean) * (a.printed[0] - b.printed[0]) > 0 for a, b in pairs), len(pairs)


def caption(graph: Graph, what: str, sources: list[str], images: list[int], norms: list[str]) -> str:
    """What a reader must know beside the numbers: data, n, seeds, scale, budgets, epochs, alpha, hardware and date."""
    experiment, known = graph.experiment, facts(graph, sources)
    scale = SCALES[experiment.scale]
    alpha = scale.alpha if experiment.alpha is None else experiment.alpha
    budgets = listed([f"{NORMS[norm]} {budget(experiment, norm):.4g}" for norm in norms])
    settings = [f"{experiment.dataset}, scale {experiment.scale}", f"n = {listed(images)} test images",
                f"{experiment.seeds} seed{'s' * (experiment.seeds > 1)}", f"budget {budgets}",
                f"{listed(known['target'])} epochs"]
    settings += [f"{kind} {listed(known[kind])} epochs" for kind in ("estimators", "surrogate") if known[kind]]
    if alpha not in (None, 5) and any("/namid" in source for source in sources):
        settings.append(f"NAMID with alpha {alpha:g} in place of the paper's 5")
    texts = [what, "; ".join(settings) + "."]
    if known["surrogate accuracy"]:
        texts.append(f"The surrogate gets {listed([f'{share:.0f} %' for share in known['surrogate accuracy']])} of its held-out "
                     "images right without an attack.")
    texts += [scale.shows] if experiment.scale != "full" else []
    texts += [experiment.data_note.rstrip(".") + "."] if experiment.data_note else []
    texts += [f"{listed(known['hardware'])}; {listed(known['dates'])}."]
    texts += said_of_rows(known)
    return " ".join(texts)


def table(graph: Graph, name: str) -> dict | None:
    """A table as plain values, for JSON, Markdown, CSV and HTML; None where nothing of it was run."""
    experiment = graph.experiment
    halves = [half(graph, *each) for each in TABLES[name]]
    measured = [each for one in halves for cells in one.rows.values() for each in cells if each.outcomes]
    if not measured:
        return None
    sources = [source for each in measured for source in each.sources]
    same_data = experiment.nearest == experiment.dataset
    what = ("Accuracy in percent, mean ± deviation over the seeds (one seed: Wilson's 95 % "
            "interval over the images). Printed: the paper's, on "
            f"{experiment.nearest} with ResNet-18.")
    what += "" if same_data else " That is another data set, so no difference is taken."
    what += (" The printed order of a defense and its baseline holds, or is reversed, where the 95 % interval of their "
             "difference, paired by seed and image, leaves 0 out. " + COVERS)
    parts = []
    for one in halves:
        epsilon, below = budget(experiment, one.norm), notes_of(one)
        rows = [{"defense": defense, "label": DEFENSES[defense].label,
                 "sources": list(dict.fromkeys(source for each in cells for source in each.sources)),
                 "cells": [_plain(each, experiment.seeds, same_data, below) for each in cells]}
                for defense, cells in one.rows.items()]
        orders = [{"attack": attack, "anywhere": anywhere, "comparisons": compare(one.column(number)),
                   "in_printed_order": in_order(one.column(number))}
                  for number, (attack, anywhere) in enumerate(one.columns) if anywhere or (attack, True) not in one.columns]
        columns = [one.heading(number, epsilon) for number in range(len(one.columns))]
        parts.append({"box": one.box, "norm": one.norm, "title": f"{NORMS[one.norm]}, {TITLES[one.box]}", "columns": columns,
                      "rows": rows, "orders": orders,
                      "notes": [asdict(note) | {"line": note.line()} for note in below]})
    images = sorted({n for each in measured for n in each.images})
    norms = list(dict.fromkeys(one.norm for one in halves))
    return {"name": name, "title": f"Table {name[-1]}: {TITLES[halves[0].box]}, {listed([NORMS[norm] for norm in norms])}",
            "caption": caption(graph, what, sources, images, norms), "seeds": experiment.seeds, "halves": parts}


def notes_of(one: Half) -> list[Note]:
    """Return the warnings of a half's cells, each once."""
    cells = [cell for row in one.rows.values() for cell in row]
    return warned.notes([each for cell in cells for each in cell.warned])


def _plain(each: Cell, seeds: int, same_data: bool, below: list[Note]) -> dict:
    comparable = each.outcomes and each.printed and same_data
    return {"attack": each.attack, "anywhere": each.anywhere, "state": each.state, "text": each.text(seeds),
            "images": each.images, "seeds": list(each.outcomes), "diverged": each.diverged, "values": each.values,
            "mean": each.mean, "deviation": each.deviation, "interval": each.interval, "printed": each.printed,
            "difference": each.mean - each.printed[0] if comparable else None,
            "warnings": warned.seeds_of(each.warned), "marks": warned.marks(each.warned, below)}


def marked(each: dict) -> str:
    """Return a cell's text with the marks of its warnings."""
    return each["text"] + "".join(f" [{mark}]" for mark in each["marks"])


def body(part: dict) -> list[list[str]]:
    """The rows of a half as texts: for each defense what was measured, what was printed, and the difference."""
    rows = []
    for row in part["rows"]:
        cells = row["cells"]
        rows.append([row["label"], "measured", *map(marked, cells)])
        rows.append(["", "printed", *("{:.2f} ± {:.2f}".format(*each["printed"]) if each["printed"] else "" for each in cells)])
        if any(each["difference"] is not None for each in cells):
            rows.append(["", "difference",
                         *("" if each["difference"] is None else f"{each['difference']:+.1f}" for each in cells)])
    return rows


def orders(part: dict) -> tuple[list[str], list[list[str]]]:
    """The order of the defenses as (header, rows) of texts: for each defense and its baseline the difference that was measured,
    the printed one and the verdict, a column for each attack. No rows where no pair was measured."""
    def text(each):
        return each["verdict"] if each["difference"] is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(
            each["difference"], *each["interval"])

    header = ["comparison", "", *(registry.parse(column["attack"]).label + ", any norm" * column["anywhere"]
                                  for column in part["orders"])]
    rows = []
    for comparisons in zip(*(column["comparisons"] for column in part["orders"])):
        if any(each["difference"] is not None for each in comparisons):
            names = [DEFENSES[comparisons[0][role]].label for role in ("defense", "baseline")]
            rows.append([" less ".join(names), "measured", *map(text, comparisons)])
            rows.append(["", "printed", *(f"{each['printed']:+.2f}" for each in comparisons)])
            rows.append(["", "the order", *(each["verdict"] for each in comparisons)])
    if rows:
        counts = ("{} of {}".format(*column["in_printed_order"]) for column in part["orders"])
        rows.append(["pairs in the printed order", "", *counts])
    return header, rows


def markdown_lines(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table of texts."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def notes_below(lines: list[str]) -> list[str]:
    """Return the lines of a page that say what the marks of a table mean."""
    title = ["Warnings of the evaluations:", ""]
    return [*title, *(f"- {line}" for line in lines), ""] if lines else []


def markdown(content: dict) -> str:
    """The page of a table."""
    page = [f"# {content['title']}", "", content["caption"], ""]
    for part in content["halves"]:
        page += [f"## {part['title']}", "", *markdown_lines(["defense", "", *part["columns"]], body(part)), ""]
        page += notes_below([note["line"] for note in part["notes"]])
        header, rows = orders(part)
        page += [*markdown_lines(header, rows), ""] if rows else []
    return "\n".join(page)


def comma_separated(content: dict) -> str:
    """A line for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "box", "norm", "defense", "attack", "counted", "state", "seeds", "images", "mean", "deviation",
                     "low", "high", "printed_mean", "printed_deviation", "difference", "warnings"])
    for part in content["halves"]:
        for row in part["rows"]:
            for each in row["cells"]:
                numbers = [each["mean"], each["deviation"], *(each["interval"] or (None, None)),
                           *(each["printed"] or (None, None)), each["difference"]]
                writer.writerow([content["name"], part["box"], part["norm"], row["defense"], each["attack"],
                                 "any norm" if each["anywhere"] else "within the budget", each["state"], len(each["seeds"]),
                                 listed(each["images"]),
                                 *("" if number is None else f"{number:.4f}" for number in numbers),
                                 "; ".join(each["warnings"])])
    return text.getvalue()


def write_tables(graph: Graph) -> list[dict]:
    """Write every table that has a measured cell as .md, .csv and .json; the tables."""
    folder, written = graph.experiment.root / "tables", []
    folder.mkdir(exist_ok=True)
    for name in TABLES:
        content = table(graph, name)
        if content:
            write_text(folder / f"{name}.md", markdown(content))
            write_text(folder / f"{name}.csv", comma_separated(content))
            write_text(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
            written.append(content)
    return written
