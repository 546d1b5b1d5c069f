"""The paper's tables, measured: each cell beside the printed value, as plain values."""

from dataclasses import asdict, dataclass

from reproduction import warned
from reproduction.cells import WORST, Cell, cell, compare, in_order, worst_case
from reproduction.experiment import budget
from reproduction.graph import Graph
from reproduction.paper import DEFENSES, PAPER, TABLES
from reproduction.provenance import facts, listed, said_of_rows
from reproduction.scales import SCALES
from reproduction.warned import Note
from utils.attacks import registry

NORMS = {"linf": "Linf", "l2": "L2"}
COVERS = (
    "An interval over one seed covers other test images, not other trainings; one over "
    "several seeds covers both."
)
TITLES = {"white": "white box", "black": "black box, crafted on a VGG-19"}


@dataclass
class Half:
    """One box and norm of a table.

    columns: (attack, whether it counts at any norm). rows: {defense: its cells, in the order of
    the columns}.
    """

    box: str
    norm: str
    columns: list[tuple[str, bool]]
    rows: dict[str, list[Cell]]

    def column(self, number: int) -> dict[str, Cell]:
        """Return {defense: its cell} of a column."""
        return {name: cells[number] for name, cells in self.rows.items()}

    def heading(self, number: int, epsilon: float) -> str:
        """Return a column's heading: the attack, how it is counted, and the number of images."""
        attack, anywhere = self.columns[number]
        text = attack if attack == WORST else registry.parse(attack).label
        images = sorted({n for each in self.column(number).values() for n in each.images})
        if registry.kind_of(attack) == "minimum-norm":
            text += ", any norm" if anywhere else f", within {epsilon:g}"
        return text + (f" (n = {listed(images)})" if images else "")


def half(graph: Graph, box: str, norm: str) -> Half:
    """Collect the cells of one half of a table.

    The printed CW and DDN belong to the count at any norm. A white box has more columns than the
    paper: the attacks that know the estimators of a defense, and the worst case.
    """
    printed = PAPER[f"{box}_box_{norm}"][graph.experiment.nearest]
    columns = []
    for attack in registry.COLUMNS[norm]:
        if registry.parse(attack).kind == "minimum-norm":
            columns.append((attack, True))
        columns.append((attack, False))
    ours = (*registry.ADAPTIVE, WORST) if box == "white" else ()
    rows = {}
    for name in printed:
        run = f"seed{{seed}}/{norm}/{name}"
        rows[name] = [cell(graph, run, box, *column) for column in columns]
        for each in rows[name]:
            if each.anywhere or (each.attack, True) not in columns:
                each.printed = tuple(printed[name][each.attack])
        for attack in ours[:-1]:
            rows[name].append(cell(graph, run, box, attack))
            rows[name][-1].applies = DEFENSES[name].estimators is not None
        rows[name] += [worst_case(rows[name])] if ours else []
    columns += [(attack, False) for attack in ours]
    return Half(box, norm, columns, rows)


def caption(
    graph: Graph,
    what: str,
    sources: list[str],
    images: list[int],
    norms: list[str],
    epsilon: float | None = None,
) -> str:
    """Write what a reader must know beside the numbers.

    That is data, n, seeds, scale, budgets, epochs, alpha, hardware and date.

    Args:
        graph: the experiment's runs.
        what: the sentences that say what is shown.
        sources: the nodes behind the numbers.
        images: the numbers of test images.
        norms: "linf", "l2" or both.
        epsilon: the table's own budget; None: the experiment's.
    """
    experiment, known = graph.experiment, facts(graph, sources)
    scale = SCALES[experiment.scale]
    alpha = scale.alpha if experiment.alpha is None else experiment.alpha
    radii = {norm: budget(experiment, norm) if epsilon is None else epsilon for norm in norms}
    budgets = listed([f"{NORMS[norm]} {radius:.4g}" for norm, radius in radii.items()])
    settings = [
        f"{experiment.dataset}, scale {experiment.scale}",
        f"n = {listed(images)} test images",
        f"{experiment.seeds} seed{'s' * (experiment.seeds > 1)}",
        f"budget {budgets}",
        f"{listed(known['target'])} epochs",
    ]
    settings += [
        f"{kind} {listed(known[kind])} epochs"
        for kind in ("estimators", "surrogate")
        if known[kind]
    ]
    if alpha not in (None, 5) and any("/namid" in source for source in sources):
        settings.append(f"NAMID with alpha {alpha:g} instead of the paper's 5")
    texts = [what, "; ".join(settings) + "."]
    if known["surrogate accuracy"]:
        shares = listed([f"{share:.0f} %" for share in known["surrogate accuracy"]])
        texts.append(f"The surrogate gets {shares} of its held-out images right without an attack.")
    texts += [scale.shows] if experiment.scale != "full" else []
    texts += [experiment.data_note.rstrip(".") + "."] if experiment.data_note else []
    texts += [f"{listed(known['hardware'])}; {listed(known['dates'])}."]
    texts += said_of_rows(known)
    return " ".join(texts)


def table(graph: Graph, name: str) -> dict | None:
    """Return a table as plain values, for every format; None where nothing of it was run."""
    experiment = graph.experiment
    halves = [half(graph, *each) for each in TABLES[name]]
    measured = [
        each for one in halves for cells in one.rows.values() for each in cells if each.outcomes
    ]
    if not measured:
        return None
    sources = [source for each in measured for source in each.sources]
    same_data = experiment.nearest == experiment.dataset
    what = (
        "Accuracy in percent, mean ± deviation over the seeds (one seed: Wilson's 95 % "
        "interval over the images). Printed: the paper's, on "
        f"{experiment.nearest} with ResNet-18."
    )
    what += "" if same_data else " That is another data set, so no difference is taken."
    what += (
        " The printed order of a defense and its baseline holds, or is reversed, where the 95 % "
        "interval of their difference, paired by seed and image, leaves 0 out. " + COVERS
    )
    images = sorted({n for each in measured for n in each.images})
    norms = list(dict.fromkeys(one.norm for one in halves))
    about = f"{TITLES[halves[0].box]}, {listed([NORMS[norm] for norm in norms])}"
    return {
        "name": name,
        "title": f"Table {name[-1]}: {about}",
        "caption": caption(graph, what, sources, images, norms),
        "seeds": experiment.seeds,
        "halves": [_half_values(one, graph, same_data) for one in halves],
    }


def _half_values(one: Half, graph: Graph, same_data: bool) -> dict:
    """Return a half as plain values; same_data: whether the printed numbers are on its data."""
    experiment = graph.experiment
    epsilon, below = budget(experiment, one.norm), notes_of(one)
    rows = []
    for defense, cells in one.rows.items():
        row = {
            "defense": defense,
            "label": DEFENSES[defense].label,
            "sources": list(dict.fromkeys(source for each in cells for source in each.sources)),
            "cells": [_cell_values(each, experiment.seeds, same_data, below) for each in cells],
        }
        rows.append(row)
    orders = []
    for number, (attack, anywhere) in enumerate(one.columns):
        of_paper = attack in registry.COLUMNS[one.norm]  # the others have no printed values
        if of_paper and (anywhere or (attack, True) not in one.columns):
            column = one.column(number)
            order = {
                "attack": attack,
                "anywhere": anywhere,
                "comparisons": compare(column),
                "in_printed_order": in_order(column),
            }
            orders.append(order)
    return {
        "box": one.box,
        "norm": one.norm,
        "title": f"{NORMS[one.norm]}, {TITLES[one.box]}",
        "columns": [one.heading(number, epsilon) for number in range(len(one.columns))],
        "rows": rows,
        "orders": orders,
        "notes": [asdict(note) | {"line": note.line()} for note in below],
    }


def notes_of(one: Half) -> list[Note]:
    """Return the warnings of a half's cells, each once."""
    cells = [cell for row in one.rows.values() for cell in row]
    return warned.notes([each for cell in cells for each in cell.warned])


def _cell_values(each: Cell, seeds: int, same_data: bool, below: list[Note]) -> dict:
    """Return a cell as plain values, for a table of `seeds` seeds with the notes `below` it."""
    comparable = each.outcomes and each.printed and same_data
    return {
        "attack": each.attack,
        "anywhere": each.anywhere,
        "state": each.state,
        "text": each.text(seeds),
        "images": each.images,
        "seeds": list(each.outcomes),
        "diverged": each.diverged,
        "values": each.values,
        "mean": each.mean,
        "deviation": each.deviation,
        "interval": each.interval,
        "printed": each.printed,
        "difference": each.mean - each.printed[0] if comparable else None,
        "warnings": warned.seeds_of(each.warned),
        "marks": warned.marks(each.warned, below),
    }
